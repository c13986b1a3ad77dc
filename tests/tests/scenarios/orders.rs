//! Machines that people take out of use: what runs there goes on elsewhere, and nobody forgets the order.

use std::path::Path;

use serde_json::Value;
use trainyard_proto::pb;
use trainyard_proto::pb::attempt::EndReason;
use trainyard_tests::cluster::Cluster;
use trainyard_tests::jobs::{assert_gapless, epoch_end, is_running, tiny};

const GPUS: &str = r#"{"gpus": [
    {"name": "NVIDIA GeForce RTX 4090", "uuid": "GPU-a", "memory_total_mib": 24564, "compute_capability": [8, 9]},
    {"name": "NVIDIA GeForce RTX 4090", "uuid": "GPU-b", "memory_total_mib": 24564, "compute_capability": [8, 9]}
]}"#;

/// Trains for ever; told to stop, it says that there is a checkpoint.
const TRAINER: &str = r#"[ "$1" = train ] || exit 64
while [ $# -gt 0 ]; do
  case $1 in --events-fd) fd=$2; shift;; esac
  shift
done
trap 'exit 75' TERM
printf '%s\n' '{"v":1,"time":5,"type":"started","parameters":1,"train_images":1,"val_images":1,"classes":[],"epochs":9,"batch_size":8,"first_epoch":1,"device":"cuda:0","precision":"bf16","libtorch":"2.13.0"}' > "/proc/self/fd/$fd"
while :; do sleep 1 & wait $!; done
"#;

/// `yard` must do it; its answer as JSON.
async fn yard(cluster: &Cluster, arguments: &[&str]) -> Value {
    let (code, out, error) = cluster.yard(&[arguments, &["-o", "json"]].concat()).await.unwrap();
    assert_eq!(code, 0, "yard {arguments:?}: {error}");
    serde_json::from_str(&out).unwrap()
}

async fn kill_scheduler(cluster: &mut Cluster) {
    drop(cluster.scheduler.take());
    cluster.start_scheduler().await.unwrap();
}

/// Waits until the agent has connected to the scheduler that is there now.
async fn connected(cluster: &Cluster, name: &str) -> pb::Agent {
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(50));
    loop {
        poll.tick().await;
        let agent = cluster.agent(name).await.unwrap();
        if agent.state() == pb::AgentState::Connected {
            return agent;
        }
    }
}

/// At least so many samples of GPU 0, once they are there.
async fn samples(cluster: &Cluster, count: usize) -> Vec<pb::TelemetrySample> {
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(50));
    loop {
        poll.tick().await;
        let request = pb::GetTelemetryRequest { agent: "lab".into(), gpu: "0".into(), ..Default::default() };
        let mut client = cluster.cluster_client().await.unwrap();
        let samples = client.get_telemetry(request).await.unwrap().into_inner().samples;
        if samples.len() >= count {
            return samples;
        }
    }
}

#[tokio::test]
async fn a_drained_agents_job_resumes_elsewhere_and_a_killed_scheduler_remembers_the_drain() {
    let mut cluster = Cluster::start_patient().await.unwrap();
    let _east = cluster.start_agent("east", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 16, 8, 64).await.unwrap();
    let job = cluster.submit(tiny(&data, 1000)).await.unwrap();
    cluster.watch_until(&job, |event| epoch_end(event) == Some(2)).await.unwrap();
    let _west = cluster.start_agent("west", 1).await.unwrap();

    assert_eq!(yard(&cluster, &["drain", "east"]).await["drained"], true);
    kill_scheduler(&mut cluster).await;
    let of_second = |event: &pb::JobEvent| (event.attempt == 2).then(|| epoch_end(event)).flatten();
    let events = cluster.watch_until(&job, |event| of_second(event).is_some()).await.unwrap();
    assert_gapless(&events);
    let last_there =
        events.iter().filter(|event| event.attempt == 1).filter_map(epoch_end).next_back().unwrap();
    let first_here = events.iter().find_map(of_second).unwrap();
    assert_eq!(first_here, last_there + 1, "it goes on where it stopped");
    let shown = cluster.job(&job).await.unwrap();
    assert_eq!(shown.attempts[0].end_reason(), EndReason::Drained);
    assert_eq!(shown.attempts[1].agent_name, "west");

    // Nothing comes to the drained one, whoever schedules, until it is resumed.
    let next = cluster.submit(tiny(&data, 1)).await.unwrap();
    assert!(connected(&cluster, "east").await.drained);
    let waiting = cluster.job(&next).await.unwrap();
    assert_eq!(waiting.state(), pb::JobState::Queued, "{waiting:?}");
    assert_eq!(yard(&cluster, &["resume", "east"]).await["drained"], false);
    cluster.watch_until(&next, is_running).await.unwrap();
    assert_eq!(cluster.job(&next).await.unwrap().attempts[0].agent_name, "east");
    yard(&cluster, &["cancel", &job]).await;
}

