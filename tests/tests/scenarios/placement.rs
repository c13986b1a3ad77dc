//! Where jobs go on a live cluster of two machines with GPUs of different worth, why, and what was expected.
//! GPUs are those of a stand-in for NVIDIA's library; trainers only pretend, and tell how fast they are.

use std::fs;
use std::process::Command;

use serde_json::json;
use trainyard_proto::pb;
use trainyard_proto::pb::attempt::EndReason;
use trainyard_tests::cluster::{Cluster, run};
use trainyard_tests::jobs::{epoch_end, tiny};
use trainyard_tests::process::{Process, binary};

/// Tells two epochs at its GPU's speed; then does what the test says by files beside it, named after the job's
/// epochs: writes a checkpoint of the next epoch, or finishes.
const TRAINER: &str = r#"[ "$1" = train ] || exit 64
while [ $# -gt 0 ]; do
  case $1 in
    --events-fd) fd=$2; shift;;
    --run-dir) run=$2; shift;;
    --spec) spec=$2; shift;;
  esac
  shift
done
epochs=$(tr -d ' \n' <"$spec" | sed 's/.*"epochs":\([0-9]*\).*/\1/')
case $CUDA_VISIBLE_DEVICES in GPU-fast) rate=200;; *) rate=100;; esac
tell() { printf '{"v":1,"time":5,%s}\n' "$1" >"/proc/self/fd/$fd"; }
epoch() {
  done=$1
  tell '"type":"epoch","epoch":'$1',"epochs":'$epochs',"seconds":'$1',"images_per_second":'$rate',"loader_wait_ratio":0,"best":true,"metrics":{}'
}
save() {
  at=checkpoints/step-$(printf %08d "$done")
  mkdir -p "$run/$at"
  echo weights >"$run/$at/model.safetensors"
  tell '"type":"checkpoint","step":'$done',"epoch":'$done',"path":"'$at'"'
}
trap 'save; exit 75' TERM
first=1
for saved in "$run"/checkpoints/step-*; do [ -d "$saved" ] && first=4; done
tell '"type":"started","parameters":1,"train_images":1000,"val_images":0,"classes":["a"],"epochs":'$epochs',"batch_size":16,"first_epoch":'$first',"device":"cuda:0"'
epoch $first
epoch $((first + 1))
while :; do
  if [ -e "$0.save-$epochs" ]; then
    rm "$0.save-$epochs"
    epoch $((done + 1))
    save
  fi
  if [ -e "$0.finish-$epochs" ]; then
    mkdir -p "$run/weights"
    echo weights >"$run/weights/best.safetensors"
    tell '"type":"finished","best_epoch":1,"metrics":{},"artifacts":["weights/best.safetensors"]'
    exit 0
  fi
  sleep 0.05
done
"#;

/// A machine each with a fast and a slow GPU.
struct Lab {
    cluster: Cluster,
    trainer: String,
}

impl Lab {
    async fn new() -> Self {
        let cluster = Cluster::start_with_policy("finish-time").await.unwrap();
        let trainer = cluster.pretend(TRAINER).unwrap();
        Self { cluster, trainer }
    }

    async fn agent(&self, name: &str, gpu: &str, memory_total_mib: u64) -> Process {
        let gpu = json!({
            "name": format!("NVIDIA GeForce {gpu}"), "uuid": format!("GPU-{name}"),
            "memory_total_mib": memory_total_mib, "memory_used_mib": 300, "compute_capability": [8, 9],
        });
        self.cluster.show_gpus(name, &json!({"gpus": [gpu]})).unwrap();
        let variables = [
            ("TRAINYARD_AGENT__TRAINER", self.trainer.as_str()),
            ("TRAINYARD_AGENT__CHECKPOINT_UPLOAD_EVERY", "0s"),
        ];
        self.cluster.start_agent_with_gpus(name, 0, &variables).await.unwrap()
    }

    /// Submits a job of so many epochs.
    async fn submit(&self, epochs: u32, min_vram_mib: u64) -> String {
        let data = self.cluster.data_root().join("data.yaml");
        fs::write(&data, "names: [a]\n").unwrap();
        let resources = Some(pb::Resources { min_vram_mib, ..Default::default() });
        self.cluster.submit(pb::JobSpec { resources, ..tiny(&data, epochs) }).await.unwrap()
    }

    /// Waits until a job has told this epoch.
    async fn until_epoch(&self, job: &str, epoch: u32) {
        self.cluster.watch_until(job, |event| epoch_end(event) == Some(epoch)).await.unwrap();
    }

