//! Commands as processes: what they print, what they send, how they exit.

mod fake;

use fake::{ID, Script, Server, code, job, stderr, stdout};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};
use trainyard_proto::pb;
use trainyard_proto::pb::JobState::{Queued, Running, Succeeded};

const OTHER: &str = "019ab3c4-1f2f-7000-8000-000000000002";
const THIRD: &str = "019ab3c4-1f30-7000-8000-000000000003";

fn bad_request() -> Status {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("spec.train.epochs", "is 0; use 1 to 100000");
    details.add_bad_request_violation("spec.train.imgsz", "is 100; use a multiple of 32 from 32 to 4096");
    Status::with_error_details(tonic::Code::InvalidArgument, "the job has 2 bad fields", details)
}

#[test]
fn no_server_is_exit_code_3_with_a_way_out() {
    let (address, _) = Server::start(Script::default()).kill();
    // Each waits a little for a server that may be restarting, so they wait together.
    let commands = [&["jobs"][..], &["watch", ID], &["artifacts", ID]];
    let children = commands.map(|arguments| fake::command(address, arguments).spawn().unwrap());
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 3, "{output:?}");
        let text = stderr(&output);
        assert!(text.contains("cannot be reached") && text.contains("hint: is it running?"), "{text}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_job_that_is_not_there_is_exit_code_4() {
    let output = Server::start(Script::default()).yard(&["job", "0000"]);
    assert_eq!(code(&output), 4);
    assert_eq!(
        stderr(&output),
        "error: there is no job `0000`\nhint: `yard jobs` lists the jobs that there are, `yard agents` the agents\n"
    );
}

