//! What users get wrong, from the outside.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use tonic_types::StatusExt;
use trainyard_proto::pb;
use trainyard_tests::cluster::{Cluster, run};
use trainyard_tests::jobs::tiny;
use trainyard_tests::process::binary;

async fn refusal(cluster: &Cluster, spec: pb::JobSpec) -> tonic::Status {
    let request = pb::SubmitJobRequest { spec: Some(spec), ..Default::default() };
    cluster.jobs().await.unwrap().submit_job(request).await.unwrap_err()
}

/// Runs a job that must fail, and returns the sentence that its user reads.
async fn failure(cluster: &Cluster, spec: pb::JobSpec) -> String {
    let id = cluster.submit(spec).await.unwrap();
    let (state, _) = cluster.watch_to_end(&id).await.unwrap();
    let job = cluster.job(&id).await.unwrap();
    assert_eq!(state, pb::JobState::Failed, "{job:?}");
    // What no agent may read is not even tried.
    assert!(job.attempts.len() <= 1, "trying again cannot help: {:?}", job.attempts);
    job.state_reason
}

#[tokio::test]
async fn every_bad_field_is_named_in_one_answer() {
    let cluster = Cluster::start().await.unwrap();
    let train = pb::TrainSpec {
        model: "yolov9z".into(),
        data: "/data/data.yaml".into(),
        epochs: Some(0),
        imgsz: Some(100),
        batch: Some(-2.0),
        ..Default::default()
    };
    let resources = pb::Resources { gpus: Some(2), ..Default::default() };
    let spec = pb::JobSpec { train: Some(train), resources: Some(resources), ..Default::default() };
    let status = refusal(&cluster, spec).await;
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let bad = status.get_details_bad_request().unwrap();
    let mut fields: Vec<&str> = bad.field_violations.iter().map(|bad| bad.field.as_str()).collect();
    fields.sort_unstable();
    let expected = [
        "spec.resources.gpus",
        "spec.train.batch",
        "spec.train.epochs",
        "spec.train.imgsz",
        "spec.train.model",
    ];
    assert_eq!(fields, expected, "{bad:?}");
    assert_eq!(status.get_details_error_info().unwrap().domain, "trainyard");
}

#[tokio::test]
async fn an_unknown_job_is_not_found() {
    let cluster = Cluster::start().await.unwrap();
    let request = pb::GetJobRequest { job_id: "01900000-0000-7000-8000-000000000000".into() };
    let status = cluster.jobs().await.unwrap().get_job(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    let (code, _, _) = cluster.yard(&["job", "01900000-0000-7000-8000-000000000000"]).await.unwrap();
    assert_eq!(code, 4);
}

#[tokio::test]
async fn bad_data_fails_the_job_at_once_with_a_sentence_that_names_it() {
    let cluster = Cluster::start().await.unwrap();
    let _agent = cluster.start_agent("bench", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();

    let outside = failure(&cluster, tiny("/etc/data.yaml".as_ref(), 1)).await;
    assert!(outside.contains("/etc/data.yaml") && outside.contains("data_roots"), "{outside}");

    let missing = failure(&cluster, tiny(&data.with_file_name("missing.yaml"), 1)).await;
    assert!(missing.contains("missing.yaml"), "{missing}");

    let folder = data.parent().unwrap();
    let empty = folder.join("empty.yaml");
    fs::create_dir_all(folder.join("none/images")).unwrap();
    fs::write(&empty, "train: none/images\nval: images/val\nnames: [a, b, c]\n").unwrap();
    let reason = failure(&cluster, tiny(&empty, 1)).await;
    assert!(reason.contains("train") && reason.contains("none/images"), "{reason}");

    fs::create_dir_all(cluster.path("elsewhere/images")).unwrap();
    let picture = fs::read_dir(folder.join("images/train")).unwrap().next().unwrap().unwrap().path();
    fs::copy(&picture, cluster.path("elsewhere/images/a.jpg")).unwrap();
    let climbing = folder.join("climbing.yaml");
    fs::write(&climbing, "train: ../../elsewhere/images\nval: images/val\nnames: [a, b, c]\n").unwrap();
    let reason = failure(&cluster, tiny(&climbing, 1)).await;
    assert!(reason.contains("elsewhere") && reason.contains("data_roots"), "{reason}");

    let label = fs::read_dir(folder.join("labels/train")).unwrap().next().unwrap().unwrap().path();
    fs::write(&label, "0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n").unwrap();
    let reason = failure(&cluster, tiny(&data, 1)).await;
    let file = label.file_name().unwrap().to_str().unwrap();
    assert!(reason.contains(file) && reason.contains(":2"), "the file and the line are named: {reason}");
}

#[tokio::test]
async fn an_agent_without_a_trainer_takes_no_jobs_and_says_why() {
    let cluster = Cluster::start().await.unwrap();
    let _agent = cluster
        .start_agent_with("bench", 1, &[("TRAINYARD_AGENT__TRAINER", "/nowhere/trainer")])
        .await
        .unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let id = cluster.submit(tiny(&data, 1)).await.unwrap();
    let job = cluster.job(&id).await.unwrap();
    assert_eq!((job.state(), job.attempts.len()), (pb::JobState::Queued, 0), "{job:?}");
    let agent = cluster.agent("bench").await.unwrap();
    assert!(agent.unavailable.contains("/nowhere/trainer"), "{}", agent.unavailable);
}

#[tokio::test]
async fn a_job_that_no_gpu_can_run_waits_and_says_why() {
    let cluster = Cluster::start().await.unwrap();
    let _agent = cluster.start_agent("bench", 1).await.unwrap();
    let spec = pb::JobSpec { resources: None, ..tiny("/data/data.yaml".as_ref(), 1) };
    let id = cluster.submit(spec).await.unwrap();
    let job = cluster.job(&id).await.unwrap();
    assert_eq!(job.state(), pb::JobState::Queued);
    assert!(job.waiting_for.contains("GPU"), "{}", job.waiting_for);
}

#[tokio::test]
async fn programs_refuse_what_they_cannot_start_with() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mut scheduler = Command::new(binary("trainyard-scheduler").unwrap());
    scheduler.env("TRAINYARD_SCHEDULER__LISTEN", &listen).env("TRAINYARD_SCHEDULER__DATA_DIR", dir.path());
    let (code, _, error) = run(&mut scheduler).await.unwrap();
    assert_ne!(code, 0);
    assert!(error.contains(&listen) && error.contains("listen"), "{error}");

    for (program, key) in [
        ("trainyard-scheduler", "TRAINYARD_SCHEDULER__LISTN"),
        ("trainyard-agent", "TRAINYARD_AGENT__CPU_SLOT"),
    ] {
        let mut command = Command::new(binary(program).unwrap());
        let (code, _, error) = run(command.arg("config").env(key, "1")).await.unwrap();
        let nearest = if program == "trainyard-agent" { "cpu_slots" } else { "listen" };
        assert_ne!(code, 0, "{program}");
        assert!(error.contains(nearest), "the nearest known key is named: {error}");
    }

    let (code, _, error) =
        run(Command::new(binary("yard").unwrap()).args(["--server", "http://127.0.0.1:1", "jobs"]))
            .await
            .unwrap();
    assert_eq!(code, 3, "{error}");
}
