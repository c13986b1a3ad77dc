//! What a trainer's exit means.

use trainyard_types::batch_ladder::next_smaller;
use trainyard_types::faults;
use trainyard_types::oom_words::{self, OomVerdict};
use trainyard_types::trainer::{BatchSizeChanged, Finished, Phase, exit_code};
use trainyard_types::{EndReason, Unfit, UnfitKind};

use super::attempt::{Attempt, State};
use crate::message::{Exit, ExitKind, Refusal};

const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;

/// What libtorch's allocator for the CPU and Rust's say when main memory is used up. In lower case.
const MAIN_MEMORY_WORDS: [&str; 3] = [
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
    "memory allocation of",
];

/// What the system says when a disk is full.
const DISK_WORDS: [&str; 2] = ["no space left on device", "disk quota exceeded"];

/// So many new processes in a row, without an epoch in between, may run out of memory with batches that had fitted.
const MAX_OOM_RETRIES: u32 = 3;

/// What follows from a trainer's exit.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The artifacts are uploaded, and then the attempt is completed.
    Publish(Finished),
    /// The GPU's memory ran out and the process could not go on: a new process goes on with a smaller batch.
    RestartSmaller {
        /// The change, as it is told.
        changed: BatchSizeChanged,
        /// Whether that it was memory is only likely.
        guessed: bool,
    },
    /// Batches that had fitted did not any more: a new process goes on with the batch size that the trainer told.
    RestartSame,
    /// The attempt ends, for this reason.
    End(Refusal),
}

fn end(reason: EndReason, message: impl Into<String>) -> Outcome {
    Outcome::End(Refusal::new(reason, message))
}

/// Judges an exit by what the trainer told and what it was asked.
pub fn outcome(attempt: &Attempt, exit: &Exit) -> Outcome {
    let told = attempt.failed.as_ref().map(|failed| failed.message.clone());
    if attempt.stop == Some(EndReason::Cancelled) {
        return end(EndReason::Cancelled, stopped(attempt, exit));
    }
    let finished = attempt.finished.as_ref().filter(|_| exit.kind == ExitKind::Code(exit_code::DONE));
    let failed_gpu = failed_gpu(attempt, exit);
    if let (Some(fault), None) = (&attempt.fault, finished) {
        // Whatever the trainer says follows from that. But where the driver blames the program, and the program the GPU,
        // it must not depend on who was first.
        let blames_program = fault.reason == EndReason::TrainerCrash;
        return Outcome::End(failed_gpu.filter(|_| blames_program).unwrap_or_else(|| fault.clone()));
    }
    if let (Some(refusal), None) = (failed_gpu, attempt.stop) {
        return Outcome::End(refusal);
    }
    if let (Some(unfit), None) = (missing_on_machine(attempt, exit), attempt.stop) {
        return Outcome::End(Refusal::unfit(unfit));
    }
    match (exit.kind, &attempt.finished, attempt.stop) {
        (ExitKind::Code(exit_code::DONE), Some(finished), _) => Outcome::Publish(finished.clone()),
        (ExitKind::Code(exit_code::BAD_SPEC), ..) => {
            end(EndReason::BadSpec, told.unwrap_or_else(|| with_stderr("bad spec or data", exit)))
        }
        (kind, _, None) if ran_out_of_gpu_memory(attempt, exit) => match &exit.gpu_taken {
            Some(why) => end(EndReason::Preempted, format!("the GPU's memory ran out beside others: {why}")),
            None if kind == ExitKind::Code(exit_code::GPU_OOM_AGAIN) => oom_retry(attempt, told),
            None => smaller_batch(attempt, exit, told),
        },
        (ExitKind::Code(exit_code::GPU_OOM), ..) if !ran_out_of_gpu_memory(attempt, exit) => {
            end(EndReason::GpuOom, told.unwrap_or_else(|| too_small(attempt)))
        }
        (ExitKind::Code(_), _, None) if said_one_of(&DISK_WORDS, attempt, exit) => full_disk(exit, told),
        (ExitKind::Code(_) | ExitKind::Signal(SIGABRT), _, None) if ran_out_of_main_memory(attempt, exit) => {
            let text = told.unwrap_or_else(|| with_stderr("the trainer had no main memory left", exit));
            end(EndReason::HostOom, text)
        }
        (_, _, Some(reason)) => end(reason, stopped(attempt, exit)),
        (ExitKind::Code(exit_code::STOPPED), ..) => {
            // The agent did not ask: somebody else stops this machine's processes.
            let text = "the trainer was stopped from outside and left a checkpoint".to_owned();
            end(EndReason::Drained, text)
        }
        (ExitKind::Signal(SIGKILL), ..) if exit.out_of_memory_kill => {
            let text = "the machine's memory ran out and the kernel killed the trainer; on this machine its next \
                        attempt loads with fewer workers and keeps no images in memory";
            end(EndReason::HostOom, text)
        }
        (ExitKind::Code(exit_code::DONE), None, None) => {
            let text = "the trainer exited with 0 but never said that it had finished";
            end(EndReason::TrainerCrash, with_stderr(text, exit))
        }
        (ExitKind::Code(code), ..) => {
            let text = told.unwrap_or_else(|| with_stderr("the trainer crashed", exit));
            end(EndReason::TrainerCrash, format!("{text} (exit code {code})"))
        }
        (ExitKind::Signal(signal), ..) => {
            let name = nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| format!("signal {signal}"), |name| name.to_string());
            // Somebody sent SIGKILL; what the trainer said before explains nothing.
            let text = format!("{name} ended the trainer");
            let text = if signal == SIGKILL { text } else { with_stderr(&text, exit) };
            end(EndReason::TrainerCrash, text)
        }
    }
}

