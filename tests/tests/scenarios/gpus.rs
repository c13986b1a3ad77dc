//! GPUs that a stand-in for NVIDIA's library describes: what the agent makes of them, and where jobs go.

use std::fs;
use std::path::Path;
use std::process::Command;

use trainyard_proto::pb;
use trainyard_tests::cluster::{Cluster, run};
use trainyard_tests::jobs::tiny;
use trainyard_tests::process::binary;

/// There is no GPU behind the stand-in: a trainer that says so, and that its job is to blame.
const TRAINER: &str = r#"while [ $# -gt 0 ]; do
  case $1 in
    --events-fd) fd=$2; shift;;
  esac
  shift
done
printf '{"v":1,"time":5,"type":"failed","message":"there is no GPU"}\n' >"/proc/self/fd/$fd"
exit 64
"#;

const GPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fake-nvml/gpus.json");

fn gpus() -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(GPUS).unwrap()).unwrap()
}

#[tokio::test]
async fn each_gpu_gets_the_batch_size_of_its_nominal_memory() {
    let mut agent = Command::new(binary("trainyard-agent").unwrap());
    let library = binary("libfake_nvml.so").unwrap();
    agent.args(["--nvml-library", library.to_str().unwrap(), "batch-table"]).env("FAKE_NVML_STATE", GPUS);
    let (code, table, error) = run(&mut agent).await.unwrap();
    assert_eq!(code, 0, "{error}");
    let sizes = |gpu: &str| -> Vec<u32> {
        let line =
            table.lines().find(|line| line.contains(gpu)).unwrap_or_else(|| panic!("no {gpu} in:\n{table}"));
        line.split_whitespace()
            .rev()
            .take(6)
            .map(|word| word.parse().unwrap())
            .collect::<Vec<u32>>()
            .into_iter()
            .rev()
            .collect()
    };
    // At 320, 416, 512, 640, 1024 and 1280 pixels.
    assert_eq!(sizes("RTX 4090"), [64, 64, 32, 32, 16, 10]);
    assert_eq!(sizes("RTX 5070"), [48, 48, 24, 24, 12, 7]);
    assert_eq!(sizes("RTX 4060"), [32, 32, 16, 16, 8, 5]);
}

#[tokio::test]
async fn a_job_lands_on_the_smallest_gpu_that_fits_and_says_so_in_the_log() {
    let cluster = Cluster::start().await.unwrap();
    cluster.show_gpus("gpus", &gpus()).unwrap();
    let trainer = cluster.pretend(TRAINER).unwrap();
    let variables = [("TRAINYARD_AGENT__TRAINER", trainer.as_str())];
    let _agent = cluster.start_agent_with_gpus("gpus", 0, &variables).await.unwrap();
    let gpus = cluster.agent("gpus").await.unwrap().gpus;
    let totals: Vec<u64> = gpus.iter().map(|gpu| gpu.memory_total_mib).collect();
    assert_eq!(totals, [24564, 12227, 8188]);

    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let on =
        |resources: pb::Resources| pb::JobSpec { resources: Some(resources), ..tiny(Path::new(&data), 1) };
    let wishes = [
        (pb::Resources { min_vram_mib: 10_000, ..Default::default() }, "NVIDIA GeForce RTX 5070"),
        (pb::Resources { gpu_models: vec!["4090".into()], ..Default::default() }, "NVIDIA GeForce RTX 4090"),
        (pb::Resources::default(), "NVIDIA GeForce RTX 4060"),
    ];
    for (resources, gpu) in wishes {
        let job = cluster.submit(on(resources)).await.unwrap();
        let (state, events) = cluster.watch_to_end(&job).await.unwrap();
        assert_eq!(state, pb::JobState::Failed);
        let job = cluster.job(&job).await.unwrap();
        assert_eq!(job.attempts[0].device, gpu);
        assert!(format!("{events:?}").contains(&format!("GPU: {gpu}")), "{events:?}");
    }

    // A share of the GPU instead of the table: (0.7 * 12227 MiB - 800) / 130 are 59, which is 48 on the ladder.
    let mut share = on(pb::Resources { gpu_models: vec!["5070".into()], ..Default::default() });
    let train = share.train.as_mut().unwrap();
    (train.batch, train.imgsz) = (Some(0.7), Some(640));
    let job = cluster.submit(share).await.unwrap();
    cluster.watch_to_end(&job).await.unwrap();
    let chosen = cluster.job(&job).await.unwrap().attempts[0].batch_chosen.clone().unwrap();
    let layers: Vec<(&str, u32)> =
        chosen.layers.iter().map(|layer| (layer.name.as_str(), layer.batch_size)).collect();
    assert_eq!(layers, [("asked for", 64), ("model", 48), ("memory free now", 48), ("fit record", 48)]);

    let impossible = pb::Resources { min_vram_mib: 48_000, ..Default::default() };
    let job = cluster.submit(on(impossible)).await.unwrap();
    let waiting = cluster.job(&job).await.unwrap().waiting_for;
    assert!(waiting.contains("24"), "it names the largest GPU there is: {waiting}");
}

#[tokio::test]
async fn gpus_that_answer_only_later_take_jobs_without_a_restart_of_their_agent() {
    let cluster = Cluster::start().await.unwrap();
    let put = |broken: bool| {
        let mut gpus = gpus();
        gpus["unknown_error"] = broken.into();
        cluster.show_gpus("broken", &gpus).unwrap();
    };
    put(true);
    let trainer = cluster.pretend(TRAINER).unwrap();
    let variables = [("TRAINYARD_AGENT__TRAINER", trainer.as_str())];
    let _agent = cluster.start_agent_with_gpus("broken", 0, &variables).await.unwrap();
    let agent = cluster.agent("broken").await.unwrap();
    assert!(agent.gpus.is_empty() && agent.unavailable.contains("Unknown Error"), "{agent:?}");
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let resources = Some(pb::Resources::default());
    let job = cluster.submit(pb::JobSpec { resources, ..tiny(Path::new(&data), 1) }).await.unwrap();
    put(false);
    // It starts there; that there is no GPU behind the stand-in is the trainer's to say.
    cluster.watch_to_end(&job).await.unwrap();
    assert_eq!(cluster.job(&job).await.unwrap().attempts[0].agent_name, "broken");
    let agent = cluster.agent("broken").await.unwrap();
    assert!(agent.gpus.len() == 3 && agent.unavailable.is_empty(), "{agent:?}");
}

#[tokio::test]
async fn a_gpu_on_which_the_trainer_cannot_do_one_step_takes_no_jobs() {
    let cluster = Cluster::start().await.unwrap();
    cluster.show_gpus("gpus", &gpus()).unwrap();
    // The trainer is the real one, and there is no GPU behind the stand-in.
    let _agent = cluster.start_agent_with_gpus("gpus", 1, &[]).await.unwrap();
    let agent = cluster.agent("gpus").await.unwrap();
    for gpu in &agent.gpus {
        let closed = gpu.unavailable.as_ref().unwrap();
        assert_eq!(closed.cause(), pb::unavailable::Cause::SelfTest, "{closed:?}");
        assert!(closed.message.contains("self-test failed"), "{closed:?}");
    }
    assert!(agent.cpu_slots[0].unavailable.is_none(), "the processor is well: {agent:?}");
}
