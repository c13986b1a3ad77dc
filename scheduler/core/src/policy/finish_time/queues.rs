//! Which job waits in the queue of which kind of GPU.
//!
//! Must not know agents' sessions, stores or what users see. Everything here is derived from the jobs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use trainyard_types::{JobId, Time};

use super::facts::Facts;
use super::gpu_queue::{GpuQueue, QueuePosition, Runner};
use super::starvation::StarvationGuard;
use super::{FRESH, QUEUE_PRESSURE_MEMORY};
use crate::record::Estimate;
use crate::state::slots::Kind;

/// A waiting job that has been scored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QueuedJob {
    pub(super) facts: Facts,
    /// The index of the queue that it is in; `None` while no GPU on offer would do.
    pub(super) queue: Option<usize>,
    /// What orders the queue: its runtime there in milliseconds, times the square root of its GPUs.
    pub(super) sort_key: u64,
    /// Its runtime there in milliseconds, times its GPUs.
    pub(super) gpu_time: f64,
    /// Counts up with each score of any job.
    stamp: u64,
    /// When it was scored last.
    pub(super) scored_at: Time,
    /// From when on it starves: it goes before all that came later.
    pub(super) starving_at: Time,
    /// What was expected of it when it was scored first.
    pub(super) estimate: Option<Estimate>,
}

impl QueuedJob {
    /// Its place among the jobs of its owner.
    pub(super) fn position(&self, job: JobId) -> QueuePosition {
        (Reverse(self.facts.priority), self.sort_key, job)
    }
}

/// The queues of all kinds of GPUs. A queue has the index of its kind.
#[derive(Debug, Default)]
pub(super) struct Queues {
    kinds: Vec<Kind>,
    of_kind: Vec<GpuQueue>,
    queued: BTreeMap<JobId, QueuedJob>,
    /// Ready jobs that are in no queue yet: by priority, then by submission.
    unassigned: BTreeSet<(Reverse<i32>, JobId)>,
    /// Index: with which priority a job is among those, which its user may change.
    unassigned_as: BTreeMap<JobId, i32>,
    /// Index: queued jobs by their stamp, the oldest score first.
    by_score_age: BTreeSet<(u64, JobId)>,
    /// The newest stamp, and that before this round.
    stamp: u64,
    stamp_before_round: u64,
    /// Index: when queued jobs begin to starve.
    starving_from: BTreeSet<(Time, JobId)>,
    /// Index: queued jobs that starve.
    starving: StarvationGuard,
    /// Index: how many queued jobs need several GPUs.
    gangs: usize,
}

/// The lookups of the queues, which change nothing.
impl Queues {
    /// All kinds of GPUs that were ever on offer, with the indexes of their queues.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (usize, &Kind)> {
        self.kinds.iter().enumerate()
    }

    /// The kind of GPU of a queue.
    pub(super) fn kind(&self, at: usize) -> &Kind {
        &self.kinds[at]
    }

    /// The queue of that index.
    pub(super) fn at(&self, at: usize) -> &GpuQueue {
        &self.of_kind[at]
    }

    /// The index of the queue of a kind, if there is one.
    pub(super) fn find(&self, kind: &Kind) -> Option<usize> {
        self.kinds.iter().position(|known| known == kind)
    }

    /// A job that waits and has been scored.
    pub(super) fn queued(&self, job: JobId) -> Option<&QueuedJob> {
        self.queued.get(&job)
    }

    /// Whether no job waits.
    pub(super) fn is_empty(&self) -> bool {
        self.unassigned.is_empty() && self.queued.is_empty()
    }

    /// Whether ready jobs are in no queue yet.
    pub(super) fn has_unassigned(&self) -> bool {
        !self.unassigned.is_empty()
    }

    /// Whether queued jobs need several GPUs.
    pub(super) fn has_gangs(&self) -> bool {
        self.gangs > 0
    }

    /// The queued jobs that starve.
    pub(super) fn starving(&self) -> &StarvationGuard {
        &self.starving
    }

    /// The newest stamp.
    pub(super) fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The oldest score among the jobs that this round did not score, if there are any.
    pub(super) fn oldest_unscored(&self) -> Option<Time> {
        let (_, job) = self.by_score_age.first().filter(|&&(stamp, _)| stamp <= self.stamp_before_round)?;
        self.queued.get(job).map(|queued| queued.scored_at)
    }

    /// When a job that runs is expected to end.
    pub(super) fn expected_end(&self, job: JobId) -> Option<Time> {
        self.of_kind.iter().find_map(|queue| queue.runner(job)).map(|runner| runner.end)
    }

    /// The jobs that run on GPUs.
    pub(super) fn runners(&self) -> impl Iterator<Item = JobId> {
        self.of_kind.iter().flat_map(|queue| queue.runners().map(|(job, _)| job))
    }

    /// Whether the queues are what the jobs say: every ready job is queued or unassigned once, and every index is
    /// that of the jobs in it.
    pub(super) fn are_sound(&self, ready: &BTreeSet<JobId>) -> bool {
        let unassigned = self.unassigned.iter().map(|&(_, job)| job);
        let known: BTreeSet<JobId> = self.queued.keys().copied().chain(unassigned).collect();
        let is_once = known.len() == self.queued.len() + self.unassigned.len();
        let gangs = self.queued.values().filter(|queued| queued.facts.request.gpus > 1).count();
        let by_score_age: BTreeSet<(u64, JobId)> =
            self.queued.iter().map(|(&job, queued)| (queued.stamp, job)).collect();
        let is_indexed =
            |(job, priority): (&JobId, &i32)| self.unassigned.contains(&(Reverse(*priority), *job));
        is_once
            && self.unassigned_as.len() == self.unassigned.len()
            && self.unassigned_as.iter().all(is_indexed)
            && known == *ready
            && gangs == self.gangs
            && by_score_age == self.by_score_age
            && self.of_kind.iter().enumerate().all(|(at, queue)| {
                let of_queue = self.queued.iter().filter(|(_, queued)| queued.queue == Some(at));
                queue.is_sound(of_queue.map(|(&job, queued)| (job, queued)))
            })
    }
}

