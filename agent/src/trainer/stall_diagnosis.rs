//! What a process that makes no progress looks like from outside: what its threads wait for in the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tokio::time::timeout;

/// Reading a process in `/proc` hangs while the kernel has locked its memory; it is given up after so long.
const LONGEST_READ: Duration = Duration::from_secs(2);

/// So many kinds of threads are named.
const SHOWN_KINDS: usize = 4;

/// So many frames of a stack are shown.
const SHOWN_FRAMES: usize = 6;

/// What one thread of the process does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Thread {
    /// Its state as `/proc` has it: `D`, `S`, `R`, `T` …
    state: String,
    /// The kernel's function in which it waits; empty where the kernel does not tell.
    waits_in: String,
}

/// What the threads of process `pid` do, for a person.
pub async fn diagnose(pid: u32) -> String {
    let reading = tokio::task::spawn_blocking(move || read_threads(pid));
    match timeout(LONGEST_READ, reading).await {
        Ok(Ok(text)) => text,
        Ok(Err(_)) | Err(_) => "its threads cannot be looked at".to_owned(),
    }
}

fn read_threads(pid: u32) -> String {
    let mut threads = Vec::new();
    let mut stack = String::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let Some(state) = state(&read("stat")) else { continue };
        let waits_in = read("wchan").trim().to_owned();
        let waits_in = if waits_in == "0" { String::new() } else { waits_in };
        if state == "D" && stack.is_empty() {
            stack = frames(&read("stack"));
        }
        threads.push(Thread { state, waits_in });
    }
    description(threads, &stack)
}

/// The state in a line of `/proc/…/stat`, whose name, in parentheses, may hold anything.
fn state(stat: &str) -> Option<String> {
    let (_, after) = stat.rsplit_once(") ")?;
    after.split(' ').next().map(str::to_owned)
}

/// The functions of a stack, innermost first. `[<0>] nfs_wait_bit_killable+0x10/0x40` is named without its numbers.
fn frames(stack: &str) -> String {
    let names = stack.lines().filter_map(|line| line.split_whitespace().nth(1)?.split('+').next());
    names.take(SHOWN_FRAMES).collect::<Vec<_>>().join(" < ")
}

fn description(threads: Vec<Thread>, stack: &str) -> String {
    if threads.is_empty() {
        return "its process is gone".to_owned();
    }
    let count = threads.len();
    let mut kinds = BTreeMap::<Thread, usize>::new();
    threads.into_iter().for_each(|thread| *kinds.entry(thread).or_default() += 1);
    let mut kinds: Vec<(Thread, usize)> = kinds.into_iter().collect();
    // Those that cannot be woken explain most, then those that were stopped.
    kinds.sort_by_key(|(thread, count)| {
        let rank = ["D", "T", "t", "R"].iter().position(|state| *state == thread.state);
        (rank.unwrap_or(9), std::cmp::Reverse(*count))
    });
    let named = kinds.iter().take(SHOWN_KINDS).map(|(thread, count)| {
        let what = match thread.state.as_str() {
            "D" => "cannot be interrupted",
            "T" => "stopped by a signal",
            "t" => "stopped by a debugger",
            "R" => "computing",
            "S" => "waiting",
            "Z" => "dead",
            other => other,
        };
        let place =
            if thread.waits_in.is_empty() { String::new() } else { format!(" in {}", thread.waits_in) };
        format!("{count} {what}{place} ({})", thread.state)
    });
    let text = format!("of its {count} threads {}", named.collect::<Vec<_>>().join(", "));
    if stack.is_empty() { text } else { format!("{text}; stack of the first: {stack}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(state: &str, waits_in: &str) -> Thread {
        Thread { state: state.into(), waits_in: waits_in.into() }
    }

    #[test]
    fn threads_that_cannot_be_interrupted_are_named_first_with_a_stack() {
        let sleeps = thread("S", "futex_wait_queue");
        let threads = vec![sleeps.clone(), thread("D", "nfs_wait_bit_killable"), sleeps];
        let stack = frames("[<0>] nfs_wait_bit_killable+0x10/0x40\n[<0>] __wait_on_bit+0x2f/0x90\n");
        let wanted = "of its 3 threads 1 cannot be interrupted in nfs_wait_bit_killable (D), 2 waiting in \
                      futex_wait_queue (S); stack of the first: nfs_wait_bit_killable < __wait_on_bit";
        assert_eq!(description(threads, &stack), wanted);
        assert_eq!(description(Vec::new(), ""), "its process is gone");
        assert_eq!(state("12 (a ) b) T 1 2").as_deref(), Some("T"));
    }

    #[tokio::test]
    async fn this_process_can_be_diagnosed() {
        let text = diagnose(std::process::id()).await;
        assert!(text.starts_with("of its ") && text.contains("threads"), "{text}");
    }
}
