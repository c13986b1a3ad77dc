//! What `yard why-slow` says of jobs that are held up, each by something else: a whole cluster, GPUs of a stand-in
//! for NVIDIA's library, and trainers that tell what a test has written down for them.

use std::fs;

use serde_json::{Value, json};
use trainyard_proto::pb;
use trainyard_tests::cluster::Cluster;
use trainyard_tests::jobs::{is_running, tiny};

/// Tells the lines that lie beside the data set, and trains for ever.
const TRAINER: &str = r#"[ "$1" = train ] || exit 64
while [ $# -gt 0 ]; do
  case $1 in
    --events-fd) fd=$2; shift;;
    --spec) spec=$2; shift;;
  esac
  shift
done
data=$(sed -n 's/.*"data": *"\([^"]*\)".*/\1/p' "$spec")
trap 'exit 75' TERM
cat "$(dirname "$data")/events" > "/proc/self/fd/$fd"
while :; do sleep 1 & wait $!; done
"#;

/// One that is busy, one that rests, one that is hot.
fn gpus() -> Value {
    let gpu = |model: &str, busy: u32, throttle: u64| {
        json!({
            "name": format!("NVIDIA GeForce RTX {model}"), "uuid": format!("GPU-{model}"), "memory_total_mib": 24564,
            "memory_used_mib": 364, "utilization_percent": busy, "throttle_reasons": throttle,
        })
    };
    json!({"gpus": [gpu("4090", 97, 4), gpu("5070", 50, 0), gpu("4060", 97, 8)]})
}

/// What a job is, what its trainer tells, and what is to be said of it.
struct Case {
    name: &'static str,
    /// `None` trains on the processor.
    gpu: Option<&'static str>,
    cache: &'static str,
    /// Seconds of a batch that are waited for data; of 0.2.
    wait: f64,
    /// Seconds of two epochs, each of 1000 images at 100 a second; 0 tells nothing at all.
    seconds: f64,
    bound: &'static str,
    advice: &'static str,
}

const CASES: [Case; 8] = [
    Case {
        name: "busy",
        gpu: Some("4090"),
        cache: "disk",
        wait: 0.0,
        seconds: 21.0,
        bound: "CARD",
        advice: "Nothing holds the GPU up; a faster GPU, a smaller model or a smaller `imgsz` makes it faster.",
    },
    Case {
        name: "resting",
        gpu: Some("5070"),
        cache: "disk",
        wait: 0.0,
        seconds: 21.0,
        bound: "BATCH_TOO_SMALL",
        advice: "Leave `batch` out (or set it to -1) instead of 8: the agent fills the GPU.",
    },
    Case {
        name: "hot",
        gpu: Some("4060"),
        cache: "disk",
        wait: 0.0,
        seconds: 21.0,
        bound: "THROTTLED",
        advice: "Cool the GPU: dust, fans, the room, and the distance to the next one.",
    },
    Case {
        name: "loader",
        gpu: None,
        cache: "disk",
        wait: 0.1,
        seconds: 21.0,
        bound: "LOADER",
        advice: "Set `workers: 8` (it has 1), as far as the machine has cores.",
    },
    Case {
        name: "disk",
        gpu: None,
        cache: "none",
        wait: 0.1,
        seconds: 21.0,
        bound: "DISK",
        advice: "Set `cache: disk`: with `cache: none` each image is read and decoded anew every epoch.",
    },
    Case {
        name: "few",
        gpu: None,
        cache: "disk",
        wait: 0.0,
        seconds: 100.0,
        bound: "DATA_TOO_SMALL",
        advice: "The data set is small: little of an epoch is training (20 %); more `epochs` cost little.",
    },
    Case {
        name: "processor",
        gpu: None,
        cache: "disk",
        wait: 0.0,
        seconds: 21.0,
        bound: "CARD",
        advice: "The processor computes all the time; on a GPU it would train many times faster.",
    },
    Case {
        name: "new",
        gpu: None,
        cache: "disk",
        wait: 0.0,
        seconds: 0.0,
        bound: "UNKNOWN",
        advice: "Ask again once its first epoch is under way.",
    },
];

