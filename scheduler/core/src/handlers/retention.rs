//! Jobs that have ended are archived, and then forgotten.

use trainyard_types::{JobId, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::output::Write;

impl Core {
    /// Asks for as many archives as are due. Their end is an event of its own.
    pub(crate) fn archive_due(&mut self, now: Time, out: &mut Changes) {
        out.archive(self.retention.take_due(now, &self.config, self.jobs.by_state().finished()));
    }

    /// When the next archive is due.
    pub(crate) fn next_archival(&self) -> Option<Time> {
        self.retention.next_due(&self.config, self.jobs.by_state().finished())
    }

    /// A job's history is archived, or could not be.
    pub(crate) fn on_archived(&mut self, now: Time, id: JobId, revision: Option<u64>, out: &mut Changes) {
        if !self.retention.end(id) {
            return;
        }
        if revision.is_none() {
            // A full disk, most likely; nothing is lost by waiting.
            return self.retention.pause(now + self.config.retry_delay_max);
        }
        // Its user may have queued it again meanwhile; it may even have ended again.
        if self.jobs.get(id).is_some_and(|job| job.state.is_final() && Some(job.revision) == revision) {
            self.forget_job(id, out);
        }
        self.archive_due(now, out);
    }

    fn forget_job(&mut self, id: JobId, out: &mut Changes) {
        let Some(forgotten) = self.jobs.forget(id) else { return };
        let job = forgotten.job;
        if forgotten.was_last_of_user && self.users.remove(&job.user) {
            out.write(Write::ForgetUser(job.user.to_string()));
        }
        out.write(Write::Forget { job: id, group: job.group.map(|member| member.group.id) });
        out.write_all(forgotten.emptied_group.map(Write::ForgetJobGroup));
    }
}
