//! Real trainings on simulated GPUs, which the fake NVML shows to the agent: a machine with an RTX 4090 and an RTX 5070.

use std::path::Path;

use serde_json::{Value, json};
use trainyard_proto::pb;
use trainyard_proto::pb::attempt::EndReason;
use trainyard_tests::cluster::{Cluster, PATIENCE};
use trainyard_tests::jobs::{epoch_end, tiny};
use trainyard_tests::process::{Process, is_alive};

const AGENT: &str = "workstation";
/// What an idle desktop takes of each GPU.
const IDLE_MIB: u64 = 200;

fn two_gpus() -> Value {
    let gpu = |name: &str, uuid: &str, memory: u64, capability: [u32; 2]| {
        json!({
            "name": name, "uuid": uuid, "memory_total_mib": memory, "memory_used_mib": IDLE_MIB,
            "compute_capability": capability,
        })
    };
    json!({"gpus": [
        gpu("NVIDIA GeForce RTX 4090", "GPU-4090", 24564, [8, 9]),
        gpu("NVIDIA GeForce RTX 5070", "GPU-5070", 12227, [12, 0]),
    ]})
}

/// A cluster with that machine; `more` are variables of its simulated GPUs.
async fn workstation(more: &[(&str, &str)]) -> (Cluster, Process) {
    workstation_under("fair", more).await
}

/// The same under another policy.
async fn workstation_under(policy: &str, more: &[(&str, &str)]) -> (Cluster, Process) {
    let cluster = Cluster::start_with_policy(policy).await.unwrap();
    cluster.show_gpus(AGENT, &two_gpus()).unwrap();
    let trainer = cluster.trainer_with_simulated_gpus(AGENT, &two_gpus(), more).unwrap();
    let folder = cluster.gpu_use(AGENT).display().to_string();
    let own = [
        ("TRAINYARD_AGENT__TRAINER", trainer.as_str()),
        ("SIMULATED_GPU_USE", folder.as_str()),
        ("TRAINYARD_AGENT__CHECKPOINT_UPLOAD_EVERY", "0s"),
    ];
    let agent = cluster.start_agent_with_gpus(AGENT, 0, &own).await.unwrap();
    (cluster, agent)
}

/// A job for any GPU, or for those of a model.
fn job(data: &Path, epochs: u32, model: &str) -> pb::JobSpec {
    let gpu_models = if model.is_empty() { Vec::new() } else { vec![model.to_owned()] };
    let resources = pb::Resources { gpu_models, ..Default::default() };
    let mut spec = pb::JobSpec { resources: Some(resources), ..tiny(data, epochs) };
    // The CPU's kernels are slow in 16 bits.
    spec.train.as_mut().unwrap().amp = Some(false);
    spec
}

