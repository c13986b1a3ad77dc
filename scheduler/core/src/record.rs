//! What is stored: exactly what a restarted scheduler needs to go on.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trainyard_types::trainer::LogLevel;
use trainyard_types::{
    AgentId, Artifact, AttemptId, Checkpoint, EndReason, Inventory, JobId, JobSpec, JobState, Slot, Time,
};

/// A job and all that has become of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Which.
    pub id: JobId,
    /// Grows by one with every write, from 1.
    pub revision: u64,
    /// Who submitted it.
    pub user: String,
    /// The client's request id, if it gave one.
    pub request_id: Option<String>,
    /// As submitted.
    pub spec: JobSpec,
    /// Where it stands.
    pub state: JobState,
    /// One sentence for a person.
    pub state_reason: String,
    /// In order; attempt number N is at N-1.
    pub attempts: Vec<AttemptRecord>,
    /// Attempts that count against `max_retries`.
    pub crashes: u32,
    /// Not placed before this time.
    pub not_before: Option<Time>,
    /// Its user wants it ended; the agent has been told.
    pub cancel_requested: bool,
    /// Of the newest attempt that reported any.
    pub progress: Option<Progress>,
    /// The newest stored checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// Committed with the state `Succeeded`.
    pub artifacts: Vec<Artifact>,
    /// The cursor of its newest event.
    pub last_cursor: u64,
    /// When it was submitted.
    pub created: Time,
    /// When its first trainer started.
    pub started: Option<Time>,
    /// When it reached a final state.
    pub ended: Option<Time>,
}

/// One try at a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Which.
    pub id: AttemptId,
    /// Whose agent.
    pub agent: AgentId,
    /// Its name at the time.
    pub agent_name: String,
    /// Where on that agent.
    pub slot: Slot,
    /// The GPU's model, or `CPU`.
    pub device: String,
    /// The newest report that was taken in; 0 before the first.
    pub last_sequence: u64,
    /// When it was placed.
    pub placed: Time,
    /// When its trainer started.
    pub started: Option<Time>,
    /// When it ended, and how.
    pub ended: Option<AttemptEnd>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptEnd {
    /// When.
    pub time: Time,
    /// Why.
    pub reason: EndReason,
    /// A sentence for a person.
    pub message: String,
}

/// How far a job has come.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The epoch under way, from 1.
    pub epoch: u32,
    /// In all.
    pub epochs: u32,
    /// Batches done in this epoch.
    pub batch: u32,
    /// Batches of an epoch.
    pub batches: u32,
    /// Images per forward pass.
    pub batch_size: u32,
    /// Newest rate.
    pub images_per_second: f64,
    /// Share of the training time spent waiting for data, 0 to 1.
    pub loader_wait_ratio: f64,
    /// Expected time to the end, as of the newest report.
    pub eta: Option<Duration>,
    /// How long an epoch takes, on average; unknown before the attempt's first epoch is over.
    #[serde(default)]
    pub epoch_seconds: Option<f64>,
    /// Newest value of each metric.
    pub metrics: BTreeMap<String, f64>,
}

/// Something that those who watch a job are told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Counts a job's events from 1, without gaps.
    pub cursor: u64,
    /// When it happened.
    pub time: Time,
    /// The attempt number; 0 when it belongs to none.
    pub attempt: u32,
    /// What happened.
    pub body: EventBody,
}

/// See [`EventRecord`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventBody {
    /// The job changed state.
    State {
        /// The new one.
        state: JobState,
        /// One sentence for a person.
        reason: String,
    },
    /// Training moved on.
    Metrics {
        /// From 1.
        epoch: u32,
        /// In all.
        epochs: u32,
        /// Whether the epoch is finished; otherwise the values are running means.
        epoch_end: bool,
        /// Batches done.
        batch: u32,
        /// Batches of an epoch.
        batches: u32,
        /// Rate.
        images_per_second: f64,
        /// Share of the training time spent waiting for data, 0 to 1.
        loader_wait_ratio: f64,
        /// Under results.csv's names.
        values: BTreeMap<String, f64>,
    },
    /// A line for the user.
    Log {
        /// How much it matters.
        level: LogLevel,
        /// One line.
        message: String,
    },
}

/// An agent that has been seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Which.
    pub id: AgentId,
    /// For people.
    pub name: String,
    /// Of its program.
    pub version: String,
    /// What it offers.
    pub inventory: Inventory,
    /// When it last opened a session.
    pub connected: Time,
}