#[tokio::test]
async fn a_reserved_gpu_is_left_remembered_and_given_back() {
    let mut cluster = Cluster::start_patient().await.unwrap();
    cluster.show_gpus("lab", &serde_json::from_str(GPUS).unwrap()).unwrap();
    let trainer = cluster.pretend(TRAINER).unwrap();
    let variables = [("TRAINYARD_AGENT__TRAINER", trainer.as_str())];
    let _agent = cluster.start_agent_with_gpus("lab", 0, &variables).await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let spec = || pb::JobSpec { resources: None, ..tiny(Path::new(&data), 9) };
    let job = cluster.submit(spec()).await.unwrap();
    cluster.watch_until(&job, is_running).await.unwrap();
    let reserved = yard(&cluster, &["agents", "reserve", "lab", "--gpu", "0", "--for", "1h"]).await;
    assert!(reserved["gpus"][0]["reservedUntil"].is_string(), "{reserved}");
    let second = |event: &pb::JobEvent| event.attempt == 2 && is_running(event);
    cluster.watch_until(&job, second).await.unwrap();
    let shown = cluster.job(&job).await.unwrap();
    assert_eq!(shown.attempts[0].end_reason(), EndReason::Preempted);
    let on: Vec<&str> = shown.attempts.iter().map(|attempt| attempt.gpu_uuid.as_str()).collect();
    assert_eq!(on, ["GPU-a", "GPU-b"]);

    // Meanwhile the agent tells what its GPUs do, and a scheduler that dies takes none of it along.
    let told = samples(&cluster, 1).await;
    assert!(
        told.iter().all(|sample| sample.gpu == "GPU-a" && sample.temperature_celsius == Some(40)),
        "{told:?}"
    );
    kill_scheduler(&mut cluster).await;
    assert_eq!(samples(&cluster, told.len()).await[..told.len()], told);
    let agent = connected(&cluster, "lab").await;
    assert!(agent.gpus[0].reserved_until.is_some() && agent.gpus[1].reserved_until.is_none(), "{agent:?}");
    let next = cluster.submit(spec()).await.unwrap();
    let waiting = cluster.job(&next).await.unwrap();
    assert_eq!(waiting.state(), pb::JobState::Queued, "{waiting:?}");
    let shown = yard(&cluster, &["gpus"]).await;
    assert!(shown["gpus"][0]["reservedUntil"].is_string(), "{shown}");
    let released = yard(&cluster, &["agents", "release", "lab"]).await;
    assert!(released["gpus"][0].get("reservedUntil").is_none_or(Value::is_null), "{released}");
    cluster.watch_until(&next, is_running).await.unwrap();
    assert_eq!(cluster.job(&next).await.unwrap().attempts[0].gpu_uuid, "GPU-a");
}

#[tokio::test]
async fn a_job_on_the_processor_is_told_what_bounds_it() {
    let cluster = Cluster::start_patient().await.unwrap();
    let _agent = cluster.start_agent("bench", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 16, 8, 64).await.unwrap();
    let job = cluster.submit(tiny(&data, 3)).await.unwrap();
    let (state, _) = cluster.watch_to_end(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded);
    let diagnosis = yard(&cluster, &["why-slow", &job]).await;
    let bound = diagnosis["bound"].as_str().unwrap();
    assert!(["CARD", "LOADER", "DATA_TOO_SMALL"].contains(&bound), "{diagnosis}");
    for list in ["findings", "advice"] {
        assert!(!diagnosis[list].as_array().unwrap().is_empty(), "{diagnosis}");
    }
    assert!(diagnosis["figures"]["images_per_second"].as_f64().unwrap() > 0.0, "{diagnosis}");
    let (code, text, _) = cluster.yard(&["why-slow", &job]).await.unwrap();
    assert!(code == 0 && text.contains("What was seen:\n- It trains "), "{text}");
}
