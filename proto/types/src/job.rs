//! What a user submits, and what may become of it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::gpu::DeviceKind;
use crate::train::TrainSpec;
use crate::violation::Violation;

/// A job as submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// For people; need not be unique.
    #[serde(default)]
    pub name: String,
    /// What to train.
    pub train: TrainSpec,
    /// What to train it on.
    #[serde(default)]
    pub resources: Resources,
    /// Higher goes first; -100 to 100.
    #[serde(default)]
    pub priority: i32,
    /// How many crashes of the trainer are forgiven.
    #[serde(default = "default_max_retries")]
    pub max_retries: u32,
    /// How long its trainers may run, all attempts together; it is then stopped with a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Duration>,
    /// For filters and people.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// How many crashes are forgiven when the user does not say.
pub const DEFAULT_MAX_RETRIES: u32 = 3;

/// Priorities that a job may have.
pub const PRIORITIES: RangeInclusive<i32> = -100..=100;

const MIN_TIME_LIMIT: Duration = Duration::from_secs(1);
const MAX_TIME_LIMIT: Duration = Duration::from_secs(366 * 24 * 3600);

const fn default_max_retries() -> u32 {
    DEFAULT_MAX_RETRIES
}

impl JobSpec {
    /// A run with defaults for everything else.
    pub fn new(train: TrainSpec) -> Self {
        Self {
            name: String::new(),
            train,
            resources: Resources::default(),
            priority: 0,
            max_retries: DEFAULT_MAX_RETRIES,
            time_limit: None,
            labels: BTreeMap::new(),
        }
    }

    /// Every field that is out of range, not only the first.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found: Vec<Violation> =
            self.train.violations().into_iter().map(|violation| violation.under("train")).collect();
        found.extend(self.resources.violations().into_iter().map(|violation| violation.under("resources")));
        if self.name.len() > 128 {
            found.push(Violation::new("name", format!("has {} bytes; use at most 128", self.name.len())));
        }
        if !PRIORITIES.contains(&self.priority) {
            let text = format!("is {}; use {} to {}", self.priority, PRIORITIES.start(), PRIORITIES.end());
            found.push(Violation::new("priority", text));
        }
        if self.max_retries > 100 {
            found.push(Violation::new("max_retries", format!("is {}; use 0 to 100", self.max_retries)));
        }
        if self.time_limit.is_some_and(|limit| !(MIN_TIME_LIMIT..=MAX_TIME_LIMIT).contains(&limit)) {
            found.push(Violation::new("time_limit", "use 1 second to 366 days, or leave it out"));
        }
        if self.labels.len() > 64 {
            found
                .push(Violation::new("labels", format!("has {} entries; use at most 64", self.labels.len())));
        }
        for (key, value) in &self.labels {
            if key.is_empty() || key.len() > 63 || value.len() > 255 {
                let limits = "a key has 1 to 63 bytes and a value at most 255";
                found.push(Violation::new(format!("labels[{key:?}]"), limits));
            }
        }
        found
    }
}

/// What a job asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// GPUs, all of one agent; 1 is what is built.
    #[serde(default = "one")]
    pub gpus: u32,
    /// Models that will do; empty means any. `4090` matches `NVIDIA GeForce RTX 4090`.
    #[serde(default)]
    pub gpu_models: Vec<String>,
    /// Nominal memory that the GPU must have, in MiB; 0 means any.
    #[serde(default)]
    pub min_vram_mib: u64,
    /// The kind of device to train on.
    #[serde(default)]
    pub device: DeviceKind,
}

const fn one() -> u32 {
    1
}

impl Default for Resources {
    fn default() -> Self {
        Self { gpus: 1, gpu_models: Vec::new(), min_vram_mib: 0, device: DeviceKind::Gpu }
    }
}

