//! What the agent's tasks send each other. A module that only talks to another one imports this file, not that module.
//!
//! Must not know: what a receiver does with a message.

mod data_check;
mod event;
mod refusal;
mod self_test;

pub use data_check::{DataCheckRequest, DataCheckRequests};
pub use event::{Event, Exit, ExitKind, GpuOrder, Picture, Prepared};
pub use refusal::Refusal;
pub use self_test::{SelfTestRequest, SelfTestRequests};

use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;
use trainyard_content::Kind;
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as ToScheduler;
use trainyard_types::reference::Reference;
use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{AttemptId, GpuTelemetry, GpuUuid, Inventory, JobId, Session};

/// What comes into the driver's inbox.
#[derive(Debug)]
pub enum Input {
    /// An event for the core.
    Core(Event),
    /// The scheduler has welcomed this agent; reports go into this channel.
    Connected(mpsc::Sender<pb::AgentMessage>),
    /// The connection to the scheduler has ended.
    Disconnected,
    /// The scheduler has stored the reports of an attempt up to a sequence number.
    Acked(AttemptId, u64),
    /// The disk is short: the directories of these jobs are removed, unless an attempt needs them.
    RemoveJobDirs(Vec<JobId>),
    /// A trainer has told of a GPU's memory: that it has changed its batch size, most likely because memory ran out, or
    /// what it has measured.
    GpuMemoryTold {
        /// The trainer's attempt.
        attempt: AttemptId,
        /// What the trainer told.
        event: TrainerEvent,
        /// Memory of the GPU that other processes held then, in MiB; `None` where the driver does not tell.
        others_mib: Option<u64>,
    },
    /// It is time to see which decoded data sets are still on the disk.
    CheckDecodedData,
}

/// A message to the scheduler.
pub const fn agent_message(message: ToScheduler) -> pb::AgentMessage {
    pb::AgentMessage { message: Some(message) }
}

/// What of the configuration can change while the agent runs. Is sent anew at each SIGHUP, changed or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Users who may reserve and drain this agent, beside admins.
    pub owners: Vec<String>,
}

/// What the machine offers and what its GPUs do, as the GPU monitor has read it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// The GPUs, CPU slots and memory that the machine offers.
    pub inventory: Inventory,
    /// What each GPU does now.
    pub telemetry: Vec<GpuTelemetry>,
    /// Counts how often it has changed which GPUs take jobs; that is told at once.
    pub revision: u64,
    /// Counts how often the GPUs were read.
    pub reads: u64,
}

impl Readings {
    /// What one GPU does now.
    pub fn gpu(&self, uuid: &GpuUuid) -> Option<&GpuTelemetry> {
        self.telemetry.iter().find(|gpu| gpu.uuid == *uuid)
    }
}

/// What the machine's main memory and processors do at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct HostReading {
    /// Main memory, or this process's limit where it is lower, in MiB.
    pub total_mib: u64,
    /// Memory that a new process may take, in MiB.
    pub available_mib: u64,
    /// Share of the last ten seconds in which something waited for memory, 0 to 1.
    pub stalled_ratio: f64,
    /// Share of processor time that nobody used since the last reading, 0 to 1.
    pub idle_ratio: f64,
}

/// The connection's ends of its channels with the GPU monitor.
#[derive(Debug)]
pub struct GpuMonitorLink {
    /// The newest [`Readings::revision`] that a heartbeat carried.
    pub told: watch::Sender<u64>,
    /// GPUs that a person calls sound; the empty UUID is the whole machine.
    pub clears: mpsc::Sender<GpuUuid>,
    /// Samples of the GPUs for the scheduler.
    pub samples: mpsc::Receiver<pb::Telemetry>,
}

/// A scheduler that has welcomed this agent.
#[derive(Debug, Clone)]
pub struct SchedulerLink {
    /// The connection, which transfers use too.
    pub channel: Channel,
    /// This agent's session on it.
    pub session: Session,
    /// Whether it takes pictures of running jobs.
    pub takes_pictures: bool,
}

/// A version that is to be prefetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefetch {
    /// A data set, or weights.
    pub kind: Kind,
    /// The name and the whole version.
    pub reference: Reference,
}

/// What a path is to the job that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathUse {
    /// The job's data.yaml.
    Data,
    /// The weights that the job begins with.
    Pretrained,
}

impl PathUse {
    /// What a person should give instead of a path that is no file.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Data => "give the path of its data.yaml",
            Self::Pretrained => "give the path of a weights file",
        }
    }
}

impl std::fmt::Display for PathUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Data => "the data set",
            Self::Pretrained => "`pretrained`",
        })
    }
}