/// A trainer writes to its machine's disk alone. Where the disk has room again, as what was half-written is gone, or
/// a quota is used up, the agent still takes jobs: this one goes on elsewhere.
fn full_disk(exit: &Exit, told: Option<String>) -> Outcome {
    let text = "this agent's disk is full and the trainer could not go on";
    let text = told.map_or_else(|| with_stderr(text, exit), |told| format!("{text}: {told}"));
    if exit.disk_is_short {
        return end(EndReason::Preempted, text);
    }
    Outcome::End(Refusal::of_machine(UnfitKind::FolderUnwritable, text))
}

/// What the machine lacked, by the trainer's own word, or by how it ended without one.
fn missing_on_machine(attempt: &Attempt, exit: &Exit) -> Option<Unfit> {
    if let Some(failed) = &attempt.failed {
        return failed.unfit.clone();
    }
    if !has_crashed(exit) || ran_out_of_gpu_memory(attempt, exit) || ran_out_of_main_memory(attempt, exit) {
        return None;
    }
    let by_end = || match exit.kind {
        _ if attempt.has_trained => None,
        ExitKind::Code(code) => faults::of_code(code),
        ExitKind::Signal(signal) => faults::of_signal(signal),
    };
    let row = faults::of_words(&exit.stderr_tail).or_else(by_end)?;
    let kind = row.lack()?;
    let text = with_stderr(&format!("the trainer cannot run here: {}", row.meaning), exit);
    Some(Unfit::of_machine(kind, text))
}

/// How an attempt ends whose trainer's last words are that its GPU failed: for free, and the GPU is tested.
fn failed_gpu(attempt: &Attempt, exit: &Exit) -> Option<Refusal> {
    let row = faults::of_gpu(&last_words(attempt, exit)).filter(|_| has_crashed(exit))?;
    let text = format!("the GPU failed under the trainer: {}", row.meaning);
    let text = match &attempt.failed {
        Some(failed) => format!("{text}: {}", failed.message),
        None => with_stderr(&text, exit),
    };
    Some(Refusal::failed_gpu(text))
}

/// Whether a trainer did not end on purpose, and was not killed.
const fn has_crashed(exit: &Exit) -> bool {
    match exit.kind {
        ExitKind::Code(code) => !is_of_contract(code),
        ExitKind::Signal(signal) => signal != SIGKILL,
    }
}

/// Whether a trainer ends with this code on purpose.
const fn is_of_contract(code: i32) -> bool {
    matches!(
        code,
        exit_code::DONE
            | exit_code::BAD_SPEC
            | exit_code::STOPPED
            | exit_code::GPU_OOM
            | exit_code::GPU_OOM_AGAIN
    )
}

/// Whether the trainer's last words are of `words`.
fn said_one_of(words: &[&str], attempt: &Attempt, exit: &Exit) -> bool {
    let text = last_words(attempt, exit).to_lowercase();
    words.iter().any(|word| text.contains(word))
}

fn last_words(attempt: &Attempt, exit: &Exit) -> String {
    let told = attempt.failed.as_ref().map_or("", |failed| &failed.message);
    format!("{told} {}", exit.stderr_tail)
}

