//! Following a job through restarts of the server, and the exit codes that tell how it ended.

use std::io::{BufRead as _, BufReader};

use tonic::Status;
use trainyard_proto::pb;
use trainyard_proto::pb::JobState::{Cancelled, Failed, Queued, Running, Succeeded};
use trainyard_proto::pb::log_line::Level;

use crate::fake::{ID, Script, Server, code, epoch, job, log, state, stderr, stdout};

#[test]
fn a_watch_that_loses_its_connection_goes_on_after_its_cursor_without_doubles() {
    let script = Script {
        jobs: vec![job(ID, Succeeded)],
        watches: vec![
            vec![Ok(state(1, Queued)), Ok(state(2, Running)), Err(Status::unavailable("going down"))],
            vec![Err(Status::unavailable("not yet"))],
            // A server that sends more than was asked for, and ends before the job does.
            vec![Ok(state(2, Running)), Ok(epoch(3, 1, 0.4))],
            vec![Ok(epoch(3, 1, 0.4)), Ok(epoch(4, 2, 0.5)), Ok(state(5, Succeeded))],
        ],
        ..Default::default()
    };
    // The third stream ends well although the job runs; GetJob then tells that it does.
    let server = Server::start(script);
    server.script.lock().unwrap().jobs[0].state = Running.into();
    let output = server.yard(&["watch", ID, "-o", "jsonl"]);
    let cursors: Vec<serde_json::Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["cursor"].clone())
        .collect();
    assert_eq!(cursors, ["1", "2", "3", "4", "5"], "{output:?}");
    assert_eq!(server.script.lock().unwrap().cursors, [0, 2, 2, 3]);
    assert!(stderr(&output).contains("the connection is lost"), "{output:?}");
}

#[test]
fn a_watch_survives_a_server_that_is_killed_and_started_again() {
    let first = Script {
        jobs: vec![job(ID, Succeeded)],
        watches: vec![vec![Ok(state(1, Queued)), Ok(state(2, Running))]],
        hang: true,
        ..Default::default()
    };
    let server = Server::start(first);
    let mut child = crate::fake::command(server.address, &["watch", ID]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "2023-11-14T22:13:21Z  QUEUED  reason 1");
    assert_eq!(lines.next().unwrap(), "2023-11-14T22:13:22Z  RUNNING  reason 2");
    let (address, script) = server.kill();
    script.lock().unwrap().watches = vec![vec![Ok(epoch(3, 3, 0.5)), Ok(state(4, Succeeded))]];
    script.lock().unwrap().hang = false;
    let _server = Server::start_at(address, script);
    let rest: Vec<String> = lines.collect();
    let wanted = [
        "2023-11-14T22:13:23Z  epoch 3/3  box 1.500  mAP50 0.500 mAP50-95 0.250  40.0 images/s",
        "2023-11-14T22:13:24Z  SUCCEEDED  reason 4",
    ];
    assert_eq!(rest, wanted);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_exit_code_says_how_the_job_ended() {
    for (end, wanted) in [(Succeeded, 0), (Failed, 1), (Cancelled, 1)] {
        let script =
            Script { jobs: vec![job(ID, end)], watches: vec![vec![Ok(state(1, end))]], ..Default::default() };
        let output = Server::start(script).yard(&["watch", "019ab3c4"]);
        assert_eq!(code(&output), wanted, "{output:?}");
    }
}

#[test]
fn a_successful_job_ends_with_its_classes_and_the_way_to_its_weights() {
    let mut done = job(ID, Succeeded);
    let figures = [
        ("metrics/mAP50(B)", 0.91),
        ("metrics/mAP50-95(B)", 0.61),
        ("metrics/mAP50(B)/circle", 0.95),
        ("metrics/mAP50-95(B)/circle", 0.65),
        ("metrics/mAP50(B)/a/b", 0.87),
    ];
    let metrics = figures.map(|(name, value)| (name.to_owned(), value)).into();
    done.progress = Some(pb::Progress { epoch: 3, epochs: 3, metrics, ..Default::default() });
    let script =
        Script { jobs: vec![done], watches: vec![vec![Ok(state(1, Succeeded))]], ..Default::default() };
    let output = Server::start(script).yard(&["watch", ID]);
    let table = "CLASS   mAP50  mAP50-95\na/b     0.870         -\ncircle  0.950     0.650\nall     0.910     0.610\n";
    assert!(stdout(&output).ends_with(table), "{}", stdout(&output));
    assert!(stderr(&output).contains(&format!("`yard artifacts {ID} get`")), "{output:?}");
}

#[test]
fn train_with_follow_prints_the_id_and_ends_as_the_job_does() {
    let script = Script {
        jobs: vec![job(ID, Failed)],
        watches: vec![vec![
            Ok(state(1, Queued)),
            Ok(log(2, Level::Warning, "2 images skipped")),
            Ok(state(3, Failed)),
        ]],
        ..Default::default()
    };
    let output = Server::start(script).yard(&["train", "/nowhere/data.yaml", "--follow"]);
    assert_eq!(code(&output), 1);
    let lines: Vec<String> = stdout(&output).lines().map(str::to_owned).collect();
    assert_eq!(lines[0], ID);
    assert_eq!(lines[2], "2023-11-14T22:13:22Z  warning: 2 images skipped");
}

#[test]
fn ctrl_c_detaches_with_130_and_says_that_the_job_goes_on() {
    let script = Script {
        jobs: vec![job(ID, Running)],
        watches: vec![vec![Ok(state(1, Running))]],
        hang: true,
        ..Default::default()
    };
    let server = Server::start(script);
    let mut child = crate::fake::command(server.address, &["watch", ID]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 130, "{output:?}");
    assert!(stderr(&output).contains("the job goes on"), "{output:?}");
}

#[test]
fn logs_print_history_and_can_be_cut_to_the_last_lines() {
    let lines = || (1..=5).map(|at| Ok(log(at, Level::Info, &format!("line {at}")))).collect::<Vec<_>>();
    let script =
        Script { jobs: vec![job(ID, Running)], watches: vec![lines(), lines()], ..Default::default() };
    let server = Server::start(script);
    assert_eq!(stdout(&server.yard(&["logs", ID])).lines().count(), 5);
    let output = server.yard(&["logs", ID, "--tail", "2"]);
    assert_eq!(stdout(&output), "2023-11-14T22:13:24Z  line 4\n2023-11-14T22:13:25Z  line 5\n");
}

#[test]
fn metrics_keep_the_later_figures_of_an_epoch_that_was_repeated() {
    let events = vec![Ok(epoch(1, 1, 0.1)), Ok(epoch(2, 2, 0.2)), Ok(epoch(3, 2, 0.4)), Ok(epoch(4, 3, 0.6))];
    let script = Script {
        jobs: vec![job(ID, Succeeded)],
        watches: vec![events.clone(), events],
        ..Default::default()
    };
    let server = Server::start(script);
    let json: serde_json::Value =
        serde_json::from_slice(&server.yard(&["metrics", ID, "-o", "json"]).stdout).unwrap();
    let maps: Vec<&serde_json::Value> =
        json["metrics"].as_array().unwrap().iter().map(|one| &one["values"]["metrics/mAP50(B)"]).collect();
    assert_eq!(maps, [0.1, 0.4, 0.6]);
    let table = stdout(&server.yard(&["metrics", ID]));
    let second = table.lines().nth(2).unwrap();
    assert_eq!(
        second.split_whitespace().collect::<Vec<_>>()[..8],
        ["2/3", "1.5000", "-", "-", "-", "-", "0.4000", "0.2000"]
    );
}
