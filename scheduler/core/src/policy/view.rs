//! What a policy sees of the cluster, and may not change.

use std::borrow::Cow;
use std::collections::BTreeSet;

use trainyard_types::{AgentId, JobId, Time};

use crate::config::{CoreConfig, UserLimits};
use crate::record::{AttemptRecord, JobRecord};
use crate::state::agents::Agents;
use crate::state::agents::agent::Agent;
use crate::state::agents::statuses::AgentStatuses;
use crate::state::fair_share::Users;
use crate::state::jobs::Jobs;
use crate::state::path_visibility::{DataReaders, JobPaths, PathVisibility};
use crate::state::queue::{Queue, Request};
use crate::state::slots::{Kind, Slots};
use crate::throughput::Throughput;

/// The cluster as it is between two changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClusterView<'a> {
    pub(super) config: &'a CoreConfig,
    pub(super) jobs: &'a Jobs,
    pub(super) agents: &'a Agents,
    pub(super) users: &'a Users,
    /// What was learned from jobs that ran.
    pub(super) throughput: &'a Throughput,
}

impl<'a> ClusterView<'a> {
    pub(crate) fn new(
        config: &'a CoreConfig,
        jobs: &'a Jobs,
        agents: &'a Agents,
        users: &'a Users,
        throughput: &'a Throughput,
    ) -> Self {
        Self { config, jobs, agents, users, throughput }
    }

    pub(crate) fn job(&self, id: JobId) -> Option<&'a JobRecord> {
        self.jobs.get(id)
    }

    pub(crate) fn agent(&self, id: AgentId) -> Option<&'a Agent> {
        self.agents.get(id)
    }

    /// Jobs in state `Queued`.
    pub(crate) fn queue(&self) -> &'a Queue {
        self.jobs.queue()
    }

    /// The open slots of connected agents.
    pub(crate) fn slots(&self) -> &'a Slots {
        self.agents.slots()
    }

    /// Which agents can read which paths.
    pub(crate) fn visibility(&self) -> &'a PathVisibility {
        self.jobs.visibility()
    }

    /// Where data sets could be read.
    pub(crate) fn readers(&self) -> &'a DataReaders {
        self.jobs.readers()
    }

    /// What agents say they hold and need.
    pub(crate) fn statuses(&self) -> &'a AgentStatuses {
        self.agents.statuses()
    }

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
        self.jobs.request(job)
    }

    /// The agents that cannot read what such a job names, waiting or not.
    pub(crate) fn excluded(&self, request: &Request) -> Cow<'a, BTreeSet<AgentId>> {
        match &request.paths {
            Some(paths) if !self.queue().knows(paths) => Cow::Owned(self.visibility().excluded(paths)),
            Some(_) | None => Cow::Borrowed(self.queue().excluded(request)),
        }
    }

    /// Whether a job's data set could be read there: an attempt came up with it, or its images are decoded.
    pub(crate) fn has_read(&self, job: JobId, agent: AgentId) -> bool {
        let Some(job) = self.job(job) else { return false };
        if self.readers().contains(&JobPaths::of(job).data, agent) {
            return true;
        }
        let train = &job.full_spec().train;
        self.statuses().holders(&train.data, train.imgsz).any(|holder| holder == agent)
    }

    /// The kind and index of a live attempt's slot, if its agent lists it.
    pub(crate) fn kind_of(&self, attempt: &AttemptRecord) -> Option<(Kind, u32)> {
        self.agents.kind_of(attempt)
    }
}
