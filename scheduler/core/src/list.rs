//! Lists of jobs, newest first, page by page, with a bound on the work of one page.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_types::{JobGroupId, JobId, JobState};

use crate::engine::Core;
use crate::record::JobRecord;

/// Records that one page looks at. A page may therefore be short, or empty, and still have a next one.
pub const LOOKED_AT: usize = 20_000;

/// Which jobs are wanted; all of it must fit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// The states that fit; empty means any.
    pub states: BTreeSet<JobState>,
    /// Whose jobs fit; empty means anybody's.
    pub user: String,
    /// How the names begin.
    pub name_prefix: String,
    /// Labels that a job must have, a sweep's own included.
    pub labels: BTreeMap<String, String>,
    /// The job group whose jobs fit.
    pub group: Option<JobGroupId>,
}

impl Filter {
    /// Whether a job fits.
    pub fn fits(&self, job: &JobRecord) -> bool {
        let label = |key: &str| match &job.group {
            Some(member) => member.group.label(member.index, key),
            None => job.spec.labels.get(key).cloned(),
        };
        (self.states.is_empty() || self.states.contains(&job.state))
            && (self.user.is_empty() || self.user == *job.user)
            && job.spec.name.starts_with(&self.name_prefix)
            && self.group.is_none_or(|id| job.group.as_ref().is_some_and(|member| member.group.id == id))
            && self.labels.iter().all(|(key, value)| label(key).as_ref() == Some(value))
    }
}

/// One page of a list of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// The jobs of the page, the newest first.
    pub jobs: Vec<JobId>,
    /// The next page begins before this job; `None` after the last page.
    pub next: Option<JobId>,
}

impl Core {
    /// Jobs that fit, newest first, at most `size`, all of them older than `before`.
    pub fn list(&self, filter: &Filter, before: Option<JobId>, size: usize) -> Listed {
        let mut listed = Listed::default();
        let mut last = None;
        for (looked_at, id) in self.candidates(filter, before).enumerate() {
            if looked_at == LOOKED_AT {
                listed.next = if listed.jobs.len() == size { listed.jobs.last().copied() } else { last };
                break;
            }
            last = Some(id);
            if self.jobs.get(id).is_some_and(|job| filter.fits(job)) {
                if listed.jobs.len() == size {
                    listed.next = listed.jobs.last().copied();
                    break;
                }
                listed.jobs.push(id);
            }
        }
        listed
    }

    /// The ids from the smallest index that holds all that can fit, newest first.
    fn candidates<'a>(
        &'a self,
        filter: &Filter,
        before: Option<JobId>,
    ) -> Box<dyn Iterator<Item = JobId> + 'a> {
        let before = before.unwrap_or(JobId::MAX);
        if let Some(group) = filter.group {
            let Some(group) = self.group(group) else { return Box::new(std::iter::empty()) };
            let end = match group.index(before) {
                Some(index) => index,
                None if before > group.id.job(0) => group.len(),
                None => 0,
            };
            return Box::new((0..end).rev().map(|index| group.id.job(index)));
        }
        let in_states: Vec<&BTreeSet<JobId>> =
            filter.states.iter().filter_map(|&state| self.jobs.by_state().in_state(state)).collect();
        let count: usize = in_states.iter().map(|jobs| jobs.len()).sum();
        let of_user = self.jobs.by_state().of_user(&filter.user);
        match of_user {
            None if !filter.user.is_empty() => Box::new(std::iter::empty()),
            Some(jobs) if filter.states.is_empty() || jobs.len() <= count => {
                Box::new(jobs.range(..before).rev().copied())
            }
            _ if filter.states.is_empty() => Box::new(self.jobs.ids_before(before).rev()),
            _ => Box::new(Newest { sets: in_states, before }),
        }
    }
}

/// The union of sets, from the largest id down.
struct Newest<'a> {
    sets: Vec<&'a BTreeSet<JobId>>,
    before: JobId,
}

impl Iterator for Newest<'_> {
    type Item = JobId;

    fn next(&mut self) -> Option<JobId> {
        let newest = self.sets.iter().filter_map(|jobs| jobs.range(..self.before).next_back()).max()?;
        self.before = *newest;
        Some(*newest)
    }
}
