//! Whether the indexes are what the records say, for [`crate::invariants`].

use std::collections::BTreeMap;

use trainyard_types::{JobGroupId, JobId, JobState};

use super::Jobs;
use crate::record::JobRecord;
use crate::state::deadlines::Due;
use crate::state::job_index::JobIndex;

/// An index that does not match the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobFault {
    /// A job is not where it belongs in the queue.
    Queue(JobId),
    /// The queue holds so many jobs, and so many are queued.
    QueueSize { indexed: usize, queued: usize },
    /// A request id does not lead to its job.
    Request(JobId),
    /// The index by state, user and end.
    ByState,
    /// A job group has more or fewer jobs left than it says.
    Group(JobGroupId),
    /// The deadlines of time limits.
    TimeLimits,
}

impl Jobs {
    /// Checks every index, in steps in the number of jobs.
    pub(crate) fn check(&self) -> Result<(), JobFault> {
        self.records.values().try_for_each(|job| self.check_job(job))?;
        let queued = self.records.values().filter(|job| job.state == JobState::Queued).count();
        let queue = self.queue();
        let indexed = queue.counts();
        if let Some(&indexed) = indexed.iter().find(|&&indexed| indexed != queued || queue.len() != queued) {
            return Err(JobFault::QueueSize { indexed, queued });
        }
        let (mut by_state, mut time_limits) = (JobIndex::default(), Due::default());
        for job in self.records.values() {
            by_state.insert(job);
            if let Some(time) = job.out_of_time_at() {
                time_limits.add(time, job.id);
            }
        }
        if !by_state.agrees(&self.indexes.by_state) || !self.indexes.transitions.is_empty() {
            return Err(JobFault::ByState);
        }
        if time_limits != self.indexes.time_limits {
            return Err(JobFault::TimeLimits);
        }
        self.check_groups()
    }

    fn check_job(&self, job: &JobRecord) -> Result<(), JobFault> {
        let is_queued = job.state == JobState::Queued;
        let (ordered, ready, delayed) = self.queue().holds(job);
        if ordered != is_queued || (ready || delayed) != is_queued || (ready && delayed) {
            return Err(JobFault::Queue(job.id));
        }
        match &job.request_id {
            Some(request_id) if self.requests.get(request_id) != Some(&job.id) => {
                Err(JobFault::Request(job.id))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn check_groups(&self) -> Result<(), JobFault> {
        let mut left: BTreeMap<JobGroupId, u32> = BTreeMap::new();
        for member in self.records.values().filter_map(|job| job.group.as_ref()) {
            *left.entry(member.group.id).or_default() += 1;
        }
        let known: BTreeMap<JobGroupId, u32> =
            self.groups.iter().map(|(&id, group)| (id, group.left)).collect();
        let wrong = left.iter().find(|(id, left)| known.get(id) != Some(left)).map(|(&id, _)| id);
        match wrong.or_else(|| known.into_keys().find(|id| !left.contains_key(id))) {
            Some(group) => Err(JobFault::Group(group)),
            None => Ok(()),
        }
    }
}
