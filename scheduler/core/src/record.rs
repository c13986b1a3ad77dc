//! What is stored: exactly what a restarted scheduler needs to go on.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trainyard_types::trainer::{LogLevel, Phases};
use trainyard_types::{
    AgentId, Artifact, AttemptId, BatchChosen, Checkpoint, EndReason, Fetching, JobGroupId, JobId, JobSpec,
    JobState, Slot, Time, Unfit,
};

use crate::state::failures::FailureHistory;
use crate::state::job_group::JobGroupMember;

mod agent;

pub use self::agent::{AgentRecord, Drain, Shut};

/// A job and all that has become of it.
///
/// Stored in parts, so that what changes often is small: its [`Submission`] once, its [`JobStatusRecord`] when
/// its state changes, its [`ProgressRecord`] with each report.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    pub id: JobId,
    /// Grows by one with every write but that of its progress; 0 for a job that is stored with its group only.
    pub revision: u64,
    pub user: Arc<str>,
    /// The client's request id, if it gave one for this job alone.
    pub request_id: Option<String>,
    /// As submitted. Of a sweep's job: the sweep's, without what the grid says ([`JobRecord::full_spec`]).
    pub spec: Arc<JobSpec>,
    /// The job group that it was submitted with.
    pub group: Option<JobGroupMember>,
    /// The priority that it was given later; [`JobRecord::priority`] is the one that counts.
    pub set_priority: Option<i32>,
    /// Queued, running or ended.
    pub state: JobState,
    /// One sentence for a person.
    pub state_reason: String,
    /// In order; attempt number N is at N-1.
    pub attempts: Vec<AttemptRecord>,
    /// Attempts that count against `max_retries`.
    pub crashes: u32,
    /// What cut it off since it last came forward.
    pub failures: FailureHistory,
    /// Not placed before this time.
    pub not_before: Option<Time>,
    /// Its user wants it ended; the agent has been told.
    pub cancel_requested: bool,
    /// How long the trainers of its ended attempts ran, since it was last queued by its user.
    pub ran: Duration,
    /// Its time limit is over; the agent has been told.
    pub out_of_time: bool,
    /// Of the newest attempt that reported any.
    pub progress: Option<Box<Progress>>,
    /// The newest stored checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// Committed with the state `Succeeded`.
    pub artifacts: Vec<Artifact>,
    /// What the newest attempt that told of pictures had drawn; none once the job has succeeded.
    pub pictures: Vec<Artifact>,
    /// The cursor of its newest event. The first is not stored: it is [`JobRecord::first_event`].
    pub last_cursor: u64,
    /// When it was submitted.
    pub created: Time,
    /// When its first trainer started.
    pub started: Option<Time>,
    /// When it reached a final state.
    pub ended: Option<Time>,
    /// What was expected of it when it was scored first; set when it first starts.
    pub estimate: Option<Estimate>,
}

/// When a job was expected to begin and to end, and when that was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// When this was expected.
    pub made: Time,
    /// Expected begin of its first attempt.
    pub start: Time,
    /// Expected end of the job.
    pub end: Time,
}

/// Why an attempt was placed where it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Every kind of GPU on offer that would have done, the chosen one first.
    pub options: Vec<ChoiceOption>,
    /// The job that was preempted for it.
    #[serde(rename = "made_way", default, skip_serializing_if = "Option::is_none")]
    pub preempted_for: Option<JobId>,
    /// It had waited for longer than it must, and went before everything that came later.
    #[serde(rename = "overdue", default)]
    pub starving: bool,
}

/// A kind of GPU that a job could have had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoiceOption {
    /// The GPU's model, or `CPU`.
    pub device: String,
    /// GPUs of this kind without a job.
    pub free: u32,
    /// GPUs of this kind, busy ones included.
    pub total: u32,
    /// How long the job would take there from where it stands.
    #[serde(rename = "takes")]
    pub runtime: Duration,
    /// How long it would wait there first.
    pub waits: Duration,
    /// What taking a GPU there costs others, those that are yet to come included, in time of theirs added up.
    pub delays_others: Duration,
    /// Whether its speed there was measured, or carried over from other GPUs and models.
    pub measured: bool,
}

