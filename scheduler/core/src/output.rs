//! What the core wants done: first the writes, durably and all or none; then the reply and the commands.

use std::sync::Arc;
use std::time::Duration;

use trainyard_types::{
    AgentId, Assignment, AttemptId, EndReason, GpuUuid, JobGroupId, JobId, JobState, Reference, Session,
};

use crate::record::{AgentRecord, EventRecord, JobRecord, ProgressRecord};
use crate::state::fair_share::UserRecord;
use crate::state::job_group::JobGroupRecord;
use crate::state::prefetches::PrefetchKind;
use crate::throughput::ThroughputRecord;

/// The consequence of one event.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Output {
    /// To be made durable before anything else happens.
    pub writes: Vec<Write>,
    /// To be sent once the writes are durable; dropped if they cannot be made so.
    pub commands: Vec<Command>,
    /// The answer to a user's event, given once the writes are durable.
    pub reply: Option<Result<Accepted, Refusal>>,
    /// Jobs whose history is to be archived; [`crate::Event::Archived`] says that it is. Not asking twice
    /// is the core's part; after a restart it asks again.
    pub archive: Vec<JobId>,
}

/// A change of the stored state.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Many new jobs at once. None of them has a record of its own until it is written one.
    JobGroup(Arc<JobGroupRecord>),
    /// Replaces the job's record, whose stored revision is one lower (or that is not there, at revision 1).
    /// What was submitted does not change after that.
    Job(Box<JobRecord>),
    /// Replaces what most reports change of a job.
    Progress(ProgressRecord),
    /// Replaces the user's record.
    User(UserRecord),
    /// Removes a job and its events.
    Forget {
        job: JobId,
        /// The job group that it came with; its other jobs stay.
        group: Option<JobGroupId>,
    },
    /// Removes a job group, all of whose jobs have been forgotten.
    ForgetJobGroup(Arc<JobGroupRecord>),
    /// Removes a user's record.
    ForgetUser(String),
    /// Replaces the agent's record.
    Agent(AgentRecord),
    /// Removes an agent's record.
    ForgetAgent(AgentId),
    /// Replaces what was learned of throughput under this key.
    Throughput(ThroughputRecord),
    /// Removes what was learned of throughput under this key.
    ForgetThroughput(String),
    /// Appends to the job's events; cursors go on where the stored ones end.
    JobEvents {
        job: JobId,
        /// In order, cursors without gaps.
        events: Vec<EventRecord>,
    },
}

/// A message to an agent; a driver drops it when that session is over.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Start an attempt.
    Assign { agent: AgentId, session: Session, assignment: Box<Assignment> },
    /// End an attempt: checkpoint, stop, report.
    Stop {
        agent: AgentId,
        session: Session,
        attempt: AttemptId,
        /// `Cancelled`, `Preempted` or `Drained`.
        reason: EndReason,
        /// From the order to the trainer's end; zero is the agent's own choice.
        grace: Duration,
    },
    /// A GPU that was quarantined is tried again.
    ClearGpu {
        agent: AgentId,
        session: Session,
        /// The GPU; `None` means every slot of the agent, CPU slots included.
        gpu: Option<GpuUuid>,
    },
    /// Fetch what a job names that is expected to start there.
    Prefetch {
        agent: AgentId,
        session: Session,
        kind: PrefetchKind,
        /// With its whole version.
        reference: Reference,
    },
    /// The attempt is no longer this agent's.
    Revoke { agent: AgentId, session: Session, attempt: AttemptId },
    /// Reports up to `sequence` are durable (or refused for good).
    Ack {
        agent: AgentId,
        session: Session,
        attempt: AttemptId,
        /// The newest report that is durable.
        sequence: u64,
    },
}

/// A user's request was done (or had been done before).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    pub subject: Subject,
    /// Whether this request changed nothing, since an earlier one had done it.
    pub repeated: bool,
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A job; the first one of many.
    Job(JobId),
    Agent(AgentId),
}

impl Accepted {
    /// A request about a job was done.
    pub(crate) fn job(job: JobId, repeated: bool) -> Self {
        Self { subject: Subject::Job(job), repeated }
    }
}

/// A user's request was refused; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such job.
    #[error("there is no job {0}; `yard jobs` lists what there is")]
    UnknownJob(JobId),
    /// No such agent.
    #[error("there is no agent {0}; `yard agents` lists what there is")]
    UnknownAgent(AgentId),
    /// The agent has no such GPU.
    #[error("agent `{agent}` has no GPU {gpu}; `yard gpus` lists what there is")]
    UnknownGpu {
        agent: String,
        /// As it was asked for.
        gpu: GpuUuid,
    },
    /// What was asked for is the agent's to do.
    #[error(
        "agent `{agent}` is not connected, and only it can do this; start it, or try again once `yard agents` \
         shows it as connected"
    )]
    AgentAway { agent: String },
    /// Another process is connected with that id.
    #[error(
        "agent id {id} is in use by another process, `{name}`, which is connected: two agents must not share a \
         `data_dir`, nor a copy of one"
    )]
    AgentIdInUse {
        /// The agent's id that both processes use.
        id: AgentId,
        /// The name of the one that is connected.
        name: String,
    },
    /// The same request id came with another spec before.
    #[error("request id `{request_id}` was used for job {job} with another spec; draw a new one")]
    RequestIdReused {
        /// The request's id that both requests came with.
        request_id: String,
        /// The job that the first request made.
        job: JobId,
    },
    /// The same request id came from another user before, whose job is nothing to this one.
    #[error("request id `{request_id}` was used by somebody else; draw a new one")]
    RequestIdTaken { request_id: String },
    /// The user has as many jobs waiting as it may.
    #[error(
        "{user} has {queued} jobs queued and may have {limit}; {more} more do not fit: wait until some have \
         started, cancel some, or ask for a higher `queued_jobs`"
    )]
    QueueFull {
        user: String,
        /// Jobs in the queue.
        queued: u32,
        /// Jobs of this request.
        more: u32,
        /// How many the user may have in the queue.
        limit: u32,
    },
    /// Only failed and cancelled jobs can be queued again.
    #[error("job {job} is {state}; only a FAILED or CANCELLED job can be retried")]
    NotRetryable { job: JobId, state: JobState },
    /// A priority says who goes first of those that wait.
    #[error("job {job} is {state}; only a QUEUED job's priority can be changed")]
    NotQueued { job: JobId, state: JobState },
}