    /// Tells the trainer of the job with so many epochs what to do.
    fn order(&self, what: &str, epochs: u32) {
        fs::write(format!("{}.{what}-{epochs}", self.trainer), "").unwrap();
    }

    async fn yard(&self, arguments: &[&str]) -> String {
        let (code, text, error) = self.cluster.yard(arguments).await.unwrap();
        assert_eq!(code, 0, "{arguments:?}: {error}");
        text
    }
}

const FAST: &str = "NVIDIA GeForce RTX 4090";
const SLOW: &str = "NVIDIA GeForce RTX 5070";

#[tokio::test]
async fn jobs_go_where_they_are_done_soonest_and_say_why_and_make_way_for_shorter_ones() {
    let lab = Lab::new().await;
    let _fast = lab.agent("fast", "RTX 4090", 24564).await;
    let _slow = lab.agent("slow", "RTX 5070", 12227).await;

    // Nothing is known yet but data sheets; both are free.
    let long = lab.submit(1000, 0).await;
    lab.until_epoch(&long, 2).await;
    // The fast GPU is taken for long: the slow one is sooner.
    let middle = lab.submit(100, 0).await;
    lab.until_epoch(&middle, 2).await;
    let device = |job: pb::Job| job.attempts.last().unwrap().device.clone();
    assert_eq!(device(lab.cluster.job(&long).await.unwrap()), FAST);
    assert_eq!(device(lab.cluster.job(&middle).await.unwrap()), SLOW);

    // What they told is known, to everybody.
    let rates = lab.yard(&["gpus", "--rates", "-o", "json"]).await;
    let rates: serde_json::Value = serde_json::from_str(&rates).unwrap();
    let told: Vec<(&str, f64, bool)> = rates["rates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rate| {
            let number = rate["imagesPerSecond"].as_f64().unwrap().round();
            (rate["device"].as_str().unwrap(), number, rate["measured"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(told, [(FAST, 200.0, true), (SLOW, 100.0, true)]);

    // A short job that only the large GPU can take waits, is told for what and until when, and gets it as soon
    // as the long one has written a checkpoint.
    let short = lab.submit(3, 20_000).await;
    let waiting = lab.cluster.job(&short).await.unwrap();
    assert_eq!(waiting.waiting_for, "waits for a GeForce RTX 4090, where it takes about 15 s");
    let (start, end) = (waiting.estimated_start_time.unwrap(), waiting.estimated_end_time.unwrap());
    assert_eq!(end.seconds - start.seconds, 15, "3 epochs of 1000 images at 200 images/s");
    lab.order("save", 1000);
    lab.until_epoch(&short, 2).await;
    let why = lab.yard(&["job", &short, "--why"]).await;
    assert!(why.contains(&format!("Attempt 1: {FAST} of fast")), "{why}");
    assert!(why.contains(&format!("Job {long} was preempted for it.")), "{why}");
    lab.order("finish", 3);
    lab.cluster.watch_to_end(&short).await.unwrap();

    // The long one goes on where it was, and nobody blames it.
    lab.until_epoch(&long, 5).await;
    let why = lab.yard(&["job", &long, "--why"]).await;
    assert!(why.contains(&format!("Attempt 2: {FAST} of fast")) && why.contains("DELAYS OTHERS"), "{why}");
    for epochs in [1000, 100] {
        lab.order("finish", epochs);
    }
    for job in [&long, &middle] {
        lab.cluster.watch_to_end(job).await.unwrap();
    }
    let long = lab.cluster.job(&long).await.unwrap();
    let ends: Vec<EndReason> = long.attempts.iter().map(pb::Attempt::end_reason).collect();
    assert_eq!(ends, [EndReason::Preempted, EndReason::Completed]);
    let shown = lab.yard(&["job", &short]).await;
    assert!(shown.contains("Estimate      start ") && shown.contains("Estimate      end "), "{shown}");

    // What has been is recorded, and runs again under another policy.
    let recording = lab.cluster.path("recording");
    lab.yard(&["record", recording.to_str().unwrap()]).await;
    let mut replay = Command::new(binary("trainyard-sim").unwrap());
    replay.args(["replay", recording.to_str().unwrap(), "--policy", "fifo"]);
    let (code, text, error) = run(&mut replay).await.unwrap();
    assert_eq!(code, 0, "{error}");
    assert!(
        text.starts_with("3 jobs\nas it was") && text.contains("\nfifo") && text.contains(&short),
        "{text}"
    );
}
