//! Scores: each waiting job is put into the queue of the kind of GPU where it costs least. What it costs is its own
//! time to the end, waiting included, plus the delay that it causes others.

use std::time::Duration;

use trainyard_types::{JobId, Time};

use super::facts::Facts;
use super::queues::QueuedJob;
use super::{AVOIDED_COST, FRESH, FinishTime, PATIENCE_FACTOR, QUEUE_PRESSURE_COST, QUEUE_PRESSURE_MEMORY};
use crate::duration::whole_millis;
use crate::policy::ClusterView;
use crate::record::Estimate;

impl FinishTime {
    /// Scores at most `budget` jobs: first those that are in no queue yet, then those whose score is oldest.
    pub(super) fn score(&mut self, now: Time, view: &ClusterView<'_>, budget: usize) {
        self.queues.gang_waits.clear();
        let mut queues = Vec::new();
        for (kind, pool) in view.slots().kinds() {
            let at = self.queues.queue_of(kind);
            self.queues.of_kind[at].update_pressure(now, pool.total(), QUEUE_PRESSURE_MEMORY);
            self.queues.of_kind[at].refresh_running(now);
            queues.push((at, pool.total()));
        }
        if self.queues.unassigned.is_empty() && self.queues.queued.is_empty() {
            return;
        }
        self.queues.note_starving(now);
        let mut left = budget;
        while left > 0
            && let Some((_, id)) = self.queues.unassigned.pop_first()
        {
            left -= 1;
            let Some(job) = view.job(id) else { continue };
            let facts = Facts::of(now, view, job);
            self.queues.gangs += usize::from(facts.request.gpus > 1);
            let starving_at = self.starving_at(view, &facts);
            self.queues.starving_from.insert((starving_at, id));
            let queued = QueuedJob {
                facts,
                queue: None,
                sort_key: 0,
                gpu_time: 0.0,
                stamp: 0,
                scored_at: now,
                starving_at,
                estimate: None,
            };
            self.assign(now, view, id, queued, &queues);
        }
        let newest = self.queues.stamp;
        while left > 0
            && let Some(&(stamp, id)) = self.queues.by_score_age.first()
            && stamp <= newest
            && self.queues.queued.get(&id).is_none_or(|queued| now.since(queued.scored_at) >= FRESH)
        {
            left -= 1;
            if let Some(queued) = self.queues.dequeue(id) {
                self.assign(now, view, id, queued, &queues);
            }
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
        queues: &[(usize, usize)],
    ) {
        queued.scored_at = now;
        let gpus = f64::from(queued.facts.request.gpus);
        let mut best: Option<(f64, usize, u64, f64)> = None;
        let mut expected = None;
        for &(at, total) in queues {
            let kind = &self.queues.kinds[at];
            if !queued.facts.fits(view, kind) {
                continue;
            }
            let runtime = queued.facts.runtime(view, kind);
            let (sort_key, gpu_time) = (whole_millis(runtime * gpus.sqrt()), runtime * gpus);
            let wait = self.expected_wait(now, view, at, total, queued.facts.priority, sort_key);
            let mut cost =
                runtime + wait + self.delay_caused(at, total, queued.facts.priority, sort_key, gpu_time);
            let moves_here = self.queues.moving.get(&id).is_some_and(|&(to, _)| to == at)
                && view.slots().kinds().get(kind).is_some_and(|pool| !pool.free().is_empty());
            if queued.facts.is_avoided(view, kind) {
                cost += runtime + AVOIDED_COST.as_secs_f64() * 1000.0;
            }
            if queued.facts.request.gpus > 1 {
                cost += self.gang_wait(now, view, at, &queued.facts.request, runtime);
            }
            if moves_here {
                cost = 0.0;
            }
            if best.is_none_or(|(least, ..)| cost < least) {
                best = Some((cost, at, sort_key, gpu_time));
                expected = Some((wait, runtime));
            }
        }
        if queued.estimate.is_none() {
            queued.estimate = expected.map(|(wait, runtime)| {
                let start = now + Duration::from_millis(whole_millis(wait));
                Estimate { made: now, start, end: start + Duration::from_millis(whole_millis(runtime)) }
            });
        }
        queued.queue = best.map(|(_, at, ..)| at);
        (queued.sort_key, queued.gpu_time) =
            best.map_or((0, 0.0), |(_, _, sort_key, gpu_time)| (sort_key, gpu_time));
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
        #[expect(clippy::cast_precision_loss, reason = "a count of GPUs")]
        let gpus = total.max(1) as f64;
        let queue = &self.queues.of_kind[at];
        let (waiting, running) = (queue.ahead_of(priority, sort_key), queue.running_load.ahead_of(sort_key));
        let shorter = waiting.shorter + running.shorter;
        let spread = (gpus - 1.0) / (2.0 * shorter.max(1.0));
        let flow = (waiting.shorter_gpu_time + running.shorter_gpu_time) / gpus * (1.0 - spread).max(0.0);
        let flow = if shorter < gpus { 0.0 } else { flow };
        // However short the job is, it waits until enough GPUs become free.
        let free = view.slots().kinds().get(&self.queues.kinds[at]).map_or(0, |pool| pool.free().len());
        let ahead = usize::try_from(whole_millis(waiting.shorter)).unwrap_or(usize::MAX);
        let next = ahead.checked_sub(free).and_then(|behind| queue.nth_end(behind));
        flow.max(next.map_or(0.0, |end| end.since(now).as_secs_f64() * 1000.0))
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
        let queue = &self.queues.of_kind[at];
        #[expect(clippy::cast_precision_loss, reason = "a count of GPUs")]
        let gpus = total.max(1) as f64;
        let (waiting, running) = (queue.ahead_of(priority, sort_key), queue.running_load.ahead_of(sort_key));
        let shorter = waiting.shorter + running.shorter;
        let longer = waiting.longer + running.longer;
        let delayed = longer.min(shorter + longer + 1.0 - gpus).max(0.0);
        gpu_time * (delayed / gpus + QUEUE_PRESSURE_COST * queue.queue_pressure)
    }
}