impl Resources {
    fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        if self.gpus == 0 {
            found
                .push(Violation::new("gpus", "is 0; use 1, or set `device` to `cpu` to train without a GPU"));
        } else if self.gpus > 1 {
            let text = format!("is {}; training on several GPUs is not supported yet, use 1", self.gpus);
            found.push(Violation::new("gpus", text));
        }
        if self.device == DeviceKind::Cpu && (self.min_vram_mib > 0 || !self.gpu_models.is_empty()) {
            let text = "is `cpu`, which has no GPU; leave out `gpu_models` and `min_vram_mib`";
            found.push(Violation::new("device", text));
        }
        if let Some(at) = self.gpu_models.iter().position(|model| model.trim().is_empty()) {
            found.push(Violation::new(format!("gpu_models[{at}]"), "is empty; write a model such as `4090`"));
        }
        if self.gpu_models.len() > 32 {
            let text = format!("has {} entries; use at most 32", self.gpu_models.len());
            found.push(Violation::new("gpu_models", text));
        }
        if let Some(at) = self.gpu_models.iter().position(|model| model.len() > 128) {
            let text = format!("has {} bytes; use at most 128", self.gpu_models[at].len());
            found.push(Violation::new(format!("gpu_models[{at}]"), text));
        }
        found
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobState {
    /// Waits for a slot.
    Queued,
    /// Placed on an agent, which prepares it.
    Starting,
    /// At work: its trainer runs.
    Running,
    /// Ended well; its artifacts are committed.
    Succeeded,
    /// Given up: it ended without results.
    Failed,
    /// Ended by its user.
    Cancelled,
}

impl JobState {
    /// In the order of a job's life.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Starting, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Whether nothing more can happen to the job.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The name that every surface prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EndReason {
    /// Trained to the end.
    Completed,
    /// Spec or data are wrong; trying again cannot help.
    BadSpec,
    /// The GPU's memory is too small even for batch 1.
    GpuOom,
    /// The machine's memory ran out.
    HostOom,
    /// The trainer's process died.
    TrainerCrash,
    /// The GPU failed.
    GpuFault,
    /// The agent fell silent past its lease.
    AgentLost,
    /// Stopped for another job or the GPU's owner.
    Preempted,
    /// The agent was drained or shut down.
    Drained,
    /// Its user cancelled the job.
    Cancelled,
    /// The job's trainers had run for as long as they may.
    TimeLimit,
    /// The machine lacks something that the job needs and another machine may have; charged to nobody.
    AgentUnfit,
    /// Nothing of it went on for too long; charged to nobody.
    Stalled,
}

impl EndReason {
    /// The name that every surface prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "COMPLETED",
            Self::BadSpec => "BAD_SPEC",
            Self::GpuOom => "GPU_OOM",
            Self::HostOom => "HOST_OOM",
            Self::TrainerCrash => "TRAINER_CRASH",
            Self::GpuFault => "GPU_FAULT",
            Self::AgentLost => "AGENT_LOST",
            Self::Preempted => "PREEMPTED",
            Self::Drained => "DRAINED",
            Self::Cancelled => "CANCELLED",
            Self::TimeLimit => "TIME_LIMIT",
            Self::AgentUnfit => "AGENT_UNFIT",
            Self::Stalled => "STALLED",
        }
    }

    /// Whether its job is queued again by itself.
    pub const fn requeues(self) -> bool {
        match self {
            Self::HostOom
            | Self::TrainerCrash
            | Self::GpuFault
            | Self::AgentLost
            | Self::Preempted
            | Self::Drained
            | Self::AgentUnfit
            | Self::Stalled => true,
            Self::Completed | Self::BadSpec | Self::GpuOom | Self::Cancelled | Self::TimeLimit => false,
        }
    }

    /// Whether a later attempt may go on from a checkpoint that the agent stores now. A user may retry a job whose
    /// GPU was too small; an agent that is lost stores nothing.
    pub const fn resumes(self) -> bool {
        match self {
            Self::GpuOom
            | Self::HostOom
            | Self::TrainerCrash
            | Self::GpuFault
            | Self::Preempted
            | Self::Drained
            | Self::AgentUnfit
            | Self::Stalled => true,
            Self::Completed | Self::BadSpec | Self::AgentLost | Self::Cancelled | Self::TimeLimit => false,
        }
    }

    /// Whether it counts against the job's `max_retries`.
    pub const fn counts_as_retry(self) -> bool {
        matches!(self, Self::HostOom | Self::TrainerCrash)
    }

    /// Whether the attempt was cut off from outside, by no wish of a person.
    pub const fn is_cut_off(self) -> bool {
        matches!(self, Self::GpuFault | Self::AgentLost | Self::Stalled)
    }

    /// Whether the machine may be to blame.
    pub const fn may_blame_machine(self) -> bool {
        match self {
            Self::HostOom | Self::TrainerCrash | Self::GpuFault | Self::AgentUnfit | Self::Stalled => true,
            Self::Completed
            | Self::BadSpec
            | Self::GpuOom
            | Self::AgentLost
            | Self::Preempted
            | Self::Drained
            | Self::Cancelled
            | Self::TimeLimit => false,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelScale;

    #[test]
    fn a_list_of_models_without_end_is_refused() {
        let spec = |gpu_models: Vec<String>| JobSpec {
            resources: Resources { gpu_models, ..Resources::default() },
            ..JobSpec::new(TrainSpec::new(ModelScale::N, "/d.yaml"))
        };
        let field = |spec: JobSpec| spec.violations().first().map(|violation| violation.field.clone());
        assert_eq!(field(spec(vec!["4090".into(); 32])), None);
        assert_eq!(field(spec(vec!["4090".into(); 33])).unwrap(), "resources.gpu_models");
        assert_eq!(field(spec(vec!["x".repeat(129)])).unwrap(), "resources.gpu_models[0]");
    }
}
