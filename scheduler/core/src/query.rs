//! What others may ask of the core between two events.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use trainyard_types::{AgentId, BatchId, JobId, JobState, Time};

use crate::config::UserLimits;
use crate::engine::Core;
use crate::record::JobRecord;
use crate::state::agent::{Agent, AgentView};
use crate::state::job_group::JobGroupRecord;
use crate::state::slots::Kind;
use crate::state::tally::Tally;
use crate::state::user::User;
use crate::throughput::{Rate, Workload};

impl Core {
    /// One job as it stands.
    pub fn job(&self, job: JobId) -> Option<&JobRecord> {
        self.jobs.get(&job)
    }

    /// All jobs in the order of their submission.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = &JobRecord> {
        self.jobs.values()
    }

    /// The jobs whose id starts with `prefix`, as people shorten ids; hyphens and case do not count.
    pub fn jobs_with_prefix(&self, prefix: &str) -> impl DoubleEndedIterator<Item = &JobRecord> {
        ids_with_prefix(prefix).map(|ids| self.jobs.range(ids)).into_iter().flatten().map(|(_, job)| job)
    }

    /// Every agent ever seen, by id.
    pub fn agents(&self) -> impl Iterator<Item = AgentView<'_>> {
        self.agents.values().map(Agent::view)
    }

    /// One agent.
    pub fn agent(&self, agent: AgentId) -> Option<AgentView<'_>> {
        self.agents.get(&agent).map(Agent::view)
    }

    /// How many jobs are in a state.
    pub fn count(&self, state: JobState) -> usize {
        self.index.in_state(state).map_or(0, BTreeSet::len)
    }

    /// What has happened since it was loaded.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How many jobs are queued.
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// A batch that has jobs left.
    pub fn batch(&self, id: BatchId) -> Option<&Arc<JobGroupRecord>> {
        self.groups.get(&id).map(|batch| &batch.record)
    }

    /// All batches that have jobs left, by id.
    pub fn batches(&self) -> impl DoubleEndedIterator<Item = &Arc<JobGroupRecord>> {
        self.groups.values().map(|batch| &batch.record)
    }

    /// The batches whose id starts with `prefix`.
    pub fn batches_with_prefix(&self, prefix: &str) -> impl Iterator<Item = &Arc<JobGroupRecord>> {
        let ids = ids_with_prefix(prefix).map(|ids| BatchId(ids.start().0)..=BatchId(ids.end().0));
        let found = ids.map(|ids| self.groups.range(ids)).into_iter().flatten();
        found.map(|(_, batch)| &batch.record)
    }

    /// How many of a batch's jobs are in each state; those that were forgotten are not counted.
    pub fn batch_states(&self, batch: &JobGroupRecord) -> BTreeMap<JobState, u32> {
        let mut states = BTreeMap::new();
        for job in batch.ids().filter_map(|id| self.jobs.get(&id)) {
            *states.entry(job.state).or_default() += 1;
        }
        states
    }

    /// What a user may do.
    pub fn limits(&self, user: &str) -> &UserLimits {
        self.config.limits(user)
    }

    /// The share of each user that has jobs waiting or running, lower goes first; and its GPU-milliseconds.
    pub fn shares(&self, now: Time) -> BTreeMap<Arc<str>, (u64, u64)> {
        let share = |user: &User| {
            let limits = self.limits(&user.record.name);
            (
                user.record.name.as_str().into(),
                (user.share(&self.config, now, limits), user.used(&self.config, now)),
            )
        };
        self.users.iter().map(share).collect()
    }

    pub(crate) fn share(&self, now: Time, user: &str) -> u64 {
        self.users.share(&self.config, now, user)
    }

    /// How many more GPUs a user may use now.
    pub(crate) fn gpus_left(&self, user: &str) -> u32 {
        self.users.gpus_left(&self.config, user)
    }

    /// How fast each kind of GPU that was seen or is there trains each workload that was seen.
    pub fn rates(&self) -> impl Iterator<Item = (Workload, &str, Rate)> {
        let here = self.slots.kinds().keys().map(Kind::device);
        self.throughput.rates.table(here)
    }
}

/// The ids that a prefix stands for; `None` when it is no start of a UUID.
pub(crate) fn ids_with_prefix(prefix: &str) -> Option<RangeInclusive<JobId>> {
    let digits: String = prefix.chars().filter(|&c| c != '-').collect();
    if digits.len() > 32 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let padded = |fill: &str| format!("{digits}{}", fill.repeat(32 - digits.len())).parse().ok();
    Some(padded("0")?..=padded("f")?)
}
