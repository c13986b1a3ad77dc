//! What a trainer's exit means.

use std::path::PathBuf;

use trainyard_types::EndReason;
use trainyard_types::trainer::exit_code;

use super::attempt::{Attempt, State};

/// How a trainer's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Code or signal.
    pub kind: ExitKind,
    /// The kernel killed something for want of memory while it ran.
    pub out_of_memory_kill: bool,
    /// The last lines of its standard error.
    pub stderr_tail: String,
    /// Lines of its event stream that were left out.
    pub bad_lines: u64,
}

/// See [`Exit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

const SIGKILL: i32 = 9;

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Upload these, then it is completed.
    Publish(Vec<PathBuf>),
    /// It is over, with a sentence for a person.
    End(EndReason, String),
}

/// Judges an exit by what the trainer told and what it was asked.
pub fn outcome(attempt: &Attempt, exit: &Exit) -> Outcome {
    let told = attempt.failed.as_ref().map(|failed| failed.message.clone());
    if attempt.stop == Some(EndReason::Cancelled) {
        return Outcome::End(EndReason::Cancelled, stopped(attempt, exit));
    }
    match (exit.kind, &attempt.finished, attempt.stop) {
        (ExitKind::Code(exit_code::DONE), Some(finished), _) => Outcome::Publish(finished.artifacts.clone()),
        (ExitKind::Code(exit_code::BAD_SPEC), ..) => {
            Outcome::End(EndReason::BadSpec, told.unwrap_or_else(|| with_stderr("bad spec or data", exit)))
        }
        (ExitKind::Code(exit_code::GPU_OOM), ..) => {
            let text = "the card's memory is too small even for batch 1".to_owned();
            Outcome::End(EndReason::GpuOom, told.unwrap_or(text))
        }
        (_, _, Some(reason)) => Outcome::End(reason, stopped(attempt, exit)),
        (ExitKind::Code(exit_code::STOPPED), ..) => {
            // The agent did not ask: somebody else stops this machine's processes.
            let text = "the trainer was stopped from outside and left a checkpoint".to_owned();
            Outcome::End(EndReason::Drained, text)
        }
        (ExitKind::Signal(SIGKILL), ..) if exit.out_of_memory_kill => {
            let text = "the machine's memory ran out and the kernel killed the trainer; use fewer workers, \
                        a smaller batch or `cache: none`";
            Outcome::End(EndReason::HostOom, text.into())
        }
        (ExitKind::Code(exit_code::DONE), None, None) => {
            let text = "the trainer exited with 0 but never said that it had finished";
            Outcome::End(EndReason::TrainerCrash, with_stderr(text, exit))
        }
        (ExitKind::Code(code), ..) => {
            let text = told.unwrap_or_else(|| with_stderr("the trainer crashed", exit));
            Outcome::End(EndReason::TrainerCrash, format!("{text} (exit code {code})"))
        }
        (ExitKind::Signal(signal), ..) => {
            let name = nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| format!("signal {signal}"), |name| name.to_string());
            // Somebody sent SIGKILL; what the trainer said before explains nothing.
            let text = format!("{name} ended the trainer");
            let text = if signal == SIGKILL { text } else { with_stderr(&text, exit) };
            Outcome::End(EndReason::TrainerCrash, text)
        }
    }
}

fn stopped(attempt: &Attempt, exit: &Exit) -> String {
    match (&attempt.state, exit.kind) {
        (State::Killed, ExitKind::Signal(_)) => {
            "the trainer did not stop within the grace period and was killed".into()
        }
        (_, ExitKind::Code(exit_code::STOPPED)) => "stopped with a checkpoint".into(),
        _ => "stopped".into(),
    }
}

fn with_stderr(text: &str, exit: &Exit) -> String {
    if exit.stderr_tail.is_empty() { text.to_owned() } else { format!("{text}: {}", exit.stderr_tail) }
}
