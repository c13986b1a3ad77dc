//! Webhooks, and the page in a browser.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use trainyard_proto::pb;

use crate::fake::{ID, Script, Server, code, command, job, stderr, stdout};

#[test]
fn a_webhook_is_added_with_its_kind_and_what_it_is_for_and_its_secret_is_shown_once() {
    let server = Server::start(Script::default());
    let url = "https://hooks.slack.com/services/T/B/Xy2z";
    let output = server.yard(&["notify", "add", url, "--kind", "slack", "--on", "failed,waiting"]);
    assert_eq!((code(&output), stdout(&output)), (0, format!("{ID}\n")), "{output:?}");
    assert!(stderr(&output).contains("the secret 5ec2e7, which is not shown again"), "{output:?}");
    let request = &server.script.lock().unwrap().orders[0];
    assert!(request.contains(url) && request.contains("kind: Slack"), "{request}");
    assert!(request.contains("events: [JobFailed, JobWaiting]"), "{request}");
}

#[test]
fn what_to_be_told_of_is_left_to_the_scheduler_where_nothing_is_said() {
    let server = Server::start(Script::default());
    assert_eq!(code(&server.yard(&["notify", "add", "https://ntfy.sh/cells"])), 0);
    let request = server.script.lock().unwrap().orders[0].clone();
    assert!(request.contains("kind: Unspecified") && request.contains("events: []"), "{request}");
    assert_eq!(code(&server.yard(&["notify", "add", "https://ntfy.sh/x", "--on", "started"])), 2);
}

#[test]
fn the_list_says_how_calls_go_and_what_was_given_up() {
    let server = Server::start(Script::default());
    let output = stdout(&server.yard(&["notify", "list"]));
    assert!(output.contains("last told at 2023-11-14T22:15:00Z"), "{output}");
    assert!(output.contains("given up at 2023-11-14T22:16:40Z"), "{output}");
    assert!(output.contains("404 Not Found") && !output.contains('\u{1b}'), "{output}");
    let json = stdout(&server.yard(&["notify", "list", "-o", "jsonl"]));
    assert_eq!(json.lines().count(), 2, "{json}");
    assert!(json.contains("\"givenUpTime\"") || json.contains("\"given_up_time\""), "{json}");
}

#[test]
fn a_test_fails_where_the_webhook_does_not_take_it() {
    let server = Server::start(Script::default());
    let output = server.yard(&["notify", "test", "019a"]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(stdout(&output).contains("took the message"), "{output:?}");
    let output = server.yard(&["notify", "test", "dead"]);
    assert_eq!(code(&output), 1, "{output:?}");
    assert!(stderr(&output).contains("did not take the message: it answered"), "{output:?}");
    let output = server.yard(&["notify", "rm", "019a"]);
    assert!(stdout(&output).ends_with("is called no more\n"), "{output:?}");
}

#[test]
fn open_prints_the_page_of_the_cluster_or_of_a_job() {
    let server = Server::start(Script { jobs: vec![job(ID, pb::JobState::Running)], ..Script::default() });
    let yard = |arguments: &[&str]| {
        let mut command = command(server.address, arguments);
        command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").output().unwrap()
    };
    let site = format!("http://{}", server.address);
    assert_eq!(stdout(&yard(&["open"])), format!("{site}/\n"));
    assert_eq!(stdout(&yard(&["open", "019ab3"])), format!("{site}/jobs/{ID}\n"));
    assert_eq!(stdout(&yard(&["open", "-o", "jsonl"])), format!("{{\"url\":\"{site}/\"}}\n"));
    assert_eq!(code(&yard(&["open", "ffff"])), 4);
}

#[test]
fn open_has_the_desktop_open_the_page_where_there_is_a_display() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, program) = (dir.path().join("opened"), dir.path().join("xdg-open"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::write(&program, format!("#!/bin/sh\necho \"$1\" > '{}'\n", pipe.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let server = Server::start(Script::default());
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let yard = |path: &str, arguments: &[&str]| {
        command(server.address, arguments).env("DISPLAY", ":9").env("PATH", path).output().unwrap()
    };
    let output = yard(&path, &["open"]);
    // Blocks until the program has opened it, too.
    let opened = fs::read_to_string(&pipe).unwrap();
    assert_eq!((code(&output), opened), (0, format!("http://{}/\n", server.address)), "{output:?}");
    let output = yard("/nonexistent", &["open"]);
    assert!(stderr(&output).contains("open it yourself"), "{output:?}");
    assert_eq!(stderr(&yard("/nonexistent", &["open", "--print"])), "");
}
