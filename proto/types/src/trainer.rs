//! The contract between an agent and the trainer that it starts: one JSON object a line on the events
//! descriptor, and the exit code. The agent reads nothing else.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fitness::Unfit;
use crate::time::Time;
use crate::violation::Violation;

/// The version that this build writes. A reader takes lines of the same version and counts the rest.
pub const VERSION: u32 = 1;

/// Exit codes of `trainyard-trainer`.
pub mod exit_code {
    /// Trained to the end.
    pub const DONE: i32 = 0;
    /// Bad spec or data; the `failed` event has the message.
    pub const BAD_SPEC: i32 = 64;
    /// A bug of ours, or a GPU that failed: the `failed` event has the words.
    pub const INTERNAL: i32 = 70;
    /// Stopped on SIGTERM, with a checkpoint.
    pub const STOPPED: i32 = 75;
    /// Out of GPU memory at batch 1.
    pub const GPU_OOM: i32 = 76;
    /// Out of GPU memory, again, with batches that fitted before: somebody else uses the GPU, or this process
    /// no longer gets back what it had. A new one may go on from the newest checkpoint.
    pub const GPU_OOM_AGAIN: i32 = 77;
}

/// One line of the event stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerLine {
    /// The version of the event stream, [`VERSION`].
    pub v: u32,
    /// When it happened, in milliseconds since 1970.
    pub time: Time,
    /// The event that the line tells.
    #[serde(flatten)]
    pub event: TrainerEvent,
}

/// What a trainer tells. Readers skip `type`s that they do not know (and count them).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TrainerEvent {
    /// The model is built, the data are checked, the first step is next.
    Started(Started),
    /// One optimiser-visible position inside an epoch; at most one a second.
    Step(Step),
    /// An epoch ended, validation included.
    Epoch(Epoch),
    /// A checkpoint directory is complete on disk.
    Checkpoint(CheckpointSaved),
    /// The GPU's memory ran out and the trainer goes on with less.
    BatchSize(BatchSizeChanged),
    /// What the run needs of the device's memory, measured before the first step.
    Memory(MemoryMeasured),
    /// The number of loader workers is another one.
    Workers(WorkersChanged),
    /// A sign of life, every few seconds from a thread of its own, whatever the others wait for.
    Beat(Beat),
    /// A line for the user.
    Log(Log),
    /// All is written; the process exits with 0 next.
    Finished(Finished),
    /// The run cannot go on; the exit code says how it counts.
    Failed(Failed),
}

/// What an agent asks of a running trainer: one JSON object a line on the control descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TrainerControl {
    /// Load with so many workers from now on.
    Workers {
        /// Number of loader threads, at least 1.
        workers: u32,
    },
}

/// The run that begins: its model, data and device.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Started {
    /// Trainable and frozen parameters of the model.
    pub parameters: u64,
    /// Number of images that the model trains on.
    pub train_images: u64,
    /// Number of images that the model is validated on.
    pub val_images: u64,
    /// Class names by id.
    pub classes: Vec<String>,
    /// Epochs to run in all.
    pub epochs: u32,
    /// Images per forward pass.
    pub batch_size: u32,
    /// The epoch (from 1) that comes first; above 1 after a resume.
    pub first_epoch: u32,
    /// `cpu`, or `cuda:0`.
    pub device: String,
    /// What layers compute in: `fp32`, `fp16` or `bf16`.
    #[serde(default)]
    pub precision: String,
    /// The version of libtorch.
    #[serde(default)]
    pub libtorch: String,
    /// Threads that load images.
    #[serde(default)]
    pub workers: u32,
    /// 10^9 floating-point operations of one image's forward pass at this image size (a multiplication and an
    /// addition are two); a training step takes about three times as many.
    #[serde(default)]
    pub gflops: f64,
}