impl Case {
    /// The lines of its trainer.
    fn events(&self) -> String {
        let line = |event: Value| {
            let mut line = json!({"v": 1, "time": 5});
            line.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
            format!("{line}\n")
        };
        let started = line(json!({
            "type": "started", "parameters": 1, "train_images": 1000, "val_images": 1, "classes": ["a"], "epochs": 9,
            "batch_size": 8, "first_epoch": 1, "device": "cpu", "workers": 1,
        }));
        if self.seconds <= 0.0 {
            return started;
        }
        let phases = json!({
            "wait": self.wait, "copy": 0.0, "forward": 0.1 - self.wait / 2.0, "loss": 0.0,
            "backward": 0.1 - self.wait / 2.0, "optimizer": 0.0,
        });
        let epoch = line(json!({
            "type": "epoch", "epoch": 2, "epochs": 9, "seconds": self.seconds, "images_per_second": 100.0,
            "loader_wait_ratio": 0.0, "best": true, "metrics": {}, "phases": phases,
        }));
        let step = line(json!({
            "type": "step", "epoch": 3, "batch": 1, "batches": 125, "images_per_second": 100.0,
            "loader_wait_ratio": 0.0, "metrics": {}, "phases": phases,
        }));
        format!("{started}{epoch}{step}")
    }

    async fn submit(&self, cluster: &Cluster) -> String {
        let folder = cluster.data_root().join(self.name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("data.yaml"), "names: [a]\n").unwrap();
        fs::write(folder.join("events"), self.events()).unwrap();
        let mut spec = tiny(&folder.join("data.yaml"), 9);
        spec.train.as_mut().unwrap().cache = Some(self.cache.into());
        if let Some(gpu) = self.gpu {
            let gpu_models = vec![gpu.to_owned()];
            spec.resources = Some(pb::Resources { gpu_models, ..Default::default() });
        }
        let job = cluster.submit(spec).await.unwrap();
        cluster.watch_until(&job, is_running).await.unwrap();
        job
    }

    /// Whether all is there that a diagnosis of it rests on.
    fn is_known(&self, diagnosis: &Value) -> bool {
        let has = |figure: &str| diagnosis["figures"][figure].is_number();
        let gpu = self.gpu.is_none() || has("utilization_ratio");
        self.seconds <= 0.0
            || (gpu && has("images_per_second") && has("step_seconds") && has("training_ratio"))
    }
}

#[tokio::test]
async fn each_job_is_told_what_holds_it_up_and_what_to_change_first() {
    let cluster = Cluster::start_patient().await.unwrap();
    cluster.show_gpus("bench", &gpus()).unwrap();
    let trainer = cluster.pretend(TRAINER).unwrap();
    let variables = [("TRAINYARD_AGENT__TRAINER", trainer.as_str())];
    let _agent = cluster.start_agent_with_gpus("bench", 5, &variables).await.unwrap();
    for case in &CASES {
        let job = case.submit(&cluster).await;
        let mut poll = tokio::time::interval(std::time::Duration::from_millis(200));
        let diagnosis = loop {
            poll.tick().await;
            let (code, out, error) = cluster.yard(&["why-slow", &job, "-o", "json"]).await.unwrap();
            assert_eq!(code, 0, "{}: {error}", case.name);
            let diagnosis: Value = serde_json::from_str(&out).unwrap();
            if case.is_known(&diagnosis) {
                break diagnosis;
            }
        };
        assert_eq!(
            (diagnosis["bound"].as_str(), diagnosis["advice"][0].as_str()),
            (Some(case.bound), Some(case.advice)),
            "{}: {diagnosis}",
            case.name
        );
    }
}