/// What never changes of a job that was submitted alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submission<'a> {
    /// The user who submitted it. All fields are those of [`JobRecord`].
    pub user: Cow<'a, str>,
    /// The client's request id.
    pub request_id: Option<Cow<'a, str>>,
    pub spec: Cow<'a, JobSpec>,
    pub created: Time,
}

/// The stored record of where a job stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatusRecord<'a> {
    pub id: JobId,
    /// The revision, which like all that follows is [`JobRecord`]'s own.
    pub revision: u64,
    /// The job group whose job it is.
    #[serde(rename = "batch", default, skip_serializing_if = "Option::is_none")]
    pub group: Option<JobGroupId>,
    #[serde(rename = "priority", default, skip_serializing_if = "Option::is_none")]
    pub set_priority: Option<i32>,
    pub state: JobState,
    pub state_reason: Cow<'a, str>,
    pub attempts: Cow<'a, [AttemptRecord]>,
    pub crashes: u32,
    #[serde(rename = "setbacks", default, skip_serializing_if = "FailureHistory::is_none")]
    pub failures: Cow<'a, FailureHistory>,
    pub not_before: Option<Time>,
    pub cancel_requested: bool,
    #[serde(default)]
    pub ran: Duration,
    #[serde(default)]
    pub out_of_time: bool,
    pub progress: Option<Cow<'a, Progress>>,
    pub checkpoint: Option<Cow<'a, Checkpoint>>,
    pub artifacts: Cow<'a, [Artifact]>,
    #[serde(default, skip_serializing_if = "no_artifacts")]
    pub pictures: Cow<'a, [Artifact]>,
    /// The cursor of the newest event.
    pub last_cursor: u64,
    pub started: Option<Time>,
    pub ended: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
}

/// What most reports change of a job: how far its live attempt has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressRecord {
    pub job: JobId,
    /// The live attempt's number.
    pub attempt: u32,
    /// The newest report that was taken in, [`AttemptRecord::last_sequence`].
    pub last_sequence: u64,
    /// The cursor of the newest event.
    pub last_cursor: u64,
    /// How far the attempt has come.
    pub progress: Option<Box<Progress>>,
}

impl JobRecord {
    /// A job that was just submitted.
    pub fn queued(id: JobId, user: Arc<str>, spec: Arc<JobSpec>, created: Time) -> Self {
        Self {
            id,
            revision: 0,
            user,
            request_id: None,
            spec,
            group: None,
            set_priority: None,
            state: JobState::Queued,
            state_reason: SUBMITTED.to_owned(),
            attempts: Vec::new(),
            crashes: 0,
            failures: FailureHistory::default(),
            not_before: None,
            cancel_requested: false,
            ran: Duration::ZERO,
            out_of_time: false,
            progress: None,
            checkpoint: None,
            artifacts: Vec::new(),
            pictures: Vec::new(),
            last_cursor: 1,
            created,
            started: None,
            ended: None,
            estimate: None,
        }
    }

    /// The event that every job begins with. It follows from the record and is not stored.
    pub fn first_event(&self) -> EventRecord {
        let body = EventBody::State { state: JobState::Queued, reason: SUBMITTED.to_owned() };
        EventRecord { cursor: 1, time: self.created, attempt: 0, body }
    }

    /// What its trainer is told: the spec with what a sweep's grid says of this job, and its priority as it is now.
    pub fn full_spec(&self) -> Arc<JobSpec> {
        let spec = match &self.group {
            Some(member) => member.group.spec(member.index),
            None => Arc::clone(&self.spec),
        };
        match self.set_priority {
            Some(priority) => Arc::new(JobSpec { priority, ..Arc::unwrap_or_clone(spec) }),
            None => spec,
        }
    }

    /// The priority that counts: jobs of a higher one go first.
    pub fn priority(&self) -> i32 {
        self.set_priority.unwrap_or(self.spec.priority)
    }