/// Mean seconds that a batch spent in each phase of training. On a GPU some batches are measured with the
/// device awaited after each phase; the others run on without.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Phases {
    /// Seconds of waiting for the loader.
    pub wait: f64,
    /// Seconds of copying to the device.
    pub copy: f64,
    /// Seconds of the forward pass.
    pub forward: f64,
    /// Seconds of loss and assigner.
    pub loss: f64,
    /// Seconds of the backward pass.
    pub backward: f64,
    /// Seconds of the optimiser step and of the average.
    pub optimizer: f64,
}

/// What a run needs of the device's memory, in MiB: what the allocator holds on a GPU, the process'
/// resident memory on a CPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryMeasured {
    /// Images per forward pass.
    pub batch_size: u32,
    /// Weights, optimiser, average and the libraries' state, before any batch.
    pub fixed_mib: u64,
    /// Peak of forward, backward and optimiser step, with the densest batch that the labels allow.
    pub step_peak_mib: u64,
    /// Objects in that batch.
    pub densest_objects: u32,
    /// Peak of memory during validation.
    pub validation_peak_mib: u64,
    /// Memory of the GPU that is in use beside what this process's allocator holds, as the measurement ends: CUDA's own
    /// state here, and all that other processes hold. `None` on a CPU, and from an older trainer.
    #[serde(default)]
    pub beside_mib: Option<u64>,
}

/// The number of loader threads before and after a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkersChanged {
    /// Number of loader threads before.
    pub from: u32,
    /// Number of loader threads from now on.
    pub to: u32,
}

/// How far an epoch has come, and how fast.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Step {
    /// The epoch in training, from 1.
    pub epoch: u32,
    /// Batches done in this epoch.
    pub batch: u32,
    /// Batches of an epoch.
    pub batches: u32,
    /// Training images a second, over the last second or so.
    pub images_per_second: f64,
    /// Share of that time spent waiting for data, 0 to 1.
    pub loader_wait_ratio: f64,
    /// Running means over the epoch, keys as in results.csv (`train/box_loss`).
    pub metrics: BTreeMap<String, f64>,
    /// Where the time went, over the last second or so.
    #[serde(default)]
    pub phases: Option<Phases>,
}

/// What an epoch came to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// The epoch in training, from 1.
    pub epoch: u32,
    /// Number of epochs in all.
    pub epochs: u32,
    /// Seconds since training began, time before a resume included.
    pub seconds: f64,
    /// Training images over the epoch's training time.
    pub images_per_second: f64,
    /// Share of the training time spent waiting for data, 0 to 1.
    pub loader_wait_ratio: f64,
    /// Whether this epoch's fitness is the best so far.
    pub best: bool,
    /// The columns of results.csv but `epoch` and `time`, under their names.
    pub metrics: BTreeMap<String, f64>,
    /// Where the time went, over the epoch.
    #[serde(default)]
    pub phases: Option<Phases>,
    /// The files of the disk cache, once they hold every image of the run decoded; empty before, and without a
    /// disk cache.
    #[serde(default)]
    pub cached: Vec<PathBuf>,
}

/// Where a complete checkpoint is, and how far training had come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointSaved {
    /// Batches trained since the job's start; names the checkpoint, and a newer one's is higher.
    pub step: u64,
    /// Number of epochs completed.
    pub epoch: u32,
    /// The checkpoint's directory, relative to the run directory.
    pub path: PathBuf,
}

/// The batch size before and after memory ran out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchSizeChanged {
    /// Images per forward pass of training before.
    pub from: u32,
    /// From now on. As before where less of something else was enough: fewer images at once in validation, or
    /// the memory that the allocator kept.
    pub to: u32,
    /// A sentence for the user.
    pub message: String,
    /// What the trainer was doing when the memory ran out.
    #[serde(default)]
    pub phase: Phase,
}