#[tokio::test]
async fn two_jobs_train_side_by_side_and_the_agent_sees_the_memory_that_each_takes() {
    let (cluster, _agent) = workstation(&[]).await;
    let data = cluster.demo_data("shapes", 16, 4, 64).await.unwrap();
    let large = cluster.submit(job(&data, 20, "4090")).await.unwrap();
    let small = cluster.submit(job(&data, 20, "5070")).await.unwrap();
    for id in [&large, &small] {
        cluster.watch_until(id, |event| epoch_end(event).is_some()).await.unwrap();
    }
    let jobs = [cluster.job(&large).await.unwrap(), cluster.job(&small).await.unwrap()];
    assert_eq!(jobs[0].attempts[0].device, "NVIDIA GeForce RTX 4090");
    assert_eq!(jobs[1].attempts[0].device, "NVIDIA GeForce RTX 5070");

    // What libtorch's allocator took is what the agent reads, beyond what the desktop takes.
    let samples = async {
        let mut poll = tokio::time::interval(std::time::Duration::from_millis(100));
        let mut client = cluster.cluster_client().await.unwrap();
        loop {
            poll.tick().await;
            let request = pb::GetTelemetryRequest { agent: AGENT.into(), ..Default::default() };
            let samples = client.get_telemetry(request).await.unwrap().into_inner().samples;
            let in_use = |uuid: &str| {
                let of_gpu = samples.iter().filter(|sample| sample.gpu == uuid);
                of_gpu.filter_map(|sample| sample.memory_used_mib).max().unwrap_or(0)
            };
            if ["GPU-4090", "GPU-5070"].iter().all(|uuid| in_use(uuid) > IDLE_MIB) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, samples).await.expect("telemetry shows memory in use on both GPUs");
    for id in [&large, &small] {
        let (state, events) = cluster.watch_to_end(id).await.unwrap();
        assert_eq!(state, pb::JobState::Succeeded, "{events:?}");
    }
}

#[tokio::test]
async fn a_job_that_runs_out_of_memory_goes_on_smaller_and_one_whose_gpu_is_lost_goes_on_elsewhere() {
    // Far behind the self-test's convolutions, and in the middle of a job's.
    let fault = "aten::convolution_backward|1000|0|CUDA out of memory. Tried to allocate 20.00 MiB";
    let (cluster, _agent) = workstation(&[("SIMULATED_GPU_FAULT", fault)]).await;
    let data = cluster.demo_data("shapes", 16, 4, 64).await.unwrap();
    let id = cluster.submit(job(&data, 24, "")).await.unwrap();
    let told = |event: &pb::JobEvent| format!("{event:?}").contains("does not fit in the GPU's memory");
    cluster.watch_until(&id, told).await.unwrap();
    let first = cluster.job(&id).await.unwrap().attempts[0].device.clone();

    let mut gpus = two_gpus();
    for gpu in gpus["gpus"].as_array_mut().unwrap() {
        if gpu["name"] == json!(first) {
            gpu["lost"] = json!(true);
        }
    }
    cluster.show_gpus(AGENT, &gpus).unwrap();
    let (state, events) = cluster.watch_to_end(&id).await.unwrap();
    let job = cluster.job(&id).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{events:?}");
    let last = job.attempts.last().unwrap();
    assert!(job.attempts.len() > 1 && last.device != first, "{job:?}");
}

/// MiB that programs take of a GPU now, as their allocators say.
fn taken(cluster: &Cluster, uuid: &str) -> u64 {
    let files = std::fs::read_dir(cluster.gpu_use(AGENT)).unwrap().map(|entry| entry.unwrap().path());
    // Those of processes that have ended stay.
    let is_alive = |path: &std::path::PathBuf| {
        path.file_name().and_then(|name| name.to_str()?.parse().ok()).is_some_and(is_alive)
    };
    let text = files.filter(is_alive).map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let bytes = |line: &str| line.strip_prefix(uuid)?.trim().parse::<u64>().ok();
    text.flat_map(|text| text.lines().filter_map(bytes).collect::<Vec<_>>()).sum::<u64>() >> 20
}

#[tokio::test]
async fn a_job_makes_way_for_one_of_higher_priority_and_goes_on_and_yard_gpus_shows_the_memory_of_whoever_trains()
 {
    let (cluster, _agent) = workstation_under("finish-time", &[]).await;
    let data = cluster.demo_data("shapes", 16, 4, 64).await.unwrap();
    let endless = cluster.submit(job(&data, 100_000, "4090")).await.unwrap();
    cluster.watch_until(&endless, |event| epoch_end(event).is_some()).await.unwrap();
    let urgent = pb::JobSpec { priority: 10, ..job(&data, 12, "4090") };
    let urgent = cluster.submit(urgent).await.unwrap();
    cluster.watch_until(&urgent, |event| epoch_end(event).is_some()).await.unwrap();

    // What libtorch's allocator has taken of the GPU, and no more than that, is not free.
    let agreed = async {
        let mut poll = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            poll.tick().await;
            let before = taken(&cluster, "GPU-4090");
            let (code, shown, error) = cluster.yard(&["gpus", "-o", "json"]).await.unwrap();
            assert_eq!(code, 0, "{error}");
            let shown: Value = serde_json::from_str(&shown).unwrap();
            let mut gpus = shown["gpus"].as_array().unwrap().iter();
            let gpu = gpus.find(|gpu| gpu["uuid"] == json!("GPU-4090")).unwrap();
            // 64 bits are a text in JSON.
            let free: u64 = gpu["memoryFreeMib"].as_str().unwrap().parse().unwrap();
            if before > 0 && before == taken(&cluster, "GPU-4090") && free == 24564 - IDLE_MIB - before {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, agreed).await.expect("`yard gpus` shows what the allocator has taken");

    let (state, events) = cluster.watch_to_end(&urgent).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{events:?}");
    let goes_on = |event: &pb::JobEvent| event.attempt == 2 && epoch_end(event).is_some();
    cluster.watch_until(&endless, goes_on).await.unwrap();
    let request = pb::CancelJobRequest { job_id: endless.clone() };
    cluster.jobs().await.unwrap().cancel_job(request).await.unwrap();
    let (_, events) = cluster.watch_to_end(&endless).await.unwrap();
    let attempts = cluster.job(&endless).await.unwrap().attempts;
    let reasons: Vec<EndReason> = attempts.iter().map(pb::Attempt::end_reason).collect();
    assert_eq!(reasons, [EndReason::Preempted, EndReason::Cancelled], "{attempts:?}");
    // It went on after the epochs that it had done, and trained none of them twice.
    let epochs: Vec<u32> = events.iter().filter_map(epoch_end).collect();
    assert!(epochs.iter().copied().eq(1..=u32::try_from(epochs.len()).unwrap()), "{epochs:?}");
}
