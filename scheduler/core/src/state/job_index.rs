//! Which jobs there are, by state, by user and by the time of their end: what lists and retention go by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trainyard_types::{JobId, JobState, Time};

use crate::record::JobRecord;

/// All jobs, each once in every index that fits.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct JobIndex {
    states: BTreeMap<JobState, BTreeSet<JobId>>,
    users: BTreeMap<Arc<str>, BTreeSet<JobId>>,
    /// Jobs in a final state by when they came to it.
    finished: BTreeSet<(Time, JobId)>,
}

impl JobIndex {
    pub(crate) fn insert(&mut self, job: &JobRecord) {
        self.states.entry(job.state).or_default().insert(job.id);
        match self.users.get_mut(&job.user) {
            Some(jobs) => drop(jobs.insert(job.id)),
            None => drop(self.users.insert(Arc::clone(&job.user), [job.id].into())),
        }
        self.finished.extend(job.ended.map(|ended| (ended, job.id)));
    }

    /// Takes a job out; `true` when its user has none left.
    pub(crate) fn remove(&mut self, job: &JobRecord) -> bool {
        if let Some(jobs) = self.states.get_mut(&job.state) {
            jobs.remove(&job.id);
        }
        if let Some(ended) = job.ended {
            self.finished.remove(&(ended, job.id));
        }
        let Some(jobs) = self.users.get_mut(&job.user) else { return true };
        jobs.remove(&job.id);
        let is_empty = jobs.is_empty();
        if is_empty {
            self.users.remove(&job.user);
        }
        is_empty
    }

    /// A job left a state, with the end that it had there, and is now as it stands.
    pub(crate) fn moved(&mut self, from: JobState, ended: Option<Time>, job: &JobRecord) {
        if let Some(jobs) = self.states.get_mut(&from) {
            jobs.remove(&job.id);
        }
        if let Some(ended) = ended {
            self.finished.remove(&(ended, job.id));
        }
        self.states.entry(job.state).or_default().insert(job.id);
        self.finished.extend(job.ended.map(|ended| (ended, job.id)));
    }

    /// Whether both hold the same jobs; a state without jobs may be left over.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        let states =
            |index: &Self| JobState::ALL.map(|state| index.in_state(state).cloned().unwrap_or_default());
        states(self) == states(other) && self.users == other.users && self.finished == other.finished
    }

    /// Jobs in a final state by when they came to it.
    pub(crate) fn finished(&self) -> &BTreeSet<(Time, JobId)> {
        &self.finished
    }

    pub(crate) fn in_state(&self, state: JobState) -> Option<&BTreeSet<JobId>> {
        self.states.get(&state).filter(|jobs| !jobs.is_empty())
    }

    pub(crate) fn of_user(&self, user: &str) -> Option<&BTreeSet<JobId>> {
        self.users.get(user)
    }
}
