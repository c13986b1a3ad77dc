//! When the jobs that run will be done, as far as they tell.

use trainyard_types::{JobId, JobState, Time};

use super::FinishTime;
use super::facts::Facts;
use super::gpu_queue::Runner;
use crate::duration::{from_millis, to_millis};
use crate::policy::ClusterView;
use crate::record::Progress;

impl FinishTime {
    /// A job starts, goes on, or has told how far it is.
    pub(super) fn track_runner(&mut self, now: Time, view: &ClusterView<'_>, id: JobId) {
        let Some(job) = view.job(id) else { return };
        let Some(attempt) = job.live_attempt().filter(|attempt| attempt.holds_slots()) else { return };
        let Some((kind, _)) = view.kind_of(attempt) else { return };
        let facts = Facts::of(now, view, job);
        let table = view.throughput.rates.estimate(&facts.workload, kind.device()).images_per_second;
        let progress = job.progress.as_deref().filter(|_| attempt.started.is_some());
        // The first epoch fills caches: what it says of itself is slower than what follows.
        let first_epoch = attempt.setup.as_ref().map_or(0, |setup| setup.first_epoch);
        let is_warm = |progress: &&Progress| progress.epoch > first_epoch;
        let own =
            progress.filter(is_warm).map(|progress| progress.images_per_second).filter(|rate| *rate > 0.0);
        let trained = progress.map_or(0.0, |progress| {
            let part = f64::from(progress.batch) / f64::from(progress.batches.max(1));
            (f64::from(progress.epoch) - 1.0 + part) / f64::from(facts.epochs)
        });
        let resume = job.attempts.len() > 1 && attempt.started.is_none();
        let millis = facts.images_left(view, facts.done.max(trained).clamp(0.0, 1.0)) / own.unwrap_or(table)
            * 1000.0
            + if resume { to_millis(view.config.restart_cost) } else { 0.0 };
        let end = now + from_millis(facts.within_time(millis));
        let runner = Runner { agent: attempt.agent, gpus: facts.request.gpus, end };
        self.queues.run(&kind, id, runner);
    }

    /// An attempt of a job is over.
    pub(super) fn untrack_runner(&mut self, view: &ClusterView<'_>, id: JobId) {
        self.queues.stop(id);
        let is_queued = view.job(id).is_some_and(|job| job.state == JobState::Queued);
        self.preemptions.end(id, is_queued, |other| self.queues.queued(other).is_some());
    }
}
