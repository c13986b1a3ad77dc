//! The main job, end to end: submission, placement, real training, metrics, artifacts.

use std::path::{Path, PathBuf};
use std::process::Command;

use trainyard_proto::pb;
use trainyard_tests::cluster::{Cluster, run};
use trainyard_tests::jobs::{assert_gapless, epoch_end, tiny};

/// The grpcurl that the set-up installed, or the user's own.
fn grpcurl() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/grpcurl");
    if installed.exists() { installed } else { PathBuf::from("grpcurl") }
}

async fn call(cluster: &Cluster, method: &str, body: &str) -> (i32, String, String) {
    let address = cluster.address();
    run(Command::new(grpcurl()).args(["-plaintext", "-d", body, &address, method])).await.unwrap()
}

#[tokio::test]
async fn a_job_submitted_by_grpcurl_trains_streams_its_metrics_and_hands_back_the_weights() {
    let cluster = Cluster::start().await.unwrap();
    let _agent = cluster.start_agent("bench", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 16, 8, 64).await.unwrap();
    let body = serde_json::json!({
        "request_id": "6f1c9a52-4f0a-4b39-9f43-000000000001",
        "spec": {
            "name": "shapes",
            "train": { "model": "yolov8n", "data": data, "epochs": 2, "imgsz": 64, "batch": 8, "workers": 2 },
            "resources": { "device": "cpu" },
        },
    });
    let submit = "trainyard.v1.JobService/SubmitJob";
    let (code, out, error) = call(&cluster, submit, &body.to_string()).await;
    assert_eq!(code, 0, "{error}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let job = answer["jobId"].as_str().unwrap().to_owned();

    let (_, again, _) = call(&cluster, submit, &body.to_string()).await;
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["jobId"], job, "a repeated request makes no second job");

    let (state, events) = cluster.watch_to_end(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{:?}", cluster.job(&job).await.unwrap());
    assert_gapless(&events);
    let epochs: Vec<u32> = events.iter().filter_map(epoch_end).collect();
    assert_eq!(epochs, [1, 2]);
    let logs = format!("{events:?}");
    assert!(logs.contains("Auto batch size") || logs.contains("Batch size: 8"), "{logs}");

    let done = cluster.job(&job).await.unwrap();
    let progress = done.progress.unwrap();
    assert_eq!((progress.epoch, progress.epochs, progress.batch_size), (2, 2, 8));
    assert!(progress.metrics.contains_key("metrics/mAP50-95(B)"), "{:?}", progress.metrics);

    let target = cluster.path("result");
    let (code, _, error) =
        cluster.yard(&["artifacts", &job, "get", "-d", &target.display().to_string()]).await.unwrap();
    assert_eq!(code, 0, "{error}");
    let weights = std::fs::read(target.join("weights/best.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&weights).unwrap();
    assert_eq!(tensors.tensor("model.22.cv3.0.2.bias").unwrap().shape(), [3], "three classes");
    for name in ["weights/last.safetensors", "results.csv", "args.yaml", "val_batch0_pred.jpg"] {
        assert!(target.join(name).is_file(), "{name} is missing");
    }
    let table = std::fs::read_to_string(target.join("results.csv")).unwrap();
    assert_eq!(table.lines().count(), 3, "a header and two epochs:\n{table}");
    assert!(
        table.starts_with("epoch,time,train/box_loss,train/cls_loss,train/dfl_loss,metrics/precision(B)")
    );
}

#[tokio::test]
async fn what_a_training_draws_can_be_seen_while_it_goes_on_and_is_handed_in_at_its_end() {
    let cluster = Cluster::start().await.unwrap();
    let _agent = cluster.start_agent("bench", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 16, 8, 64).await.unwrap();
    let job = cluster.submit(tiny(&data, 1000)).await.unwrap();
    let mut epochs = 0;
    let mut pictures = Vec::new();
    // They are looked for once an epoch, and drawn in the background.
    while !["labels.png", "train_batch0.jpg"].iter().all(|name| pictures.contains(&(*name).to_owned())) {
        epochs += 1;
        assert!(epochs < 50, "{pictures:?}");
        cluster.watch_until(&job, |event| epoch_end(event) >= Some(epochs)).await.unwrap();
        let found = cluster.artifacts(&job).await.unwrap();
        assert!(found.iter().all(|picture| picture.live), "{found:?}");
        pictures = found.into_iter().map(|picture| picture.name).collect();
    }
    assert_eq!(cluster.job(&job).await.unwrap().state(), pb::JobState::Running);
    let target = cluster.path("seen").display().to_string();
    let get = ["artifacts", &job, "get", "train_batch0.jpg", "-d", &target];
    let (code, _, error) = cluster.yard(&get).await.unwrap();
    assert_eq!(code, 0, "{error}");
    let picture = std::fs::read(cluster.path("seen").join("train_batch0.jpg")).unwrap();
    assert!(picture.starts_with(&[0xff, 0xd8, 0xff]), "it is a JPEG file");
    let (code, _, error) = cluster.yard(&["artifacts", &job, "get", "-d", &target]).await.unwrap();
    assert_eq!(code, 4, "without a name only what a job hands in is fetched: {error}");

    let short = cluster.submit(tiny(&data, 3)).await.unwrap();
    assert_eq!(cluster.yard(&["cancel", &job]).await.unwrap().0, 0);
    assert_eq!(cluster.watch_to_end(&short).await.unwrap().0, pb::JobState::Succeeded);
    let left = cluster.artifacts(&short).await.unwrap();
    assert!(left.iter().any(|artifact| artifact.name == "train_batch0.jpg"), "{left:?}");
    assert!(left.iter().all(|artifact| !artifact.live), "{left:?}");
}

#[tokio::test]
async fn reflection_and_health_answer_the_ordinary_tools() {
    let cluster = Cluster::start().await.unwrap();
    let address = cluster.address();
    let (code, services, _) =
        run(Command::new(grpcurl()).args(["-plaintext", &address, "list"])).await.unwrap();
    assert_eq!(code, 0);
    for service in ["JobService", "ClusterService", "AgentService", "ArtifactService"] {
        assert!(services.contains(&format!("trainyard.v1.{service}")), "{services}");
    }
    let (code, health, _) = call(&cluster, "grpc.health.v1.Health/Check", "{}").await;
    assert_eq!(code, 0);
    assert!(health.contains("SERVING") && !health.contains("NOT_SERVING"), "{health}");
}

#[tokio::test]
async fn a_running_job_is_cancelled_and_leaves_its_slot() {
    let cluster = Cluster::start().await.unwrap();
    let _agent = cluster.start_agent("bench", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 16, 8, 64).await.unwrap();
    let long = cluster.submit(tiny(&data, 1000)).await.unwrap();
    let next = cluster.submit(tiny(&data, 1)).await.unwrap();
    cluster.watch_until(&long, |event| epoch_end(event) == Some(1)).await.unwrap();
    let waiting = cluster.job(&next).await.unwrap();
    assert_eq!(waiting.state(), pb::JobState::Queued);
    assert_eq!(waiting.queue_position, Some(1));
    assert!(waiting.waiting_for.contains("busy"), "{}", waiting.waiting_for);

    let (code, _, error) = cluster.yard(&["cancel", &long]).await.unwrap();
    assert_eq!(code, 0, "{error}");
    let (state, events) = cluster.watch_to_end(&long).await.unwrap();
    assert_eq!(state, pb::JobState::Cancelled);
    assert_gapless(&events);
    let (state, _) = cluster.watch_to_end(&next).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded);
    let (code, _, _) = cluster.yard(&["cancel", &long]).await.unwrap();
    assert_eq!(code, 0, "cancelling again is harmless");
}