    /// What is stored once of a job.
    pub fn submission(&self) -> Submission<'_> {
        Submission {
            user: Cow::Borrowed(&self.user),
            request_id: self.request_id.as_deref().map(Cow::Borrowed),
            spec: Cow::Borrowed(&self.spec),
            created: self.created,
        }
    }

    /// What is stored with each change of state.
    pub fn status_record(&self) -> JobStatusRecord<'_> {
        JobStatusRecord {
            id: self.id,
            revision: self.revision,
            group: self.group.as_ref().map(|member| member.group.id),
            set_priority: self.set_priority,
            state: self.state,
            state_reason: Cow::Borrowed(&self.state_reason),
            attempts: Cow::Borrowed(&self.attempts),
            crashes: self.crashes,
            failures: Cow::Borrowed(&self.failures),
            not_before: self.not_before,
            cancel_requested: self.cancel_requested,
            ran: self.ran,
            out_of_time: self.out_of_time,
            progress: self.progress.as_deref().map(Cow::Borrowed),
            checkpoint: self.checkpoint.as_ref().map(Cow::Borrowed),
            artifacts: Cow::Borrowed(&self.artifacts),
            pictures: Cow::Borrowed(&self.pictures),
            last_cursor: self.last_cursor,
            started: self.started,
            ended: self.ended,
            estimate: self.estimate,
        }
    }

    /// What is stored with each report; `None` without a live attempt.
    pub fn progress_record(&self) -> Option<ProgressRecord> {
        let attempt = self.live_attempt()?;
        Some(ProgressRecord {
            job: self.id,
            attempt: attempt.id.number,
            last_sequence: attempt.last_sequence,
            last_cursor: self.last_cursor,
            progress: self.progress.clone(),
        })
    }

    /// A job that was submitted alone, before anything that followed.
    pub fn submitted(id: JobId, submission: Submission<'_>) -> Self {
        let Submission { user, request_id, spec, created } = submission;
        let request_id = request_id.map(Cow::into_owned);
        Self { request_id, ..Self::queued(id, user.into(), Arc::new(spec.into_owned()), created) }
    }

    /// The job as it stood later.
    #[must_use]
    pub fn at(self, status: JobStatusRecord<'_>) -> Self {
        Self {
            revision: status.revision,
            set_priority: status.set_priority,
            state: status.state,
            state_reason: status.state_reason.into_owned(),
            attempts: status.attempts.into_owned(),
            crashes: status.crashes,
            failures: status.failures.into_owned(),
            not_before: status.not_before,
            cancel_requested: status.cancel_requested,
            ran: status.ran,
            out_of_time: status.out_of_time,
            progress: status.progress.map(|progress| Box::new(progress.into_owned())),
            checkpoint: status.checkpoint.map(Cow::into_owned),
            artifacts: status.artifacts.into_owned(),
            pictures: status.pictures.into_owned(),
            last_cursor: status.last_cursor,
            started: status.started,
            ended: status.ended,
            estimate: status.estimate,
            ..self
        }
    }

    /// Takes in how far the job has come, unless it is of an attempt that has ended or older than what is known.
    pub fn apply_progress(&mut self, record: ProgressRecord) {
        let Some(attempt) = self.live_attempt_mut() else { return };
        if attempt.id.number == record.attempt && attempt.last_sequence < record.last_sequence {
            attempt.last_sequence = record.last_sequence;
            self.last_cursor = self.last_cursor.max(record.last_cursor);
            self.progress = record.progress;
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks like that")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::ptr_arg, reason = "serde asks like that")]
fn no_artifacts(artifacts: &Cow<'_, [Artifact]>) -> bool {
    artifacts.is_empty()
}

/// The reason of a job that was just submitted.
const SUBMITTED: &str = "waits for a slot";

/// One try at a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    pub id: AttemptId,
    pub agent: AgentId,
    /// Its name at the time.
    pub agent_name: String,
    pub slot: Slot,
    /// Further slots of that agent, of a job that needs several GPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Slot>,
    /// The GPU's model, or `CPU`.
    pub device: String,
    /// Why it was placed there; by the policy `finish-time`, where there was something to choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// Whether the agent held its data set decoded.
    #[serde(default, skip_serializing_if = "is_false")]
    pub warm: bool,
    /// When it was expected to end the job, as it was placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_end: Option<Time>,
    /// How its batch size was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_chosen: Option<BatchChosen>,
    /// How far its data set or weights have come, where something had to be fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetching: Option<Fetching>,
    /// What its trainer said of itself when it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<Setup>,
    /// The newest report that was taken in; 0 before the first.
    pub last_sequence: u64,
    /// When it was placed.
    pub placed: Time,
    /// When its trainer started.
    pub started: Option<Time>,
    /// When its trainer had ended and its slots were free, while what it left was still handed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Released>,
    /// When it ended, and how.
    pub ended: Option<AttemptEnd>,
}

/// An attempt that goes on without its slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// When its slots became free.
    pub time: Time,
    /// What handing in waits for, for a person; empty while it goes on.
    pub waits_for: String,
    /// Whether it has trained to the end.
    pub is_trained: bool,
}

