//! `yard up` when something is missing or in the way. (What it does when all is well is tested where
//! the real programs are.)

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder with `yard` in it, and scripts in the place of the other programs.
struct Programs(tempfile::TempDir);

impl Programs {
    fn new() -> Self {
        // Next to the binaries, so that a hard link does.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::hard_link(env!("CARGO_BIN_EXE_yard"), dir.path().join("yard")).unwrap();
        Self(dir)
    }

    fn with_programs(scheduler: &str) -> Self {
        let programs = Self::new();
        for (name, script) in [
            ("trainyard-scheduler", scheduler),
            ("trainyard-agent", "exit 1"),
            ("trainyard-trainer", "exit 1"),
        ] {
            let path = programs.0.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        programs
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn up(&self, listen: &str) -> Output {
        let mut command = Command::new(self.0.path().join("yard"));
        command.args(["up", "--listen", listen, "--cpu-slots", "1", "--data-root", "/data", "--data-dir"]);
        command.arg(self.data()).output().unwrap()
    }
}

/// A port that was free a moment ago.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn missing_programs_are_named_all_at_once() {
    let output = Programs::new().up("127.0.0.1:7433");
    assert_eq!(output.status.code(), Some(2));
    for name in
        ["trainyard-scheduler is missing", "trainyard-agent is missing", "trainyard-trainer is missing"]
    {
        assert!(stderr(&output).contains(name), "{output:?}");
    }
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Programs::with_programs("exit 1").up(&address);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains(&format!("{address} is in use")), "{output:?}");
}

#[test]
fn a_scheduler_that_does_not_start_is_quoted() {
    let programs = Programs::with_programs("echo \"no redis at $TRAINYARD_SCHEDULER__DATA_DIR\"; exit 3");
    let output = programs.up(&free_address());
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("error: the scheduler ended unexpectedly (exit status: 3)"), "{text}");
    assert!(text.contains(&format!("no redis at {}/scheduler", programs.data().display())), "{text}");
}

#[test]
fn a_signal_while_starting_ends_the_child_and_is_a_success() {
    let programs =
        Programs::with_programs("echo $$ > \"$TRAINYARD_SCHEDULER__DATA_DIR.pid\"; exec sleep 1000");
    let mut command = Command::new(programs.0.path().join("yard"));
    command.args([
        "up",
        "--listen",
        &free_address(),
        "--cpu-slots",
        "1",
        "--data-root",
        "/data",
        "--data-dir",
    ]);
    let mut child = command.arg(programs.data()).spawn().unwrap();
    let file = programs.data().join("scheduler.pid");
    let pid = loop {
        match fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i32>().ok()) {
            Some(pid) => break nix::unistd::Pid::from_raw(pid),
            None => std::thread::yield_now(),
        }
    };
    let yard = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(yard, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(nix::sys::signal::kill(pid, None), Err(nix::errno::Errno::ESRCH));
}
