//! What always holds of the queues, for [`crate::invariants`].

use std::cmp::Reverse;
use std::collections::BTreeSet;

use trainyard_types::JobId;

use super::FinishTime;
use super::queues::Load;
use crate::policy::ClusterView;

impl FinishTime {
    /// Whether the queues are what the jobs say: every ready job is queued or unassigned once, and what is added
    /// up of a queue is the sum over those in it.
    pub(super) fn queues_are_sound(&self, view: &ClusterView<'_>) -> bool {
        let ready: BTreeSet<JobId> = view
            .queue()
            .ready()
            .values()
            .flat_map(|class| class.values())
            .flat_map(|users| users.values())
            .flatten()
            .copied()
            .collect();
        let known: BTreeSet<JobId> = self
            .queues
            .queued
            .keys()
            .copied()
            .chain(self.queues.unassigned.iter().map(|&(_, job)| job))
            .collect();
        let is_once = known.len() == self.queues.queued.len() + self.queues.unassigned.len();
        is_once && known == ready && self.sums_are_sound() && self.preemptions_are_sound(view)
    }

    fn sums_are_sound(&self) -> bool {
        let queued = &self.queues.queued;
        let gangs = queued.values().filter(|queued| queued.facts.request.gpus > 1).count();
        let by_score_age: BTreeSet<(u64, JobId)> =
            queued.iter().map(|(&job, queued)| (queued.stamp, job)).collect();
        let are_sound = self.queues.of_kind.iter().enumerate().all(|(at, queue)| {
            let of_queue = || queued.iter().filter(|(_, queued)| queued.queue == Some(at));
            let mut waiting = Load::default();
            of_queue().for_each(|(_, queued)| waiting.add(queued.sort_key, queued.gpu_time));
            let in_queue = of_queue().all(|(&job, queued)| {
                let position = (Reverse(queued.facts.priority), queued.sort_key, job);
                queue.by_owner.get(&queued.facts.owner()).is_some_and(|jobs| jobs.contains(&position))
            });
            let in_queues: usize =
                queue.by_owner.values().map(crate::state::order_statistic::OrderedSet::len).sum();
            let ends: BTreeSet<_> = queue.running.iter().map(|(&job, runner)| (runner.end, job)).collect();
            let counted = queue.ahead_of(i32::MIN, u64::MAX).shorter;
            in_queue
                && in_queues == of_queue().count()
                && queue.waiting == in_queues
                && (counted - waiting.total().0).abs() < 1e-6
                && ends == queue.ends
                && (queue.running_load.total().0 - queue.running.len() as f64).abs() < 1e-6
        });
        gangs == self.queues.gangs && by_score_age == self.queues.by_score_age && are_sound
    }

    /// Preemptions and moves end with the jobs that they are about.
    fn preemptions_are_sound(&self, view: &ClusterView<'_>) -> bool {
        let is_live = |job: &JobId| view.job(*job).is_some_and(|job| job.live_attempt().is_some());
        let holds = |job: &JobId| {
            view.job(*job).and_then(|job| job.live_attempt()).is_some_and(|attempt| attempt.holds_slots())
        };
        let is_over = |job: &JobId| view.job(*job).is_none_or(|job| job.state.is_final());
        let runs = |job: &JobId| self.queues.of_kind.iter().any(|queue| queue.running.contains_key(job));
        self.queues.preempting.keys().all(is_live)
            && !self.queues.moving.keys().any(is_over)
            && self.queues.preempted_for.keys().all(|job| self.queues.queued.contains_key(job))
            && self.queues.of_kind.iter().flat_map(|queue| queue.running.keys()).all(holds)
            && view
                .jobs
                .iter()
                .map(|job| job.id)
                .filter(holds)
                .all(|job| runs(&job) || runs_on_nothing_known(view, job))
    }
}

/// A live job whose GPU its agent does not list any more is in no queue.
fn runs_on_nothing_known(view: &ClusterView<'_>, job: JobId) -> bool {
    let attempt = view.job(job).and_then(|job| job.live_attempt());
    attempt.is_some_and(|attempt| view.kind_of(attempt).is_none())
}
