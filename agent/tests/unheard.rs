//! Nobody reads what the agent says any more: it works on, and is quiet.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, reason = "tests; not all of the stub is used")]

mod stub;

use std::io::PipeWriter;
use std::process::{Command, Stdio};

use stub::{Stub, World, attempt};
use trainyard_types::{EndReason, Slot};

/// The writing end of a pipe that nobody reads.
fn unread() -> PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn no_command_panics_or_ends_otherwise_than_with_readers() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.toml");
    std::fs::write(&file, "nonsense = 1\n").unwrap();
    let file = file.to_str().unwrap();
    let config = ["--scheduler", "http://127.0.0.1:1", "--nvml-library", "/none", "config"];
    for words in
        [&config[..], &[&config[..4], &["batch-table"]].concat(), &["--help"], &["--config", file], &["x"]]
    {
        let run = |change: &dyn Fn(&mut Command)| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-agent"));
            command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            change(&mut command);
            let output = command.spawn().unwrap().wait_with_output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let (code, _) = run(&|_| ());
        let (unheard, said) = run(&|command| {
            command.stdout(unread());
        });
        assert_eq!(unheard, code, "{words:?}: {said}");
        assert!(!said.contains("panicked"), "{words:?}: {said}");
        let (deaf, _) = run(&|command| {
            command.stdout(unread()).stderr(unread());
        });
        assert_eq!(deaf, code, "{words:?}");
    }
}

#[tokio::test]
async fn an_agent_whose_log_nobody_reads_trains_its_jobs() {
    let world = World::new("started\nfinish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent_unheard(&stub);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), Slot::Cpu(0), None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
}