/// The changes of the queues, which keep their indexes.
impl Queues {
    /// The index of the queue of a kind, which is made if there is none.
    fn find_or_insert(&mut self, kind: &Kind) -> usize {
        self.find(kind).unwrap_or_else(|| {
            self.kinds.push(kind.clone());
            self.of_kind.push(GpuQueue::default());
            self.kinds.len() - 1
        })
    }

    /// A job became ready.
    pub(super) fn arrive(&mut self, job: JobId, priority: i32) {
        if self.queued.contains_key(&job) {
            return;
        }
        if let Some(before) = self.unassigned_as.insert(job, priority) {
            self.unassigned.remove(&(Reverse(before), job));
        }
        self.unassigned.insert((Reverse(priority), job));
    }

    /// A job waits no more.
    pub(super) fn leave(&mut self, job: JobId) {
        if let Some(priority) = self.unassigned_as.remove(&job) {
            self.unassigned.remove(&(Reverse(priority), job));
        }
        if let Some(queued) = self.dequeue(job) {
            self.starving_from.remove(&(queued.starving_at, job));
            self.starving.remove(&queued.facts.request, &queued.facts.user, queued.facts.created, job);
            self.gangs -= usize::from(queued.facts.request.gpus > 1);
        }
    }

    /// A round of decisions begins.
    pub(super) fn begin_round(&mut self) {
        self.stamp_before_round = self.stamp;
    }

    /// Takes the first of the ready jobs that are in no queue yet; [`Queues::admit`] is next.
    pub(super) fn take_unassigned(&mut self) -> Option<JobId> {
        let (_, job) = self.unassigned.pop_first()?;
        self.unassigned_as.remove(&job);
        Some(job)
    }

    /// Takes in a job that has not been scored before; [`Queues::enqueue`] is next.
    pub(super) fn admit(&mut self, now: Time, job: JobId, facts: Facts, starving_at: Time) -> QueuedJob {
        self.gangs += usize::from(facts.request.gpus > 1);
        self.starving_from.insert((starving_at, job));
        QueuedJob {
            facts,
            queue: None,
            sort_key: 0,
            gpu_time: 0.0,
            stamp: 0,
            scored_at: now,
            starving_at,
            estimate: None,
        }
    }

    /// Takes the job with the oldest score out of its queue, unless that score is newer than a stamp, or is still
    /// as good as new; [`Queues::enqueue`] is next.
    pub(super) fn take_oldest_score(&mut self, now: Time, newest: u64) -> Option<(JobId, QueuedJob)> {
        let &(stamp, job) = self.by_score_age.first()?;
        let is_old = self.queued.get(&job).is_none_or(|queued| now.since(queued.scored_at) >= FRESH);
        if stamp > newest || !is_old {
            return None;
        }
        Some((job, self.dequeue(job)?))
    }

    /// Takes a job out of its queue; the caller puts it into another one, or lets it go.
    fn dequeue(&mut self, job: JobId) -> Option<QueuedJob> {
        let queued = self.queued.remove(&job)?;
        self.by_score_age.remove(&(queued.stamp, job));
        if let Some(at) = queued.queue {
            self.of_kind[at].remove(job, &queued);
        }
        Some(queued)
    }

    /// Puts a job into a queue. Its stamp is the newest.
    pub(super) fn enqueue(&mut self, job: JobId, mut queued: QueuedJob) {
        self.stamp += 1;
        queued.stamp = self.stamp;
        self.by_score_age.insert((queued.stamp, job));
        if let Some(at) = queued.queue {
            self.of_kind[at].insert(job, &queued);
        }
        self.queued.insert(job, queued);
    }

    /// Notes which queued jobs have begun to starve.
    pub(super) fn note_starving(&mut self, now: Time) {
        while let Some(&(time, job)) = self.starving_from.first()
            && time <= now
        {
            self.starving_from.pop_first();
            if let Some(queued) = self.queued.get(&job) {
                let Facts { request, user, created, .. } = &queued.facts;
                self.starving.insert(request, user, *created, job);
            }
        }
    }

    /// Brings the queue of a kind up to `now`, of which so many GPUs are on offer. Returns its index.
    pub(super) fn refresh(&mut self, now: Time, kind: &Kind, gpus: usize) -> usize {
        let at = self.find_or_insert(kind);
        self.of_kind[at].update_pressure(now, gpus, QUEUE_PRESSURE_MEMORY);
        self.of_kind[at].refresh_running(now);
        at
    }

    /// A job runs on GPUs of a kind, or is expected to end at another time.
    pub(super) fn run(&mut self, kind: &Kind, job: JobId, runner: Runner) {
        let at = self.find_or_insert(kind);
        self.of_kind[at].run(job, runner);
    }

    /// A job runs no more.
    pub(super) fn stop(&mut self, job: JobId) {
        for queue in &mut self.of_kind {
            queue.stop(job);
        }
    }
}
