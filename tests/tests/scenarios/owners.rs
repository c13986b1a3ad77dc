//! GPUs that are taken away from a job: by their owner, and by a failure. The job goes on elsewhere from its
//! checkpoint. GPUs are those of a stand-in for NVIDIA's library; trainers only pretend.

use std::fs;

use serde_json::{Value, json};
use trainyard_proto::pb;
use trainyard_proto::pb::attempt::EndReason;
use trainyard_proto::pb::job_event::Event;
use trainyard_proto::pb::unavailable::Cause;
use trainyard_tests::cluster::Cluster;
use trainyard_tests::jobs::tiny;
use trainyard_tests::process::Process;

/// Trains until it is told to stop, and finishes if it finds a checkpoint.
const TRAINER: &str = r#"[ "$1" = train ] || exit 64
while [ $# -gt 0 ]; do
  case $1 in
    --events-fd) fd=$2; shift;;
    --run-dir) run=$2; shift;;
  esac
  shift
done
tell() { printf '{"v":1,"time":5,%s}\n' "$1" >"/proc/self/fd/$fd"; }
saved=$run/checkpoints/step-00000001
save() {
  mkdir -p "$saved"
  echo weights >"$saved/model.safetensors"
  tell '"type":"checkpoint","step":1,"epoch":1,"path":"checkpoints/step-00000001"'
}
if [ -e "$saved/model.safetensors" ]; then
  mkdir -p "$run/weights"
  cp "$saved/model.safetensors" "$run/weights/best.safetensors"
  tell '"type":"finished","best_epoch":1,"metrics":{},"artifacts":["weights/best.safetensors"]'
  exit 0
fi
trap 'save; exit 75' TERM
[ -e "$0.saves-early" ] && save
tell '"type":"log","level":"info","message":"training"'
while :; do sleep 0.1; done
"#;

/// A cluster whose agents have one GPU each.
struct Lab {
    cluster: Cluster,
    trainer: String,
}

impl Lab {
    async fn new() -> Self {
        let cluster = Cluster::start().await.unwrap();
        let trainer = cluster.pretend(TRAINER).unwrap();
        Self { cluster, trainer }
    }

    /// Sets what the GPU of `agent` does, on top of what an idle one does.
    fn gpu(&self, agent: &str, does: &Value) {
        let mut gpu = json!({
            "name": "NVIDIA GeForce RTX 4090", "uuid": format!("GPU-{agent}"), "memory_total_mib": 24564,
            "memory_used_mib": 300, "compute_capability": [8, 9],
        });
        gpu.as_object_mut().unwrap().extend(does.as_object().unwrap().clone());
        self.cluster.show_gpus(agent, &json!({"gpus": [gpu]})).unwrap();
    }

    async fn agent(&self, name: &str, guest: bool) -> Process {
        self.gpu(name, &json!({}));
        let variables = [
            ("TRAINYARD_AGENT__TRAINER", self.trainer.as_str()),
            ("TRAINYARD_AGENT__GUEST__ENABLED", if guest { "true" } else { "false" }),
            ("TRAINYARD_AGENT__CHECKPOINT_UPLOAD_EVERY", "0s"),
        ];
        self.cluster.start_agent_with_gpus(name, 0, &variables).await.unwrap()
    }

    /// Submits a job that forgives no crash; returns it once it trains.
    async fn train(&self) -> String {
        let data = self.cluster.data_root().join("data.yaml");
        fs::write(&data, "names: [a]\n").unwrap();
        let (resources, max_retries) = (Some(pb::Resources::default()), Some(0));
        let spec = pb::JobSpec { resources, max_retries, ..tiny(&data, 1) };
        let job = self.cluster.submit(spec).await.unwrap();
        let trains = |event: &pb::JobEvent| matches!(&event.event, Some(Event::LogLine(log)) if log.message == "training");
        self.cluster.watch_until(&job, trains).await.unwrap();
        job
    }
}

#[tokio::test]
async fn a_job_leaves_a_gpu_whose_owner_comes_back_and_goes_on_elsewhere() {
    let lab = Lab::new().await;
    let _desk = lab.agent("desk", true).await;
    let job = lab.train().await;
    let _rack = lab.agent("rack", false).await;
    let owner = json!([{"pid": std::process::id(), "memory_mib": 9000}]);
    lab.gpu("desk", &json!({"memory_used_mib": 9300, "graphics_processes": owner}));
    let (state, _) = lab.cluster.watch_to_end(&job).await.unwrap();
    let job = lab.cluster.job(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{job:?}");
    let attempts: Vec<_> =
        job.attempts.iter().map(|attempt| (attempt.agent_name.as_str(), attempt.end_reason())).collect();
    assert_eq!(attempts, [("desk", EndReason::Preempted), ("rack", EndReason::Completed)]);
    assert!(job.attempts[0].message.contains("its owner uses it"), "{}", job.attempts[0].message);
    let gpu = &lab.cluster.agent("desk").await.unwrap().gpus[0];
    let why = gpu.unavailable.clone().unwrap();
    assert_eq!(why.cause(), Cause::Owner);
    assert!(why.message.contains("9000 MiB"), "{}", why.message);
}

#[tokio::test]
async fn a_job_moves_off_a_gpu_that_falls_off_the_bus_and_is_not_blamed() {
    let lab = Lab::new().await;
    fs::write(lab.cluster.path("trainer.saves-early"), "").unwrap();
    let _first = lab.agent("first", false).await;
    let job = lab.train().await;
    let _second = lab.agent("second", false).await;
    lab.gpu("first", &json!({"xids": [79], "lost": true}));
    let (state, _) = lab.cluster.watch_to_end(&job).await.unwrap();
    let job = lab.cluster.job(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{job:?}");
    let attempts: Vec<_> =
        job.attempts.iter().map(|attempt| (attempt.agent_name.as_str(), attempt.end_reason())).collect();
    assert_eq!(attempts, [("first", EndReason::GpuFault), ("second", EndReason::Completed)]);
    let gpu = &lab.cluster.agent("first").await.unwrap().gpus[0];
    assert_eq!(gpu.unavailable.clone().unwrap().cause(), Cause::Quarantined);

    // Its owner has seated it anew, and says so.
    lab.gpu("first", &json!({}));
    let (code, _, error) = lab.cluster.yard(&["agents", "clear", "first", "0"]).await.unwrap();
    assert_eq!(code, 0, "{error}");
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(50));
    while lab.cluster.agent("first").await.unwrap().gpus[0].unavailable.is_some() {
        poll.tick().await;
    }
}
