//! Who goes next, and where: policies, and what they see of the cluster.
//!
//! A policy sees the cluster through a `ClusterView` and returns decisions; the engine carries them out. So a
//! policy needs no engine, and is tested without one. `chosen` is the only place that tells them apart.

mod chosen;
mod fair;
mod finish_time;
#[cfg(test)]
mod fixture;
mod upcoming;
mod view;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use trainyard_types::{AgentId, JobId, Time};

pub use self::chosen::Policy;
pub(crate) use self::upcoming::Upcoming;
pub(crate) use self::view::ClusterView;
use crate::record::{Choice, Estimate, JobRecord};
use crate::state::queue::Request;
use crate::state::slots::{Kind, Location};

/// Decides who goes next and where. Sees the cluster through a view, and never changes it.
///
/// Whenever something may be placed, the engine calls [`begin_round`](Self::begin_round) once, then
/// [`next`](Self::next) until nothing is left. Each placement is carried out before the next call.
pub(crate) trait PlacementPolicy: Debug + Send + Sync {
    /// Takes in what has changed. Everything that a policy keeps follows from what it was told here.
    fn observe(&mut self, _now: Time, _view: &ClusterView<'_>, _change: &Change<'_>) {}

    /// A job became ready or a slot became free: a round of decisions begins.
    fn begin_round(&mut self, now: Time, view: &ClusterView<'_>);

    /// The next job to start in this round, and where; `None` ends the round.
    fn next(&mut self, now: Time, view: &ClusterView<'_>) -> Option<Placement>;

    /// A running job has just stored a checkpoint, so that stopping it now loses no work.
    fn on_checkpoint(&mut self, _now: Time, _view: &ClusterView<'_>, _job: JobId) -> Option<Preemption> {
        None
    }

    /// When a round is due although nothing has changed.
    fn wake_at(&self) -> Option<Time> {
        None
    }

    /// Whether the job was told to end its attempt for a decision of this policy.
    fn is_being_preempted(&self, _job: JobId) -> bool {
        false
    }

    /// When a running job is expected to end, if the policy keeps account of that.
    fn expected_end(&self, _job: JobId) -> Option<Time> {
        None
    }

    /// What is known of a placement as it is made, for its user.
    fn expect(
        &self,
        _now: Time,
        _view: &ClusterView<'_>,
        _job: JobId,
        _kind: &Kind,
        _agent: AgentId,
    ) -> Expected {
        Expected::default()
    }

    /// Why a ready job waits, if the policy knows more of it than its place in the queue.
    fn explain_wait(&self, _now: Time, _view: &ClusterView<'_>, _job: JobId) -> Option<Wait> {
        None
    }

    /// What would become of a job that is not queued, on each kind of GPU on offer that would do, the best one first;
    /// `None` by policies that do not compare.
    fn plan(
        &self,
        _now: Time,
        _view: &ClusterView<'_>,
        _job: &JobRecord,
        _request: &Request,
    ) -> Option<Vec<PlanOption>> {
        None
    }

    /// By what factors these users' jobs count as longer, since they have had more than others.
    fn share_penalties(&self, _now: Time, _view: &ClusterView<'_>, users: &[&str]) -> Vec<f64> {
        vec![1.0; users.len()]
    }

    /// The waiting jobs that are expected to start next on slots which are busy now, and where: what they name is
    /// prefetched there. The surest ones first, and not many.
    fn upcoming(&self, now: Time, view: &ClusterView<'_>) -> Vec<Upcoming>;

    /// Whether what the policy keeps agrees with the cluster. For tests, the simulator and debug builds.
    fn check(&self, view: &ClusterView<'_>) -> Result<(), Fault>;
}

/// What a policy is told.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    /// Jobs became ready to be placed, and others are it no more.
    Ready {
        /// Jobs that may be placed from now on.
        came: &'a BTreeSet<JobId>,
        /// Jobs that may not be placed any more.
        went: &'a BTreeSet<JobId>,
    },
    /// An attempt of the job was placed.
    Placed(JobId),
    /// The job's attempt goes on, or has told how far it is.
    Progress(JobId),
    /// The job's attempt holds its slots no more.
    Released(JobId),
}

/// A decision: a job starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) job: JobId,
    pub(crate) kind: Kind,
    /// The slots, all of one agent.
    pub(crate) locations: Vec<Location>,
}

/// A decision: a running job's attempt ends, and the job is queued again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Preemption {
    /// The job that is stopped.
    pub(crate) job: JobId,
    /// Why it is stopped, for its user.
    pub(crate) reason: String,
}

/// What is known of a placement as it is made.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    /// What there was to choose from.
    pub(crate) choice: Option<Choice>,
    /// Whether the agent holds the job's data set decoded.
    pub(crate) warm: bool,
    /// When the job is expected to end.
    pub(crate) end: Option<Time>,
    /// What was expected of the job when it was scored first.
    pub(crate) estimate: Option<Estimate>,
}

/// One kind of GPU for a job that is not submitted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanOption {
    /// The GPU's model, or `CPU`.
    pub device: String,
    /// GPUs of this kind without a job, and all.
    pub free: u32,
    pub total: u32,
    /// How long the job would wait there, and take then; `None` by policies that do not compare.
    pub waits: Option<Duration>,
    pub takes: Option<Duration>,
    /// Whether its speed there has been measured.
    pub measured: bool,
}

/// What a waiting job is told.
#[derive(Debug)]
pub(crate) struct Wait {
    /// Jobs that go before it.
    pub(crate) ahead: usize,
    /// What it waits for: a sentence without its full stop.
    pub(crate) reason: String,
    /// When it is expected to start.
    pub(crate) start: Time,
    /// When it is expected to end.
    pub(crate) end: Time,
}

/// How a policy contradicts the cluster: a bug of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A job could be placed and was not.
    NotPlaced(JobId),
    /// What the policy keeps is not what the queue and the jobs say.
    State,
}
