//! Nobody reads what `yard` prints any more: its work is done, and it is quiet.

use std::io::{BufRead as _, BufReader, PipeWriter, Read as _};
use std::process::{Command, Stdio};

use clap::CommandFactory as _;
use trainyard_cli::args::Cli;
use trainyard_proto::pb;
use trainyard_proto::pb::JobState::{Queued, Running, Succeeded};
use trainyard_proto::pb::log_line::Level;

use crate::fake::{ID, Script, Server, code, epoch, job, log, state, stderr};

const OTHER: &str = "019ab3c4-1f2f-7000-8000-000000000002";

/// The writing end of a pipe that nobody reads.
fn unread() -> PipeWriter {
    std::io::pipe().unwrap().1
}

fn script() -> Script {
    let events = || vec![Ok(state(1, Running)), Ok(log(2, Level::Info, "hello")), Ok(epoch(3, 1, 0.5))];
    let ended = [events(), vec![Ok(state(4, Succeeded))]].concat();
    Script {
        jobs: vec![job(ID, Succeeded), job(OTHER, Queued)],
        watches: vec![ended; 8],
        agents: vec![pb::Agent { id: ID.into(), name: "lab1".into(), ..Default::default() }],
        ..Default::default()
    }
}

/// Every subcommand, with what it takes.
fn commands(file: &str, dir: &str) -> Vec<Vec<String>> {
    let lines = [
        "train /nowhere/data.yaml".to_owned(),
        "train /nowhere/data.yaml --follow".into(),
        "train /nowhere/data.yaml --sweep lr0=0.1,0.2".into(),
        format!("submit -f {file}"),
        "jobs".into(),
        format!("job {ID}"),
        format!("sweep {ID}"),
        format!("watch {ID}"),
        format!("logs {ID}"),
        format!("logs -f {ID}"),
        format!("metrics {ID}"),
        format!("cancel {ID} {OTHER}"),
        format!("retry {ID}"),
        format!("priority {ID} 5"),
        "queue".into(),
        "agents".into(),
        "gpus".into(),
        "drain lab1".into(),
        "resume lab1".into(),
        "top".into(),
        format!("record {dir}/recording"),
        format!("why-slow {ID}"),
        format!("artifacts {ID}"),
        "data list".into(),
        "data show cells".into(),
        format!("data push {dir}"),
        "weights list".into(),
        "login 127.0.0.1:1".into(),
        "logout".into(),
        "whoami".into(),
        "notify list".into(),
        "open --print".into(),
        "token list".into(),
        "audit".into(),
        format!("demo-data {dir}/demo --train 2 --val 1 --size 64"),
        "completions bash".into(),
        "up --listen nowhere".into(),
        "setup agent --dry-run".into(),
        format!("manual {dir}/manual"),
        "help".into(),
    ];
    lines.into_iter().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

#[test]
fn no_command_panics_or_complains_when_its_output_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let file = crate::fake::write(dir.path(), "job.yaml", "train: {model: yolov8n, data: /d}\n");
    let all = commands(&file, dir.path().to_str().unwrap());
    for known in Cli::command().get_subcommands() {
        assert!(all.iter().any(|words| words[0] == known.get_name()), "{} is not tried", known.get_name());
    }
    for words in &all {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        for more in [&[][..], &["-o", "json"], &["--help"]] {
            let arguments = [&words[..], more].concat();
            let server = Server::start(script());
            let run = |change: &dyn Fn(&mut Command)| {
                let mut command = crate::fake::command(server.address, &arguments);
                change(&mut command);
                command.spawn().unwrap().wait_with_output().unwrap()
            };
            let listened = run(&|command| {
                command.stdout(Stdio::null());
            });
            let output = run(&|command| {
                command.stdout(unread());
            });
            let said = stderr(&output).to_lowercase();
            assert!(!said.contains("panicked") && !said.contains("broken pipe"), "{arguments:?}: {said}");
            assert_eq!(code(&output), code(&listened), "{arguments:?}: {}", stderr(&output));
            let deaf = run(&|command| {
                command.stdout(unread()).stderr(unread());
            });
            assert_eq!(code(&deaf), code(&listened), "{arguments:?}");
        }
    }
}

#[test]
fn work_that_was_asked_for_is_done_though_nobody_reads_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let server =
        Server::start(Script { jobs: vec![job(ID, Running), job(OTHER, Queued)], ..Default::default() });
    let mut cancel = crate::fake::command(server.address, &["cancel", ID, OTHER]);
    assert_eq!(cancel.stdout(unread()).status().unwrap().code(), Some(0));
    let states: Vec<_> = server.script.lock().unwrap().jobs.iter().map(pb::Job::state).collect();
    assert_eq!(states, [pb::JobState::Cancelled; 2]);

    let demo = dir.path().join("demo");
    let mut command =
        crate::fake::command(server.address, &["demo-data", demo.to_str().unwrap(), "--train", "2"]);
    assert_eq!(command.args(["--val", "1"]).stdout(unread()).status().unwrap().code(), Some(0));
    assert!(demo.join("data.yaml").is_file());
}

#[test]
fn who_follows_a_job_ends_when_its_reader_does_though_nothing_more_happens() {
    for arguments in [&["watch", ID][..], &["logs", "-f", ID]] {
        let script = Script {
            jobs: vec![job(ID, Running)],
            watches: vec![vec![Ok(state(1, Running)), Ok(log(2, Level::Warning, "hello"))]],
            hang: true,
            ..Default::default()
        };
        let server = Server::start(script);
        let mut child = crate::fake::command(server.address, arguments).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.next().unwrap().unwrap();
        drop(lines);
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
