//! Scores: each waiting job is put into the queue of the kind of GPU where it costs least. What it costs is its own
//! time to the end, waiting included, plus the delay that it causes others.

use std::time::Duration;

use trainyard_types::{JobId, Time};

use super::facts::Facts;
use super::queues::QueuedJob;
use super::{AVOIDED_COST, FinishTime, PATIENCE_FACTOR, QUEUE_PRESSURE_COST};
use crate::duration::{from_millis, to_millis, whole_millis};
use crate::policy::ClusterView;
use crate::record::Estimate;

/// A queue whose GPUs are on offer.
#[derive(Debug, Clone, Copy)]
struct OnOffer {
    /// The index of the queue.
    at: usize,
    /// How many GPUs there are, busy ones included.
    gpus: usize,
}

/// What a queue means for a job.
#[derive(Debug, Clone, Copy)]
struct Score {
    /// In milliseconds: what the queues are compared by.
    cost: f64,
    /// The index of the queue.
    at: usize,
    sort_key: u64,
    /// Its GPU-time there, in milliseconds.
    gpu_time: f64,
    /// How long the job waits there, in milliseconds.
    wait: f64,
    /// How long it takes there, in milliseconds.
    runtime: f64,
}

impl FinishTime {
    /// Scores at most `budget` jobs: first those that are in no queue yet, then those whose score is oldest.
    pub(super) fn score(&mut self, now: Time, view: &ClusterView<'_>, budget: usize) {
        self.reservations.clear_waits();
        let mut queues = Vec::new();
        for (kind, pool) in view.slots().kinds() {
            let at = self.queues.refresh(now, kind, pool.total());
            queues.push(OnOffer { at, gpus: pool.total() });
        }
        if self.queues.is_empty() {
            return;
        }
        self.queues.note_starving(now);
        let mut left = budget;
        while left > 0
            && let Some(id) = self.queues.take_unassigned()
        {
            left -= 1;
            let Some(job) = view.job(id) else { continue };
            let facts = Facts::of(now, view, job);
            let starving_at = self.starving_at(view, &facts);
            let queued = self.queues.admit(now, id, facts, starving_at);
            self.assign(now, view, id, queued, &queues);
        }
        let newest = self.queues.stamp();
        while left > 0
            && let Some((id, queued)) = self.queues.take_oldest_score(now, newest)
        {
            left -= 1;
            self.assign(now, view, id, queued, &queues);
        }
        self.queues.note_starving(now);
    }

    /// When a job has waited for so long that it starves.
    fn starving_at(&self, view: &ClusterView<'_>, facts: &Facts) -> Time {
        let kinds = view.slots().kinds().keys().filter(|kind| facts.fits(view, kind));
        let shortest = kinds.map(|kind| whole_millis(facts.runtime(view, kind))).min().unwrap_or(0);
        let own = Duration::from_millis(shortest).saturating_mul(PATIENCE_FACTOR);
        let patience = view.config.patience.saturating_add(own);
        facts.since + patience.saturating_sub(facts.waited)
    }

    /// Puts a job into the queue where it costs least: its own time to the end, and the delay of others.
    fn assign(
        &mut self,
        now: Time,
        view: &ClusterView<'_>,
        id: JobId,
        mut queued: QueuedJob,
        queues: &[OnOffer],
    ) {
        queued.scored_at = now;
        let gpus = f64::from(queued.facts.request.gpus);
        let mut best: Option<Score> = None;
        for &OnOffer { at, gpus: total } in queues {
            let kind = self.queues.kind(at);
            if !queued.facts.fits(view, kind) {
                continue;
            }
            let runtime = queued.facts.runtime(view, kind);
            let (sort_key, gpu_time) = (whole_millis(runtime * gpus.sqrt()), runtime * gpus);
            let wait = self.expected_wait(now, view, at, total, queued.facts.priority, sort_key);
            let mut cost =
                runtime + wait + self.delay_caused(at, total, queued.facts.priority, sort_key, gpu_time);
            let moves_here = self.preemptions.moves_to(id, at)
                && view.slots().kinds().get(kind).is_some_and(|pool| !pool.free().is_empty());
            if queued.facts.is_avoided(view, kind) {
                cost += runtime + to_millis(AVOIDED_COST);
            }
            if queued.facts.request.gpus > 1 {
                cost += self.gang_wait(now, view, at, &queued.facts.request, runtime);
            }
            if moves_here {
                cost = 0.0;
            }
            if best.is_none_or(|best| cost < best.cost) {
                best = Some(Score { cost, at, sort_key, gpu_time, wait, runtime });
            }
        }
        if queued.estimate.is_none() {
            queued.estimate = best.map(|best| {
                let start = now + from_millis(best.wait);
                Estimate { made: now, start, end: start + from_millis(best.runtime) }
            });
        }
        queued.queue = best.map(|best| best.at);
        (queued.sort_key, queued.gpu_time) = best.map_or((0, 0.0), |best| (best.sort_key, best.gpu_time));
        self.queues.enqueue(id, queued);
    }

    /// How long a job of this priority and sort key is expected to wait in a queue, in milliseconds.
    pub(super) fn expected_wait(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        total: usize,
        priority: i32,
        sort_key: u64,
    ) -> f64 {
        let gpus = total.max(1) as f64;
        let queue = self.queues.at(at);
        let (waiting, running) = (queue.ahead_of(priority, sort_key), queue.running_ahead_of(sort_key));
        let shorter = waiting.shorter + running.shorter;
        let spread = (gpus - 1.0) / (2.0 * shorter.max(1.0));
        let flow = (waiting.shorter_gpu_time + running.shorter_gpu_time) / gpus * (1.0 - spread).max(0.0);
        let flow = if shorter < gpus { 0.0 } else { flow };
        // However short the job is, it waits until enough GPUs become free.
        let free = view.slots().kinds().get(self.queues.kind(at)).map_or(0, |pool| pool.free().len());
        let ahead = usize::try_from(whole_millis(waiting.shorter)).unwrap_or(usize::MAX);
        let next = ahead.checked_sub(free).and_then(|behind| queue.nth_end(behind));
        flow.max(next.map_or(0.0, |end| to_millis(end.since(now))))
    }

    /// How long a job in a queue delays others, in milliseconds added up: those in it, and those that are yet to come.
    pub(super) fn delay_caused(
        &self,
        at: usize,
        total: usize,
        priority: i32,
        sort_key: u64,
        gpu_time: f64,
    ) -> f64 {
        let queue = self.queues.at(at);
        let gpus = total.max(1) as f64;
        let (waiting, running) = (queue.ahead_of(priority, sort_key), queue.running_ahead_of(sort_key));
        let shorter = waiting.shorter + running.shorter;
        let longer = waiting.longer + running.longer;
        let delayed = longer.min(shorter + longer + 1.0 - gpus).max(0.0);
        gpu_time * (delayed / gpus + QUEUE_PRESSURE_COST * queue.pressure())
    }
}