/// What a run's speed is judged by; as its trainer said when it started.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Setup {
    /// Images of the training set.
    pub train_images: u64,
    /// Images of the validation set.
    pub val_images: u64,
    /// What layers compute in: `fp32`, `fp16` or `bf16`.
    pub precision: String,
    pub workers: u32,
    /// 10^9 floating-point operations of one image's forward pass.
    pub gflops: f64,
    /// The epoch that came first in this attempt, from 1.
    #[serde(default)]
    pub first_epoch: u32,
    /// Images a second of that epoch, which fills caches; 0 until it is over.
    #[serde(default)]
    pub first_rate: f64,
}

impl AttemptRecord {
    /// Whether it has a trainer, as far as is known: it holds its slots and counts as its user's.
    pub fn holds_slots(&self) -> bool {
        self.ended.is_none() && self.released.is_none()
    }

    /// All its slots.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        std::iter::once(&self.slot).chain(&self.others)
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptEnd {
    pub time: Time,
    pub reason: EndReason,
    /// A sentence for a person.
    pub message: String,
    /// What the machine lacked, if that was the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<Unfit>,
    /// Whether it came before the trainer's first step, or within a minute of its start.
    #[serde(default, skip_serializing_if = "is_false")]
    pub quick: bool,
}

/// How far a job has come.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The epoch under way, from 1.
    pub epoch: u32,
    pub epochs: u32,
    /// Batches done in this epoch.
    pub batch: u32,
    /// Batches of an epoch.
    pub batches: u32,
    /// Images per forward pass.
    pub batch_size: u32,
    /// The newest speed.
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
    /// The most epochs that any attempt has completed.
    #[serde(default)]
    pub epochs_done: u32,
    /// Seconds of each phase of a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
}

impl Progress {
    /// Whether the newest attempt that came up has made a step.
    pub(crate) fn has_stepped(&self) -> bool {
        self.batches > 0 || self.images_per_second > 0.0
    }
}

/// Something that those who watch a job are told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Counts a job's events from 1, without gaps.
    pub cursor: u64,
    pub time: Time,
    /// The attempt number; 0 when it belongs to none.
    pub attempt: u32,
    pub body: EventBody,
}

/// What those who watch a job are told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventBody {
    /// The job changed state.
    State {
        state: JobState,
        /// One sentence for a person.
        reason: String,
    },
    /// Training moved on.
    Metrics {
        /// The epoch in training, from 1.
        epoch: u32,
        epochs: u32,
        /// Whether the epoch is finished; otherwise the values are running means.
        epoch_end: bool,
        /// Batches done in this epoch.
        batch: u32,
        /// Batches of an epoch.
        batches: u32,
        images_per_second: f64,
        /// Share of the training time spent waiting for data, 0 to 1.
        loader_wait_ratio: f64,
        /// The metrics, under results.csv's names.
        values: BTreeMap<String, f64>,
        /// Seconds of each phase of a step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phases: Option<Phases>,
    },
    /// A line for the user.
    Log { level: LogLevel, message: String },
}