/// Whether the GPU's memory ended the process, by its exit code or by its last words.
fn ran_out_of_gpu_memory(attempt: &Attempt, exit: &Exit) -> bool {
    // A spec that cannot be met, such as `bn_group`, is not a matter of the next smaller batch.
    let by_spec = attempt.failed.as_ref().is_some_and(|failed| !failed.violations.is_empty());
    match exit.kind {
        _ if by_spec => false,
        ExitKind::Code(exit_code::GPU_OOM | exit_code::GPU_OOM_AGAIN) => true,
        ExitKind::Code(exit_code::DONE | exit_code::BAD_SPEC | exit_code::STOPPED)
        | ExitKind::Signal(SIGKILL) => false,
        ExitKind::Code(_) | ExitKind::Signal(_) => match oom_words::verdict(&last_words(attempt, exit)) {
            OomVerdict::Yes => true,
            OomVerdict::Perhaps => is_likely_out_of_gpu_memory(attempt, exit),
            OomVerdict::No => false,
        },
    }
}

/// Whether memory is the likely cause of words that are said for other reasons, too.
///
/// A trainer that tells of its failure has asked its allocator, and would have said so. One that died without a word
/// could not: then what NVML told last decides. Where a sick GPU happens to be full, that holds only so many times.
fn is_likely_out_of_gpu_memory(attempt: &Attempt, exit: &Exit) -> bool {
    attempt.failed.is_none() && exit.gpu_was_full && attempt.oom_retries < MAX_OOM_RETRIES
}

/// Whether main memory ended it, without the kernel's help.
fn ran_out_of_main_memory(attempt: &Attempt, exit: &Exit) -> bool {
    let normal = [exit_code::DONE, exit_code::BAD_SPEC, exit_code::STOPPED, exit_code::GPU_OOM];
    !normal.map(ExitKind::Code).contains(&exit.kind) && said_one_of(&MAIN_MEMORY_WORDS, attempt, exit)
}

/// A new process with the same batch size, unless that was tried often enough.
fn oom_retry(attempt: &Attempt, told: Option<String>) -> Outcome {
    if attempt.oom_retries < MAX_OOM_RETRIES {
        return Outcome::RestartSame;
    }
    let text = "the GPU's memory ran out again and again with batches that had fitted";
    end(EndReason::TrainerCrash, told.map_or_else(|| text.to_owned(), |told| format!("{text}: {told}")))
}

/// The next smaller batch in a new process; below 1 there is none.
fn smaller_batch(attempt: &Attempt, exit: &Exit, told: Option<String>) -> Outcome {
    let from = attempt.batch_size();
    let guessed = oom_words::verdict(&last_words(attempt, exit)) == OomVerdict::Perhaps;
    let Some(to) = next_smaller(from) else {
        if guessed {
            return end(EndReason::TrainerCrash, with_stderr("the trainer crashed", exit));
        }
        let text = told.unwrap_or_else(|| too_small(attempt));
        // What has trained here is not too large for the GPU.
        let reason = if attempt.has_trained { EndReason::TrainerCrash } else { EndReason::GpuOom };
        return end(reason, text);
    };
    let how = match exit.kind {
        ExitKind::Code(code) => format!("exit code {code}"),
        ExitKind::Signal(signal) => format!("signal {signal}"),
    };
    let message = format!(
        "batch {from} does not fit in the GPU's memory and the trainer could not go on by itself ({how}); \
         going on with {to} in a new process from the newest checkpoint"
    );
    let changed = BatchSizeChanged { from, to, message, phase: Phase::default() };
    Outcome::RestartSmaller { changed, guessed }
}

/// What a user is told where the trainer has not said that the GPU is too small.
fn too_small(attempt: &Attempt) -> String {
    let text = "the GPU's memory is too small even for batch 1";
    match attempt.prepared.as_ref().map(|prepared| prepared.advice.as_str()) {
        Some(advice) if !advice.is_empty() => format!("{text}: {advice}"),
        _ => text.to_owned(),
    }
}

fn stopped(attempt: &Attempt, exit: &Exit) -> String {
    let how = how_stopped(attempt, exit);
    match &attempt.stop_note {
        Some(note) => format!("{note}; {how}"),
        None => how.to_owned(),
    }
}

const fn how_stopped(attempt: &Attempt, exit: &Exit) -> &'static str {
    match (&attempt.state, exit.kind) {
        (State::Killed { .. }, ExitKind::Signal(_)) => {
            "the trainer did not stop within the grace period and was killed"
        }
        (_, ExitKind::Code(exit_code::STOPPED)) => "stopped with a checkpoint",
        _ => "stopped",
    }
}

fn with_stderr(text: &str, exit: &Exit) -> String {
    if exit.stderr_tail.is_empty() { text.to_owned() } else { format!("{text}: {}", exit.stderr_tail) }
}
