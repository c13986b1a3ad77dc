//! Downloads: complete, verified, resumed, and never outside their folder.

use sha2::{Digest, Sha256};
use trainyard_proto::pb;

use crate::fake::{ID, Script, Server, code, job, stderr, stdout};

fn artifact(name: &str, bytes: &[u8]) -> (pb::Artifact, Vec<u8>) {
    let sha256 = hex::encode(Sha256::digest(bytes));
    let size_bytes = bytes.len() as u64;
    (pb::Artifact { name: name.into(), size_bytes, sha256, live: false }, bytes.to_vec())
}

fn server(artifacts: Vec<(pb::Artifact, Vec<u8>)>, break_after: Option<usize>) -> Server {
    let jobs = vec![job(ID, pb::JobState::Succeeded)];
    Server::start(Script { jobs, artifacts, break_after, ..Default::default() })
}

#[test]
fn a_download_that_breaks_off_is_resumed_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().to_str().unwrap();
    let server =
        server(vec![artifact("weights/best.safetensors", b"0123456789"), artifact("empty", b"")], Some(7));
    let output = server.yard(&["artifacts", ID, "get", "-d", into]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(std::fs::read(dir.path().join("weights/best.safetensors")).unwrap(), b"0123456789");
    assert_eq!(std::fs::read(dir.path().join("empty")).unwrap(), b"");
    assert_eq!(server.script.lock().unwrap().offsets, [0, 7, 0]);
    assert_eq!(stdout(&output), format!("{into}/weights/best.safetensors\n{into}/empty\n"));
    let left = std::fs::read_dir(dir.path().join("weights")).unwrap().count();
    assert_eq!(left, 1, "the partial file is gone");
    // What is there already is not fetched again.
    assert_eq!(code(&server.yard(&["artifacts", ID, "get", "weights/best.safetensors", "-d", into])), 0);
    assert_eq!(server.script.lock().unwrap().offsets.len(), 3);
}

#[test]
fn bytes_that_are_not_what_was_promised_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (mut wrong, bytes) = artifact("results.csv", b"0123");
    wrong.sha256 = "00".repeat(32);
    let output = server(vec![(wrong, bytes)], None).yard(&[
        "artifacts",
        ID,
        "get",
        "-d",
        dir.path().to_str().unwrap(),
    ]);
    assert_eq!(code(&output), 4, "{output:?}");
    assert!(stderr(&output).contains("its SHA-256 is"), "{output:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_hostile_name_writes_nothing_anywhere() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("dir");
    for name in ["../evil", "/tmp/trainyard-evil", "a/../../evil"] {
        let output = server(vec![artifact(name, b"x")], None).yard(&[
            "artifacts",
            ID,
            "get",
            "-d",
            dir.to_str().unwrap(),
        ]);
        assert_eq!(code(&output), 4, "{output:?}");
        assert!(stderr(&output).contains("leads out of the folder"), "{output:?}");
    }
    assert!(std::fs::read_dir(root.path()).unwrap().all(|entry| entry.unwrap().file_name() == "dir"));
}

#[test]
fn another_file_is_replaced_only_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().to_str().unwrap();
    crate::fake::write(dir.path(), "results.csv", "mine");
    let server = server(vec![artifact("results.csv", b"theirs")], None);
    let output = server.yard(&["artifacts", ID, "get", "-d", into]);
    assert_eq!(code(&output), 1, "{output:?}");
    assert_eq!(std::fs::read(dir.path().join("results.csv")).unwrap(), b"mine");
    assert_eq!(code(&server.yard(&["artifacts", ID, "get", "-d", into, "--force"])), 0);
    assert_eq!(std::fs::read(dir.path().join("results.csv")).unwrap(), b"theirs");
}

#[test]
fn pictures_of_a_running_job_are_listed_and_fetched_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().to_str().unwrap();
    let (picture, bytes) = artifact("train_batch0.jpg", b"pixels");
    let jobs = vec![job(ID, pb::JobState::Running)];
    let artifacts = vec![(pb::Artifact { live: true, ..picture }, bytes)];
    let server = Server::start(Script { jobs, artifacts, ..Default::default() });
    let output = server.yard(&["artifacts", ID]);
    assert!(stdout(&output).contains("train_batch0.jpg"), "{output:?}");
    assert_eq!(stderr(&output), "the job is RUNNING: these are the pictures that its trainer has drawn\n");
    let output = server.yard(&["artifacts", ID, "get", "-d", into]);
    assert_eq!(code(&output), 4, "{output:?}");
    assert!(stderr(&output).contains("fetched by name"), "{output:?}");
    assert_eq!(code(&server.yard(&["artifacts", ID, "get", "train_batch0.jpg", "-d", into])), 0);
    assert_eq!(std::fs::read(dir.path().join("train_batch0.jpg")).unwrap(), b"pixels");
}

#[test]
fn an_artifact_that_is_not_there_is_refused() {
    let output = server(Vec::new(), None).yard(&["artifacts", ID, "get", "x"]);
    assert_eq!(code(&output), 4, "{output:?}");
}