#[test]
fn a_bad_spec_is_exit_code_2_and_names_every_field() {
    let script = Script { refuse: Some((String::new(), bad_request())), ..Default::default() };
    let output =
        Server::start(script).yard(&["train", "/nowhere/data.yaml", "--epochs", "0", "--imgsz", "100"]);
    assert_eq!(code(&output), 2);
    let wanted = "error: the job has 2 bad fields\n  spec.train.epochs: is 0; use 1 to 100000\n  \
                  spec.train.imgsz: is 100; use a multiple of 32 from 32 to 4096\nhint: ";
    assert!(stderr(&output).contains(wanted), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let server = Server::start(Script::default());
    for wrong in [&["frobnicate"][..], &["train"], &["train", "d", "--min-vram", "20"], &["job", "not an id"]]
    {
        assert_eq!(code(&server.yard(wrong)), 2, "{wrong:?}");
    }
    assert_eq!(code(&server.yard(&["--help"])), 0);
}

#[test]
fn a_submission_is_repeated_under_one_name_while_the_server_is_away() {
    let server = Server::start(Script { unavailable: 2, ..Default::default() });
    let mut command = fake::command(server.address, &["train", "/nowhere/data.yaml", "--lr0", "0.02"]);
    let output = command.env("YARD_TOKEN", "s3cret").output().unwrap();
    assert_eq!((code(&output), stdout(&output)), (0, format!("{ID}\n")));
    assert!(stderr(&output).contains("warning: `/nowhere/data.yaml` is no file on this machine"));
    assert!(!stderr(&output).contains("s3cret"));
    let script = server.script.lock().unwrap();
    assert_eq!(script.submitted.len(), 3);
    assert!(script.submitted.windows(2).all(|pair| pair[0] == pair[1]));
    let train = script.submitted[0].spec.clone().unwrap().train.unwrap();
    assert_eq!((train.data.as_str(), train.lr0, train.epochs), ("/nowhere/data.yaml", Some(0.02), None));
    let (user, authorization) = &script.metadata[0];
    assert!(user.as_ref().is_some_and(|user| !user.is_empty()));
    assert_eq!(authorization.as_deref(), Some("Bearer s3cret"));
}

#[test]
fn a_dry_run_asks_and_queues_nothing() {
    let server = Server::start(Script::default());
    let output = server.yard(&["train", "/nowhere/data.yaml", "--dry-run"]);
    assert_eq!((code(&output), stdout(&output)), (0, String::new()));
    assert!(server.script.lock().unwrap().submitted.iter().all(|request| request.validate_only));
}

#[test]
fn of_a_file_with_one_bad_job_nothing_is_submitted() {
    let dir = tempfile::tempdir().unwrap();
    let text = "name: good\ntrain: {model: yolov8n, data: /d}\n---\nname: bad one\ntrain: {model: yolov8n, data: /d}\n";
    let file = fake::write(dir.path(), "job.yaml", text);
    let script = Script { refuse: Some(("bad".into(), bad_request())), ..Default::default() };
    let server = Server::start(script);
    let output = server.yard(&["submit", "-f", &file]);
    assert_eq!(code(&output), 2);
    let text = stderr(&output);
    assert!(text.contains("job.yaml: nothing was submitted"), "{text}");
    assert!(text.contains("\n  document 2: spec.train.epochs: is 0"), "{text}");
    assert!(text.contains("\n  document 2: spec.train.imgsz: is 100"), "{text}");
    assert!(server.script.lock().unwrap().submitted.iter().all(|request| request.validate_only));
}

#[test]
fn a_file_with_good_jobs_prints_an_id_for_each() {
    let dir = tempfile::tempdir().unwrap();
    let file = fake::write(
        dir.path(),
        "jobs.yaml",
        "train: {model: yolov8n, data: /d}\n---\ntrain: {model: yolov8s, data: /d}\n",
    );
    let server = Server::start(Script::default());
    let output = server.yard(&["submit", "-f", &file]);
    let id = |at: u32| format!("{}{at}", &ID[..35]);
    assert_eq!((code(&output), stdout(&output)), (0, format!("{}\n{}\n", id(0), id(1))));
    let output = server.yard(&["submit", "-f", &file, "-o", "jsonl"]);
    assert_eq!(stdout(&output).lines().count(), 2);
    let names = server.script.lock().unwrap().batches.clone();
    assert!(names.len() == 2 && names.iter().all(|name| uuid::Uuid::try_parse(name).is_ok()));
}

#[test]
fn a_sweep_is_one_call_and_is_shown_and_cancelled_as_one() {
    let server = Server::start(Script::default());
    let train = ["train", "/d.yaml", "--sweep", "lr0=0.1,0.2", "--sweep", "seed=1,2,3"];
    let output = server.yard(&train);
    assert_eq!((code(&output), stdout(&output)), (0, format!("{ID}\n")));
    assert!(stderr(&output).contains("6 jobs are queued"), "{output:?}");
    assert_eq!(server.script.lock().unwrap().sweeps[0].axes[1].values, ["1", "2", "3"]);
    let text = stdout(&server.yard(&["sweep", ID]));
    assert_eq!(text, format!("ID        {ID}\nParameter lr0 = 0.1, 0.2\nRUNNING   2\n"));
    assert!(stdout(&server.yard(&["cancel", "--sweep", ID])).contains("CANCELLED 2"));
    let output = server.yard(&["jobs", "--sweep", ID, "--label", "a=b", "--name", "cells"]);
    assert_eq!(code(&output), 0);
    let listed = server.script.lock().unwrap().listed.clone();
    assert_eq!((listed[0].sweep_id.as_str(), listed[0].name_prefix.as_str()), (ID, "cells"));
    assert_eq!(listed[0].labels["a"], "b");
}

#[test]
fn jobs_are_listed_over_pages_as_a_table_or_as_json() {
    let mut running = job(OTHER, Running);
    running.spec = Some(pb::JobSpec { name: "cells \x1b[2J".into(), ..Default::default() });
    running.progress = Some(pb::Progress {
        epoch: 3,
        epochs: 50,
        metrics: [("metrics/mAP50-95(B)".to_owned(), 0.4321)].into(),
        eta: Some(prost_types::Duration { seconds: 754, nanos: 0 }),
        ..Default::default()
    });
    running.attempts =
        vec![pb::Attempt { agent_name: "lab1".into(), device: "CPU".into(), ..Default::default() }];
    let mut queued = job(ID, Queued);
    (queued.queue_position, queued.waiting_for) = (Some(1), "needs a card with 20 GB".into());
    let script = Script { jobs: vec![queued, running, job(THIRD, Succeeded)], ..Default::default() };
    let server = Server::start(script);
    let output = server.yard(&["jobs", "--state", "running", "--state", "queued", "--user", "ada"]);
    let text = stdout(&output);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split("  ").filter(|cell| !cell.trim().is_empty()).map(str::trim).collect())
        .collect();
    assert_eq!(
        lines[0],
        ["ID", "NAME", "USER", "STATE", "PROGRESS", "mAP50-95", "ETA", "AGE", "WHERE / WAITING FOR"]
    );
    assert_eq!(
        lines[1],
        ["019ab3c4-1f2e", "ada", "QUEUED", "-", "-", "-", "-", "#1 needs a card with 20 GB"]
    );
    let row = [
        "019ab3c4-1f2f",
        "cells \u{FFFD}[2J",
        "ada",
        "RUNNING",
        "epoch 3/50",
        "0.432",
        "12m",
        "-",
        "lab1: CPU",
    ];
    assert_eq!(lines[2], row);
    assert_eq!(lines.len(), 4);
    let listed = server.script.lock().unwrap().listed.clone();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|request| request.states == [3, 1] && request.user == "ada"));
    let json: serde_json::Value =
        serde_json::from_slice(&server.yard(&["jobs", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["jobs"][1]["progress"]["eta"], "754s");
    assert_eq!(json["jobs"][1]["state"], "RUNNING");
    assert_eq!(stdout(&server.yard(&["jobs", "-o", "jsonl"])).lines().count(), 3);
    let limited = server.yard(&["jobs", "--limit", "2"]);
    assert_eq!(stdout(&limited).lines().count(), 3);
    assert!(stderr(&limited).contains("there are more"));
}

#[test]
fn every_job_is_cancelled_even_when_one_is_not_there() {
    let server =
        Server::start(Script { jobs: vec![job(ID, Running), job(OTHER, Queued)], ..Default::default() });
    let output = server.yard(&["cancel", "019ab3c4-1f2e", "0000", "019ab3c4-1f2f"]);
    assert_eq!(code(&output), 4);
    assert_eq!(stdout(&output), format!("{ID} cancelled\n{OTHER} cancelled\n"));
    assert!(stderr(&output).contains("there is no job `0000`"));
}

#[test]
fn a_job_that_runs_cannot_be_retried() {
    let output = Server::start(Script::default()).yard(&["retry", ID]);
    assert_eq!(code(&output), 4);
    assert!(stderr(&output).contains("error: the job runs"), "{output:?}");
}

#[test]
fn gpus_show_a_dash_for_what_the_driver_does_not_tell() {
    let gpu = pb::Gpu {
        index: 1,
        model: "NVIDIA GeForce RTX 4090".into(),
        memory_total_mib: 24564,
        memory_free_mib: Some(20000),
        utilization_ratio: Some(0.93),
        ..Default::default()
    };
    let agent = pb::Agent {
        id: ID.into(),
        name: "lab1".into(),
        state: pb::AgentState::Connected.into(),
        gpus: vec![gpu],
        ..Default::default()
    };
    let server = Server::start(Script { agents: vec![agent], ..Default::default() });
    let text = stdout(&server.yard(&["gpus"]));
    let row: Vec<&str> =
        text.lines().nth(1).unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(
        row,
        ["lab1", "1", "NVIDIA GeForce RTX 4090", "20000 MiB", "24564 MiB", "93 %", "-", "-", "-"]
    );
    assert!(stdout(&server.yard(&["agents"])).contains("1 × NVIDIA GeForce RTX 4090 (1 free)"));
    let json: serde_json::Value =
        serde_json::from_slice(&server.yard(&["gpus", "-o", "json"]).stdout).unwrap();
    assert_eq!(
        (&json["gpus"][0]["agent"], &json["gpus"][0]["memoryTotalMib"]),
        (&"lab1".into(), &"24564".into())
    );
}

#[test]
fn completions_are_printed_for_every_shell() {
    let (address, _) = Server::start(Script::default()).kill();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = fake::command(address, &["completions", shell]).output().unwrap();
        assert!(stdout(&output).contains("demo-data"), "{shell}");
    }
}

