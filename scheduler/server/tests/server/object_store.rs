//! Blobs, data sets and weights in a real server that speaks S3.

use tempfile::TempDir;
use trainyard_proto::pb;
use trainyard_scheduler::config::Config;
use trainyard_scheduler::server::{Server, StartError};

use crate::datasets::{Files, push, read, succeed};
use crate::support::s3::{S3, SECRET};
use crate::support::{Scheduler, config, submission};

const CELLS: Files<'static> = &[("data.yaml", b"names: [cell]"), ("images/1.jpg", b"first")];

fn on(server: &S3, secret: &str, dir: &TempDir) -> Config {
    Config { blob_url: server.url(), blob_options: server.options(secret), ..config(dir.path()) }
}

async fn start(server: &S3) -> Scheduler {
    let dir = tempfile::tempdir().unwrap();
    let config = on(server, SECRET, &dir);
    Scheduler::start_with(dir, config).await
}

fn whole(name: &str, files: u64) -> pb::ReadDatasetRequest {
    let ranges = vec![pb::FileRange { first: 0, count: files }];
    pb::ReadDatasetRequest { name: name.into(), ranges, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_sets_and_artifacts_lie_in_s3_and_nothing_on_the_schedulers_disk() {
    let server = S3::start().await;
    let scheduler = start(&server).await;
    let (_, version) = push(&scheduler, "cells", CELLS).await.unwrap();
    assert_eq!(read(&scheduler, whole("cells", 2)).await.unwrap(), b"names: [cell]first");
    // A large one comes in parts.
    let large: Vec<u8> = (0..70_u32 << 20).map(|at| (at % 251) as u8).collect();
    push(&scheduler, "large", &[CELLS[0], ("images/1.jpg", &large)]).await.unwrap();
    assert!(read(&scheduler, whole("large", 2)).await.unwrap()[13..] == large);
    // An artifact goes the same way.
    let mut agent = scheduler.agent(1, &[]).await;
    let job = scheduler.submit(submission("")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    succeed(&scheduler, &mut agent, &attempt, b"the best weights").await;
    // A scheduler on another disk, with the same Redis' files, has all of it.
    assert!(!scheduler.dir.path().join("blobs").exists());
    let dir = scheduler.stop().await;
    let settings = on(&server, SECRET, &dir);
    let scheduler = Scheduler::start_with(dir, settings).await;
    let request = pb::DownloadArtifactRequest {
        job_id: job,
        name: "weights/best.safetensors".into(),
        offset: 4,
        ..Default::default()
    };
    let mut stream = scheduler.artifacts().download_artifact(request).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().data, b"best weights");
    let (sent, again) = push(&scheduler, "cells", CELLS).await.unwrap();
    assert_eq!((sent, again.version), (0, version.version));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_killed_loses_nothing_that_was_acknowledged() {
    let mut server = S3::start().await;
    let scheduler = start(&server).await;
    push(&scheduler, "cells", CELLS).await.unwrap();
    server.kill();
    let more: Files<'_> = &[CELLS[0], ("images/2.jpg", b"second")];
    let away = push(&scheduler, "cells", more).await.unwrap_err();
    assert!(away.message().contains("is not available; try again"), "{away}");
    server.start_again();
    push(&scheduler, "cells", more).await.unwrap();
    assert_eq!(read(&scheduler, whole("cells", 2)).await.unwrap(), b"names: [cell]second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_said_at_the_start() {
    let server = S3::start().await;
    let dir = tempfile::tempdir().unwrap();
    let refused = Server::start(on(&server, "guessed", &dir)).await.err().unwrap();
    assert!(matches!(refused, StartError::BlobUrl { .. }), "{refused}");
    let words = refused.to_string();
    assert!(words.contains("blob_url: cannot use `s3://lab/trainyard`"), "{words}");
    assert!(words.contains("SignatureDoesNotMatch") && !words.contains("guessed"), "{words}");
}