/// What a trainer does, as far as it takes memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Building the model, and what is before the first batch; also what an older trainer does not tell.
    #[default]
    Start,
    /// The measurement of memory before the first batch.
    Measurement,
    /// Copying a batch to the device.
    Copy,
    /// The forward pass.
    Forward,
    /// The loss and its assigner.
    Loss,
    /// The backward pass.
    Backward,
    /// The optimiser step, and the average of the weights.
    Optimizer,
    /// Validation, after an epoch or at the end.
    Validation,
    /// Copying to the host what a checkpoint is made of.
    Checkpoint,
}

impl Phase {
    /// `backward`: its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Measurement => "measurement",
            Self::Copy => "copy",
            Self::Forward => "forward",
            Self::Loss => "loss",
            Self::Backward => "backward",
            Self::Optimizer => "optimizer",
            Self::Validation => "validation",
            Self::Checkpoint => "checkpoint",
        }
    }

    /// The phase of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }

    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::Start,
        Self::Measurement,
        Self::Copy,
        Self::Forward,
        Self::Loss,
        Self::Backward,
        Self::Optimizer,
        Self::Validation,
        Self::Checkpoint,
    ];
}

/// What goes on, and that it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Beat {
    /// The activity that the trainer is at.
    pub activity: Activity,
    /// Counts whatever goes on: images, batches, files, bytes. As long as it grows, something goes on; it begins
    /// anew with an activity.
    pub done: u64,
}

/// What a trainer is at, as far as it says how long that may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Loading libraries, building the model, reading weights.
    #[default]
    Start,
    /// Listing images and reading labels.
    Scan,
    /// The measurement of memory, and the first steps, in which libraries are loaded and prepare each convolution.
    Search,
    /// Training, batch by batch.
    Train,
    /// Validation after an epoch, or at the end.
    Validate,
    /// Writing a checkpoint, weights, pictures.
    Write,
    /// What a newer trainer does.
    #[serde(other)]
    Other,
}

impl Activity {
    /// What it is called for a person, after "while it": `scans the data set`.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Start => "starts",
            Self::Scan => "scans the data set",
            Self::Search => "measures memory and searches algorithms",
            Self::Train => "trains",
            Self::Validate => "validates",
            Self::Write => "writes its files",
            Self::Other => "works",
        }
    }
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something is gone or will be.
    Error,
    /// Something is not as the user would want it.
    Warning,
    /// Something is as it should be.
    Info,
}

/// A line for the user, and how much it matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// How much the line matters.
    pub level: LogLevel,
    /// The text, one line.
    pub message: String,
}

/// What a run that went to its end has reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// The epoch (from 1) whose weights are in `best`.
    pub best_epoch: u32,
    /// `metrics/…` of the best weights, plus `metrics/mAP50-95(B)/NAME` and `metrics/mAP50(B)/NAME` per class.
    pub metrics: BTreeMap<String, f64>,
    /// What the user keeps, relative to the run directory: `weights/best.safetensors` and so on.
    pub artifacts: Vec<PathBuf>,
}

/// Why a run cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// What is wrong and what to do, for the user.
    pub message: String,
    /// The fields or files that are wrong, if that is the cause.
    #[serde(default)]
    pub violations: Vec<Violation>,
    /// What the machine lacks, if that is the cause: the same job may run on another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<Unfit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_flat_json_and_reads_back() {
        let log = Log { level: LogLevel::Warning, message: "2 corrupt images skipped".into() };
        let line = TrainerLine { v: VERSION, time: Time(5), event: TrainerEvent::Log(log) };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"time":5,"type":"log","level":"warning","message":"2 corrupt images skipped"}"#
        );
        assert_eq!(serde_json::from_str::<TrainerLine>(&text).unwrap(), line);
    }

    #[test]
    fn phases_have_their_names_in_json_and_an_older_line_has_none() {
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_string(&phase).unwrap(), format!("\"{}\"", phase.name()));
            assert_eq!(Phase::parse(phase.name()), Some(phase));
        }
        let older = r#"{"from":8,"to":6,"message":"less"}"#;
        assert_eq!(serde_json::from_str::<BatchSizeChanged>(older).unwrap().phase, Phase::Start);
    }
}
