//! What a policy sees of the cluster, and may not change.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trainyard_types::{AgentId, JobId, JobState, Time};

use crate::config::{CoreConfig, UserLimits};
use crate::record::{AttemptRecord, JobRecord};
use crate::state::agent::Agent;
use crate::state::agent_status::AgentStatuses;
use crate::state::queue::{Queue, Request};
use crate::state::sight::{JobPaths, Seen, Sight};
use crate::state::slots::{self, Kind, Slots};
use crate::state::user::Users;
use crate::throughput::Throughput;

/// The cluster as it is between two changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClusterView<'a> {
    pub(crate) config: &'a CoreConfig,
    pub(crate) jobs: &'a BTreeMap<JobId, JobRecord>,
    pub(crate) agents: &'a BTreeMap<AgentId, Agent>,
    pub(crate) users: &'a Users,
    /// Jobs in state `Queued`.
    pub(crate) queue: &'a Queue,
    /// Slots of connected agents.
    pub(crate) slots: &'a Slots,
    /// Which agents see which paths.
    pub(crate) sight: &'a Sight,
    /// Where data sets could be read.
    pub(crate) seen: &'a Seen,
    /// What agents say they hold and need.
    pub(crate) statuses: &'a AgentStatuses,
    /// What was learned from jobs that ran.
    pub(crate) throughput: &'a Throughput,
}

/// The [`ClusterView`] of whatever has the cluster's parts as fields. It borrows those fields alone, so that a policy
/// beside them may change meanwhile.
macro_rules! view_of {
    ($parts:expr) => {
        ClusterView {
            config: &$parts.config,
            jobs: &$parts.jobs,
            agents: &$parts.agents,
            users: &$parts.users,
            queue: &$parts.queue,
            slots: &$parts.slots,
            sight: &$parts.sight,
            seen: &$parts.seen,
            statuses: &$parts.statuses,
            throughput: &$parts.throughput,
        }
    };
}
pub(crate) use view_of;

impl<'a> ClusterView<'a> {
    /// What a user may do.
    pub(crate) fn limits(&self, user: &str) -> &'a UserLimits {
        self.config.limits(user)
    }

    /// What orders users: lower goes first.
    pub(crate) fn share(&self, now: Time, user: &str) -> u64 {
        self.users.share(self.config, now, user)
    }

    /// How many more GPUs a user may use now.
    pub(crate) fn gpus_left(&self, user: &str) -> u32 {
        self.users.gpus_left(self.config, user)
    }

    /// What a job asks for, waiting or not.
    pub(crate) fn request(&self, job: &JobRecord) -> Request {
        if job.state == JobState::Queued {
            return self.queue.request(job);
        }
        let paths = JobPaths::of(job);
        let is_plain = self.sight.lacking(&paths).is_empty();
        let paths = (!is_plain).then(|| Arc::new(paths));
        Request { paths, avoids: job.failures.avoids(), ..Request::from(&job.spec.resources) }
    }

    /// The agents that cannot see what such a job names, waiting or not.
    pub(crate) fn lacking(&self, request: &Request) -> Cow<'a, BTreeSet<AgentId>> {
        match &request.paths {
            Some(paths) if !self.queue.knows(paths) => Cow::Owned(self.sight.lacking(paths)),
            Some(_) | None => Cow::Borrowed(self.queue.lacking(request)),
        }
    }

    /// Whether a job's data set could be read there: an attempt came up with it, or its images are decoded.
    pub(crate) fn has_read(&self, job: JobId, agent: AgentId) -> bool {
        let Some(job) = self.jobs.get(&job) else { return false };
        if self.seen.holds(&JobPaths::of(job).data, agent) {
            return true;
        }
        let train = &job.full_spec().train;
        self.statuses.holders(&train.data, train.imgsz).any(|holder| holder == agent)
    }

    /// The kind and index of a live attempt's slot, if its agent lists it.
    pub(crate) fn kind_of(&self, attempt: &AttemptRecord) -> Option<(Kind, u32)> {
        let agent = self.agents.get(&attempt.agent)?;
        slots::of_inventory(&agent.record.inventory).remove(&attempt.slot)
    }
}
