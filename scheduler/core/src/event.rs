//! Everything that can happen to the core.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use trainyard_types::{
    AgentId, AttemptId, FitRecord, Fitness, GpuTelemetry, GpuUuid, Inventory, JobId, JobSpec, Report, Session,
};

use crate::config::UserLimits;
use crate::state::job_group::JobGroupRecord;

/// One happening. Those of users are answered in [`crate::Output::reply`].
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The person who runs the scheduler has changed what users may do.
    LimitsChanged {
        /// The limits of users that are not in `users`.
        usual: UserLimits,
        users: BTreeMap<String, UserLimits>,
    },
    /// A user submits a job; the driver has drawn its id and the spec is valid.
    Submit {
        /// What the client drew, if anything; repeats answer with the first one's job.
        request_id: Option<String>,
        /// Used unless the request is a repeat.
        job: JobId,
        user: String,
        /// Valid: `JobSpec::violations` is empty.
        spec: JobSpec,
    },
    /// A user submits a job group, all of its jobs or none; the driver has drawn its id and the specs are valid.
    SubmitGroup {
        /// Its time is set by the core. As for single jobs, a repeat's id is not used.
        group: Arc<JobGroupRecord>,
    },
    /// A user ends many jobs; those that are not there or have ended are left out.
    CancelMany {
        /// At least one of them is there.
        jobs: Vec<JobId>,
    },
    /// A user ends a job.
    Cancel { job: JobId },
    /// A user queues a failed or cancelled job again.
    Retry { job: JobId },
    /// A user gives a job that waits another priority; it is valid.
    SetPriority { job: JobId, priority: i32 },
    /// An agent opened a session.
    AgentConnected {
        /// Higher than every earlier session of any agent under this leader epoch.
        session: Session,
        hello: Hello,
    },
    /// An agent's connection is gone; its lease still runs.
    AgentDisconnected { agent: AgentId, session: Session },
    /// An agent renews its lease.
    Heartbeat { agent: AgentId, session: Session, status: AgentStatus },
    /// A person takes an agent out of use.
    Drain {
        agent: AgentId,
        /// Attempts that run are left to end there.
        keep_running: bool,
    },
    /// A person takes a drained agent into use again.
    Resume { agent: AgentId },
    /// The owner of some GPUs wants them for a while.
    Reserve {
        agent: AgentId,
        /// A reservation that one of them has already is replaced.
        gpus: Vec<GpuUuid>,
        /// How long, from now.
        span: Duration,
    },
    /// Reservations end before their time.
    Release {
        agent: AgentId,
        /// Those that are not reserved are left out.
        gpus: Vec<GpuUuid>,
    },
    /// A GPU that its agent has quarantined, or that jobs ended too soon on, is to be tried again.
    ClearGpu {
        agent: AgentId,
        /// The GPU; `None` means every slot of the agent, CPU slots included.
        gpu: Option<GpuUuid>,
    },
    /// A person forgets an agent, whose certificate counts no more. Its record goes as soon as it is not connected and
    /// nothing runs there.
    ForgetAgent { agent: AgentId },
    /// An agent tells what happened to an attempt. Repeats and gaps occur.
    Report {
        agent: AgentId,
        session: Session,
        /// What happened, with its number.
        report: Report,
    },
    /// The history of a job that was to be archived is, or could not be.
    Archived {
        job: JobId,
        /// The revision of the record that is durable in the archive; `None` when it could not be made so.
        revision: Option<u64>,
    },
    /// The time that [`crate::Core::next_deadline`] named has come.
    Tick,
}

/// Who an agent is, what it has, and which attempts it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// Stays the same over restarts.
    pub agent: AgentId,
    /// The name that people call it by.
    pub name: String,
    pub version: String,
    pub inventory: Inventory,
    /// Attempts that run, or that have reports which were not acknowledged yet.
    pub attempts: Vec<AttemptId>,
    pub status: AgentStatus,
    /// Drawn at each start of its process; empty of agents that are too old to say.
    pub instance: String,
    /// The people who may take it out of use.
    pub owners: Vec<String>,
}

impl Hello {
    /// Of an agent that holds nothing and says no more of itself.
    pub fn new(agent: AgentId, name: String, version: String, inventory: Inventory) -> Self {
        let (attempts, status, instance, owners) = Default::default();
        Self { agent, name, version, inventory, attempts, status, instance, owners }
    }
}

/// How an agent is at the moment, by its own word. Lasts as long as its session.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AgentStatus {
    /// Readings of its GPUs.
    pub telemetry: Vec<GpuTelemetry>,
    /// Why it takes no job at all, for a person; empty when it does.
    pub unavailable: String,
    /// What its GPUs were seen to need; of a heartbeat, only what is new.
    pub fit_records: Vec<FitRecord>,
    /// Data sets whose images it has decoded, with the image size.
    pub cached_data: Vec<(String, u32)>,
    /// What the machine has of what jobs need.
    pub fitness: Fitness,
}
