//! Finds processes that a trainer or a former agent has left behind, however they have placed themselves: each
//! process that a trainer starts inherits, in its environment, which agent and which attempt it belongs to.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The environment variable that names whom a process works for: `OWNER/JOB/NUMBER`, with an owner as
/// [`crate::identity::Identity::owner`] names it.
pub const VARIABLE: &str = "TRAINYARD_TRAINER_OF";

/// A process may start children until it is killed itself, so it takes several rounds to find all.
const ROUNDS: u32 = 50;
const ROUND: Duration = Duration::from_millis(20);

/// A process: its id, and when it started, which tells it from a later process of the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    started: u64,
}

/// Kills every process but this one that works for `owner`, an agent or an agent's attempt, until none is left.
/// Returns how many there were.
pub fn end(owner: &str) -> usize {
    let mut ended = 0;
    for _ in 0..ROUNDS {
        let found = find(owner);
        if found.is_empty() {
            break;
        }
        for process in found {
            // Between the search and the signal the id may have become another process'.
            if started(process.pid) == Some(process.started) {
                // The only error is that it is gone already.
                ended += usize::from(kill(Pid::from_raw(process.pid), Signal::SIGKILL).is_ok());
            }
        }
        thread::sleep(ROUND);
    }
    ended
}

fn find(owner: &str) -> Vec<Process> {
    let wanted = format!("{VARIABLE}={owner}").into_bytes();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            let started = started(pid)?;
            // What belongs to somebody else cannot be read, and is not ours.
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let ours = environment.split(|&byte| byte == 0).any(|entry| {
                entry.strip_prefix(&wanted[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            });
            ours.then_some(Process { pid, started })
        })
        .collect()
}

/// When a process started, in ticks since the machine did; `None` for one that is gone or only waits to be
/// reaped.
fn started(pid: i32) -> Option<u64> {
    parse_started(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_started(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold anything.
    let (_, after) = stat.rsplit_once(") ")?;
    let mut words = after.split(' ');
    let state = words.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    words.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processs_start_is_read_whatever_it_is_called() {
        let rest: Vec<String> = (4..=30).map(|number| number.to_string()).collect();
        let line = |state: &str| format!("12 (a ) b) {state} {}", rest.join(" "));
        assert_eq!(parse_started(&line("S")), Some(22));
        assert_eq!(parse_started(&line("Z")), None);
        assert!(started(i32::try_from(std::process::id()).unwrap()).is_some());
    }

    #[test]
    fn processes_are_found_by_what_they_inherit_and_others_are_left_alone() {
        let owner = format!("test-{}", std::process::id());
        let start = |value: &str| {
            let mut command = std::process::Command::new("tail");
            command.args(["-f", "/dev/null"]).env(VARIABLE, value).spawn().unwrap()
        };
        let (mut ours, mut other) = (start(&format!("{owner}/job/1")), start(&format!("{owner}0/job/1")));
        // The environment is there as soon as the program runs.
        while find(&owner).is_empty() {
            thread::yield_now();
        }
        assert_eq!(end(&owner), 1);
        assert!(!ours.wait().unwrap().success());
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
