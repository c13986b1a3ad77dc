//! What the core wants done: first the writes, durably and all or none; then the reply and the commands.

use trainyard_types::{AgentId, Assignment, AttemptId, EndReason, JobId, JobState, Session};

use crate::record::{AgentRecord, EventRecord, JobRecord};

/// The consequence of one event.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Output {
    /// To be made durable before anything else happens.
    pub writes: Vec<Write>,
    /// To be sent once the writes are durable; dropped if they cannot be made so.
    pub commands: Vec<Command>,
    /// The answer to a user's event, given once the writes are durable.
    pub reply: Option<Result<Accepted, Refusal>>,
}

/// A change of the stored state.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Replaces the job's record, whose stored revision is one lower (or that is not there, at revision 1).
    Job(Box<JobRecord>),
    /// Replaces the agent's record.
    Agent(AgentRecord),
    /// Appends to the job's events; cursors go on where the stored ones end.
    JobEvents {
        /// Whose.
        job: JobId,
        /// In order, cursors without gaps.
        events: Vec<EventRecord>,
    },
}

/// A message to an agent; a driver drops it when that session is over.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Start an attempt.
    Assign {
        /// To whom.
        agent: AgentId,
        /// By which connection.
        session: Session,
        /// What.
        assignment: Box<Assignment>,
    },
    /// End an attempt: checkpoint, stop, report.
    Stop {
        /// To whom.
        agent: AgentId,
        /// By which connection.
        session: Session,
        /// Which.
        attempt: AttemptId,
        /// `Cancelled`, `Preempted` or `Drained`.
        reason: EndReason,
    },
    /// The attempt is no longer this agent's.
    Revoke {
        /// To whom.
        agent: AgentId,
        /// By which connection.
        session: Session,
        /// Which.
        attempt: AttemptId,
    },
    /// Reports up to `sequence` are durable (or refused for good).
    Ack {
        /// To whom.
        agent: AgentId,
        /// By which connection.
        session: Session,
        /// Of which attempt.
        attempt: AttemptId,
        /// Up to which report.
        sequence: u64,
    },
}

/// A user's request was done (or had been done before).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The job that it is about.
    pub job: JobId,
    /// Whether this request changed nothing, since an earlier one had done it.
    pub repeated: bool,
}

/// A user's request was refused; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such job.
    #[error("there is no job {0}; `yard jobs` lists what there is")]
    UnknownJob(JobId),
    /// The same request id came with another spec before.
    #[error("request id `{request_id}` was used for job {job} with another spec; draw a new one")]
    RequestIdReused {
        /// The id.
        request_id: String,
        /// The job that the first request made.
        job: JobId,
    },
    /// Only failed and cancelled jobs can be queued again.
    #[error("job {job} is {state}; only a FAILED or CANCELLED job can be retried")]
    NotRetryable {
        /// Which.
        job: JobId,
        /// Its state.
        state: JobState,
    },
}
