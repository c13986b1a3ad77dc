//! Which jobs that have ended are to be forgotten: the oldest, once they are too old or too many, and never before
//! their history is archived.

use std::collections::BTreeSet;

use trainyard_types::{JobId, Time};

use crate::config::CoreConfig;

/// Jobs that are archived at a time.
const AT_ONCE: usize = 64;

/// Jobs that have ended, by when.
type Finished = BTreeSet<(Time, JobId)>;

/// Which jobs are being archived.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    /// Jobs whose archives were asked for.
    archiving: BTreeSet<JobId>,
    /// No archive is asked for before this time.
    paused_until: Option<Time>,
}

impl Retention {
    /// The jobs whose archives are due; they count as asked for.
    pub(crate) fn take_due(&mut self, now: Time, config: &CoreConfig, finished: &Finished) -> Vec<JobId> {
        if self.paused_until.is_some_and(|until| until > now) {
            return Vec::new();
        }
        self.paused_until = None;
        let surplus = finished.len().saturating_sub(config.keep_finished);
        let due = finished
            .iter()
            .enumerate()
            .take_while(|&(place, &(ended, _))| place < surplus || ended + config.keep_finished_for <= now)
            .map(|(_, &(_, job))| job)
            .filter(|job| !self.archiving.contains(job))
            .take(AT_ONCE.saturating_sub(self.archiving.len()));
        let due: Vec<JobId> = due.collect();
        self.archiving.extend(&due);
        due
    }

    /// When the next job becomes too old, if all that is asked for is done by then.
    pub(crate) fn next_due(&self, config: &CoreConfig, finished: &Finished) -> Option<Time> {
        if self.archiving.len() >= AT_ONCE {
            return None;
        }
        let is_next = |(_, job): &&(Time, JobId)| !self.archiving.contains(job);
        let &(ended, _) = finished.iter().find(is_next)?;
        let has_surplus = finished.len() > config.keep_finished + self.archiving.len();
        let due = if has_surplus { Time(0) } else { ended + config.keep_finished_for };
        Some(self.paused_until.map_or(due, |until| due.max(until)))
    }

    /// A job's archive was asked for no more; `false` when it was not.
    pub(crate) fn end(&mut self, job: JobId) -> bool {
        self.archiving.remove(&job)
    }

    /// Asks for no archives for a while.
    pub(crate) fn pause(&mut self, until: Time) {
        self.paused_until = Some(until);
    }
}