#[test]
fn a_file_of_settings_with_an_unknown_key_is_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("trainyard")).unwrap();
    fake::write(dir.path(), "trainyard/cli.toml", "servr = 'x'\n");
    let mut command = fake::command("127.0.0.1:1".parse().unwrap(), &["jobs"]);
    let output = command.env("XDG_CONFIG_HOME", dir.path()).output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("did you mean `server`?"), "{output:?}");
}

#[test]
fn the_help_names_every_command_in_a_line() {
    let output = fake::command("127.0.0.1:1".parse().unwrap(), &["-h"]).output().unwrap();
    let text = stdout(&output);
    let commands: String = text.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap().to_owned();
    let wanted = "  up           Run a whole cluster on this machine: private Redis, scheduler, agent
  train        Queue a training job from flags and print its id
  submit       Queue the jobs of a file and print their ids
  jobs         List jobs, newest first
  job          Show everything about a job
  sweep        Show a sweep: its parameters, and how many of its jobs are in each state
  watch        Follow a job until it ends
  logs         Print a job's log
  metrics      Print a job's figures, epoch by epoch
  cancel       End jobs
  retry        Queue a job that failed or was cancelled again
  agents       List the machines
  gpus         List the GPUs: what they are, how busy, and for which job
  artifacts    List or fetch what a job has left behind
  demo-data    Write a small generated data set in YOLO format
  completions  Print a completion script for a shell
  help         Print this message or the help of the given subcommand(s)";
    assert_eq!(commands, wanted);
}
