//! What a person sees on a terminal, through a real pseudo-terminal.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use trainyard_proto::pb::JobState::Running;

use crate::fake::{ID, Script, Server, epoch, job, state, step};

/// Reads until the text holds `wanted`, or to the end.
fn read_until(terminal: &mut File, seen: &mut String, wanted: &str) {
    let mut buffer = [0; 4096];
    while !seen.contains(wanted) {
        // The end of a pseudo-terminal is an error on Linux.
        match terminal.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => seen.push_str(&String::from_utf8_lossy(&buffer[..count])),
        }
    }
}

/// Starts a command on a terminal of 120 columns. Returns it, and the terminal's other side.
fn on_a_terminal(mut command: Command) -> (Child, File) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let size = Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&controller, size).unwrap();
    let path = ptsname(&controller, Vec::new()).unwrap();
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
    let side = File::options().read(true).write(true).open(path).unwrap();
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    command.stdout(Stdio::from(side.try_clone().unwrap())).stderr(Stdio::from(side));
    // The command holds the other side open; it goes here, or reads would not end.
    (command.spawn().unwrap(), File::from(controller))
}

#[test]
fn a_push_draws_a_bar_with_rate_and_time_left() {
    let server = Server::start(Script::default());
    server.script.lock().unwrap().store.stop_reading = true;
    let dir = tempfile::tempdir().unwrap();
    let weights = [&b"PK\x03\x04"[..], &vec![7; (8 << 20) - 8], b"PK\x05\x06"].concat();
    std::fs::write(dir.path().join("w.pt"), weights).unwrap();
    let file = dir.path().join("w.pt").display().to_string();
    let command = crate::fake::command(server.address, &["weights", "push", &file]);
    let (mut child, mut terminal) = on_a_terminal(command);
    let mut seen = String::new();
    for wanted in ["the cluster does not have it", "sending", "/8.00 MiB", "MiB/s", " left"] {
        read_until(&mut terminal, &mut seen, wanted);
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    read_until(&mut terminal, &mut seen, "goes on where this one was");
    assert_eq!(child.wait().unwrap().code(), Some(130), "{seen:?}");
}

#[test]
fn a_watch_draws_a_bar_for_the_epoch_and_prints_its_end_above() {
    let script = Script {
        jobs: vec![job(ID, Running)],
        watches: vec![vec![Ok(state(1, Running)), Ok(epoch(2, 1, 0.5)), Ok(step(3, 12))]],
        hang: true,
        ..Default::default()
    };
    let server = Server::start(script);
    let (mut child, mut terminal) = on_a_terminal(crate::fake::command(server.address, &["watch", ID]));
    let mut seen = String::new();
    read_until(&mut terminal, &mut seen, "12/40");
    read_until(&mut terminal, &mut seen, "box 1.500 cls 2.500  57.5 images/s");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    read_until(&mut terminal, &mut seen, "ends it");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    for wanted in
        ["\x1b[36mRUNNING\x1b[0m", "epoch 1/3  box 1.500", "━", "12/40", "detached; the job goes on"]
    {
        assert!(seen.contains(wanted), "{wanted:?} is not in {seen:?}");
    }
}
