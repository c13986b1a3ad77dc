//! Which jobs that have ended are forgotten: the oldest, once they are too old or too many, and never
//! before their history is archived.

use trainyard_types::{JobId, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::output::Write;

/// Jobs that are archived at a time.
const AT_ONCE: usize = 64;

impl Core {
    /// Asks for as many archives as are due. Their end is an event of its own.
    pub(crate) fn archive_due(&mut self, now: Time, out: &mut Changes) {
        if self.archive_paused_until.is_some_and(|until| until > now) {
            return;
        }
        self.archive_paused_until = None;
        let finished = self.index.finished();
        let surplus = finished.len().saturating_sub(self.config.keep_finished);
        let due = finished
            .iter()
            .enumerate()
            .take_while(|&(place, &(ended, _))| {
                place < surplus || ended + self.config.keep_finished_for <= now
            })
            .map(|(_, &(_, job))| job)
            .filter(|job| !self.archiving.contains(job))
            .take(AT_ONCE.saturating_sub(self.archiving.len()));
        let due: Vec<JobId> = due.collect();
        self.archiving.extend(&due);
        out.archive(due);
    }

    /// When the next job becomes too old, if all that is asked for is done by then.
    pub(crate) fn next_archival(&self) -> Option<Time> {
        if self.archiving.len() >= AT_ONCE {
            return None;
        }
        let is_next = |(_, job): &&(Time, JobId)| !self.archiving.contains(job);
        let &(ended, _) = self.index.finished().iter().find(is_next)?;
        let old = ended + self.config.keep_finished_for;
        let surplus = self.index.finished().len() > self.config.keep_finished + self.archiving.len();
        let due = if surplus { Time(0) } else { old };
        Some(self.archive_paused_until.map_or(due, |until| due.max(until)))
    }

    /// A job's history is archived, or could not be.
    pub(crate) fn on_archived(&mut self, now: Time, id: JobId, revision: Option<u64>, out: &mut Changes) {
        if !self.archiving.remove(&id) {
            return;
        }
        if revision.is_none() {
            // A full disk, most likely; nothing is lost by waiting.
            self.archive_paused_until = Some(now + self.config.retry_delay_max);
            return;
        }
        // Its user may have queued it again meanwhile; it may even have ended again.
        if self.jobs.get(&id).is_some_and(|job| job.state.is_final() && Some(job.revision) == revision) {
            self.forget(id, out);
        }
        self.archive_due(now, out);
    }

    fn forget(&mut self, id: JobId, out: &mut Changes) {
        let Some(job) = self.jobs.remove(&id) else { return };
        self.forget_seen(&job);
        self.quick_ends.forget(&job);
        if self.index.remove(&job) && self.users.remove(&job.user) {
            out.write(Write::ForgetUser(job.user.to_string()));
        }
        if let Some(request_id) = &job.request_id {
            self.requests.remove(request_id);
        }
        let Some(place) = job.batch else { return out.write(Write::Forget { job: id, batch: None }) };
        let batch = place.batch;
        let Some(kept) = self.groups.get_mut(&batch.id) else { return };
        kept.left = kept.left.saturating_sub(1);
        out.write(Write::Forget { job: id, batch: Some(batch.id) });
        if kept.left == 0 {
            self.groups.remove(&batch.id);
            if let Some(request_id) = &batch.request_id {
                self.requests.remove(request_id);
            }
            out.write(Write::ForgetJobGroup(batch));
        }
    }
}
