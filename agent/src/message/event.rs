//! The events that the core is told.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_types::trainer::{Finished, LogLevel, TrainerEvent};
use trainyard_types::{
    Artifact, Assignment, AttemptId, BatchChosen, Checkpoint, EndReason, Fetching, GpuUuid, Time,
};

use super::{HostReading, Refusal};

/// What the core is told of the scheduler, the trainers and the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// At start: a former agent process held this attempt.
    Recovered {
        /// The attempt.
        attempt: AttemptId,
        /// Whether the report of its end is in the spool already.
        ended: bool,
        /// What it was handing in, if its trainer had trained to the end.
        hand_in: Option<Finished>,
    },
    /// The scheduler answers.
    Connected,
    /// The scheduler does not answer any more.
    Disconnected,
    /// The scheduler wants an attempt.
    Assigned(Box<Assignment>),
    /// The scheduler wants an attempt that this build does not understand; with a sentence why.
    AssignmentUnsupported(AttemptId, String),
    /// The scheduler wants the end of an attempt.
    Stop {
        /// The attempt.
        attempt: AttemptId,
        /// The reason that its end is to have.
        reason: EndReason,
        /// From SIGTERM to SIGKILL; the configured time if the scheduler names none.
        grace: Option<Duration>,
    },
    /// The GPUs that take no attempt now, and how one that comes all the same ends.
    GpusClosed(BTreeMap<GpuUuid, Refusal>),
    /// How an attempt that comes to a CPU slot ends; `None` when it may start.
    CpuClosed(Option<Refusal>),
    /// Why the disk takes no attempt now, a sentence; `None` when it does.
    DiskShort(Option<String>),
    /// What the attempt on a GPU must do.
    Gpu(GpuOrder),
    /// The attempt is no longer this agent's.
    Revoked(AttemptId),
    /// The spool of an attempt that is over can be read, and the end is not in it.
    EndLost(AttemptId),
    /// The scheduler has stored every report of an attempt.
    AllAcked(AttemptId),
    /// How far the data set or weights of an attempt have come that is being prepared.
    Fetching(AttemptId, Fetching),
    /// Something that an attempt's user is told while it is being prepared.
    PreparationNote(AttemptId, LogLevel, String),
    /// Everything is ready for the trainer, or cannot be made so.
    Prepared(AttemptId, Result<Prepared, Refusal>),
    /// The trainer did not start.
    SpawnFailed(AttemptId, Refusal),
    /// The trainer told something.
    Line(AttemptId, Time, TrainerEvent),
    /// The trainer's process is gone, and every line of it was handled before.
    Exited(AttemptId, Exit),
    /// A checkpoint's upload ended; the error is a sentence.
    CheckpointUploaded(AttemptId, Result<Checkpoint, String>),
    /// The upload of a running trainer's pictures ended: those that are stored.
    PicturesUploaded(AttemptId, Vec<Picture>),
    /// The artifacts' upload ended.
    ArtifactsUploaded(AttemptId, Result<Vec<Artifact>, Refusal>),
    /// What handing in waits for, for a person; empty while it goes on.
    HandingIn(AttemptId, String),
    /// The device on which an attempt has failed was tested, and is closed if it failed the test.
    DeviceTested(AttemptId),
    /// What the process of a stalled trainer looks like, for a person.
    StallDiagnosed(AttemptId, String),
    /// What main memory and processors do now.
    Host(HostReading),
    /// Somebody asked the agent to stop; the second time, to stop at once.
    Shutdown,
    /// The core's next deadline has come.
    Tick,
}

/// A picture of a running trainer that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// What is reported of it.
    pub artifact: Artifact,
    /// When its file was last written, in nanoseconds since 1970: with the size it tells whether it must be read again.
    pub modified_ns: i128,
}

/// What must happen to the attempt on a GPU; nothing where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuOrder {
    /// The owner gets the GPU: the trainer writes a checkpoint, and is killed when the time is over.
    Vacate {
        /// The GPU.
        gpu: GpuUuid,
        /// From now to SIGKILL.
        within: Duration,
        /// What was seen of the owner, a sentence.
        message: String,
    },
    /// The attempt cannot go on.
    Fail {
        /// The GPU.
        gpu: GpuUuid,
        /// The reason that its end is to have.
        reason: EndReason,
        /// What happened, a sentence.
        message: String,
        /// Without a checkpoint: what the GPU holds is not to be trusted, or the GPU will not answer.
        at_once: bool,
    },
}

/// What a trainer starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Images per forward pass, and how that number was chosen.
    pub chosen: BatchChosen,
    /// What the user is told of the start, line by line.
    pub lines: Vec<String>,
    /// Whether the trainer measures what memory it needs.
    pub measure_memory: bool,
    /// Loader workers to begin with.
    pub workers: u32,
    /// Loader workers that the trainer may come to have.
    pub most_workers: u32,
    /// What would fit if not even one image does.
    pub advice: String,
}

/// How a trainer's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Code or signal.
    pub kind: ExitKind,
    /// Whether the kernel killed a process for want of memory while the trainer ran.
    pub out_of_memory_kill: bool,
    /// The last lines of its standard error.
    pub stderr_tail: String,
    /// Lines of its event stream that were not understood.
    pub bad_lines: u64,
    /// Whether next to nothing of the GPU's memory was free when it was read last before the end.
    pub gpu_was_full: bool,
    /// Why the GPU is its owner's or another process' now, a sentence; `None` while it takes jobs.
    pub gpu_taken: Option<String>,
    /// Whether the disk of its run directory has less room than is kept free.
    pub disk_is_short: bool,
}

/// The code or the signal of a process' end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}
