//! What always holds of the queues, for [`crate::invariants`].

use std::collections::BTreeSet;

use trainyard_types::JobId;

use super::FinishTime;
use crate::policy::ClusterView;

impl FinishTime {
    /// Whether everything that the policy keeps is what the jobs say.
    pub(super) fn is_sound(&self, view: &ClusterView<'_>) -> bool {
        let users = view.queue().ready().values().flat_map(|class| class.values());
        let ready: BTreeSet<JobId> = users.flat_map(|users| users.values()).flatten().copied().collect();
        let live = |job: JobId| view.job(job).and_then(|job| job.live_attempt());
        let holds = |job: JobId| live(job).is_some_and(|attempt| attempt.holds_slots());
        let is_over = |job: JobId| view.job(job).is_none_or(|job| job.state.is_final());
        let waits = |job: JobId| self.queues.queued(job).is_some();
        // A live job whose GPU its agent does not list any more is in no queue.
        let is_nowhere = |job: JobId| live(job).is_some_and(|attempt| view.kind_of(attempt).is_none());
        let runners: BTreeSet<JobId> = self.queues.runners().collect();
        self.queues.are_sound(&ready)
            && self.preemptions.are_sound(|job| live(job).is_some(), is_over, waits)
            && runners.iter().all(|&job| holds(job))
            && view
                .jobs
                .iter()
                .map(|job| job.id)
                .filter(|&job| holds(job))
                .all(|job| runners.contains(&job) || is_nowhere(job))
    }
}
