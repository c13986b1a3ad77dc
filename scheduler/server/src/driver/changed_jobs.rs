//! Which jobs have changed since somebody asked: gathered for those who show all jobs, while there are any.

use std::collections::BTreeSet;

use trainyard_scheduler_core::Write;
use trainyard_types::JobId;

/// Jobs that are gathered; more are as good as all.
const MOST: usize = 500;

/// Jobs that have changed.
#[derive(Debug, Default)]
pub struct ChangedJobs(
    /// `None` while nobody wants to know, and once there are too many.
    Option<BTreeSet<JobId>>,
);

impl ChangedJobs {
    /// Something was stored.
    pub(super) fn written(&mut self, write: &Write) {
        let Some(jobs) = &mut self.0 else { return };
        match write {
            Write::Job(record) => drop(jobs.insert(record.id)),
            Write::Progress(progress) => drop(jobs.insert(progress.job)),
            Write::Forget { job, .. } => drop(jobs.insert(*job)),
            // Many at once.
            Write::JobGroup(_) | Write::ForgetJobGroup(_) => self.0 = None,
            Write::JobEvents { .. }
            | Write::Agent(_)
            | Write::ForgetAgent(_)
            | Write::User(_)
            | Write::Throughput(_)
            | Write::ForgetThroughput(_)
            | Write::ForgetUser(_) => {}
        }
        if self.0.as_ref().is_some_and(|jobs| jobs.len() > MOST) {
            self.0 = None;
        }
    }

    /// Those since it was asked last, which it gathers from now on; `None` where there may be others.
    pub fn take(&mut self) -> Option<BTreeSet<JobId>> {
        self.0.replace(BTreeSet::new())
    }

    /// Gathers no more until somebody asks.
    pub fn stop(&mut self) {
        self.0 = None;
    }
}
