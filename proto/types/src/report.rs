//! What an agent reports of an attempt, and what an attempt leaves behind.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::fitness::Unfit;
use crate::ids::{AttemptId, GpuUuid};
use crate::job::{EndReason, JobSpec};
use crate::reference;
use crate::size;
use crate::time::Time;
use crate::trainer::TrainerEvent;

/// One thing that happened to an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The attempt that the report is of.
    pub attempt: AttemptId,
    /// The report's number among those of its attempt, from 1 without gaps.
    pub sequence: u64,
    /// When it happened, by the agent's clock.
    pub time: Time,
    /// The content of the report.
    pub body: ReportBody,
}

/// What can happen to an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportBody {
    /// The trainer told something.
    Trainer(TrainerEvent),
    /// How the attempt's batch size was chosen.
    BatchChosen(BatchChosen),
    /// A data set or weights are fetched, and this much is there. Told every few seconds.
    Fetching(Fetching),
    /// A checkpoint is uploaded whole.
    CheckpointStored(Checkpoint),
    /// Pictures that the trainer has drawn until now are uploaded: all of them.
    PicturesStored(Vec<Artifact>),
    /// The trainer has ended and its slot is free; what it has left is handed in next. Told again when what that
    /// waits for is another thing.
    SlotReleased(SlotReleased),
    /// The attempt is over and nothing of it runs any more. The last report.
    Ended(Ended),
}

/// The batch size of an attempt, and how it was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BatchChosen {
    /// Images per forward pass.
    pub batch_size: u32,
    /// From the ceiling down; each can only lower the one before. One layer when the user chose.
    pub layers: Vec<BatchLayer>,
}

/// One layer of the auto batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchLayer {
    /// `table`, `model`, `memory free now`, `fit record`, or `asked for`.
    pub name: String,
    /// What is left after it.
    pub batch_size: u32,
    /// On what ground: "12.0 GB GPU, imgsz 640".
    pub reason: String,
}

/// How far an attempt's data set or weights have come.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Fetching {
    /// What is fetched, as the job names it: `cells@3f9a…`.
    pub what: String,
    /// Bytes that are there.
    pub done_bytes: u64,
    /// Bytes that were missing when fetching began.
    pub total_bytes: u64,
    /// Bytes a second, lately; at the end, over all.
    pub bytes_per_second: f64,
}

impl Fetching {
    /// Whether nothing is missing any more.
    pub fn is_whole(&self) -> bool {
        self.done_bytes >= self.total_bytes
    }

    /// `cells@3f9a: 43 % of 2.8 GB, 112 MB/s`.
    pub fn in_words(&self) -> String {
        let what = reference::shown(Path::new(&self.what));
        let total = size::bytes(self.total_bytes);
        // The speed of a moment ago is not that of nothing.
        let speed = if self.done_bytes > 0 {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
            let speed = size::bytes(self.bytes_per_second as u64);
            format!(", {speed}/s")
        } else {
            String::new()
        };
        if self.is_whole() {
            return format!("{what}: all {total} are there{speed}");
        }
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let percent = self.done_bytes as f64 / self.total_bytes as f64 * 100.0;
        format!("{what}: {percent:.0} % of {total}{speed}")
    }
}

/// What an attempt without a trainer still has to hand in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SlotReleased {
    /// What handing in waits for, for a person: "room on the scheduler's disk"; empty while it goes on.
    pub waits_for: String,
    /// Whether it has trained to the end.
    pub is_trained: bool,
}

/// How an attempt ended, and what it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Why the attempt ended.
    pub reason: EndReason,
    /// A sentence for a person.
    pub message: String,
    /// Uploaded already; what the user gets if the attempt completed.
    pub artifacts: Vec<Artifact>,
    /// What the machine lacked, if the reason is `AgentUnfit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<Unfit>,
}

/// A file that is stored by its hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Artifact {
    /// The path relative to its directory: `weights/best.safetensors`.
    pub name: String,
    /// Size of the file, in bytes.
    pub size_bytes: u64,
    /// SHA-256 of its content, in lower-case hexadecimal.
    pub sha256: String,
}

/// A checkpoint that any agent can resume from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Batches trained since the job's start; names the checkpoint, and a newer one's is higher.
    pub step: u64,
    /// Number of epochs completed.
    pub epoch: u32,
    /// Names relative to the checkpoint's directory.
    pub files: Vec<Artifact>,
}

/// One schedulable share of an agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// A whole GPU.
    Gpu(GpuUuid),
    /// A CPU slot, by index from 0.
    Cpu(u32),
}

/// Tells an agent to start an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The attempt to start.
    pub attempt: AttemptId,
    /// The job that the attempt is of.
    pub spec: JobSpec,
    /// The slot that it runs on.
    pub slot: Slot,
    /// The newest stored checkpoint; the agent may hold a newer one of the same job.
    pub resume: Option<Checkpoint>,
}
