//! Which running jobs are being preempted and for whom, and when each stored its checkpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_types::{JobId, Time};

/// A job that moves to a faster GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Move {
    /// The index of the queue of that GPU's kind.
    queue: usize,
    /// How many GPUs the job needs.
    gpus: u32,
}

/// Preemptions under way, and what follows from them.
#[derive(Debug, Default)]
pub(super) struct Preemptions {
    /// Running jobs that are being preempted, and for whom; for nobody when they move to a faster GPU.
    preempting: BTreeMap<JobId, Option<JobId>>,
    /// Waiting jobs for which another was preempted, and which.
    preempted_for: BTreeMap<JobId, JobId>,
    /// The job that was preempted last.
    last_victim: Option<JobId>,
    /// Jobs that move to a faster GPU.
    moving: BTreeMap<JobId, Move>,
    /// When each running job last stored a checkpoint, and how long after the one before.
    checkpoints: BTreeMap<JobId, (Time, Duration)>,
}

impl Preemptions {
    /// Whether a job is being preempted.
    pub(super) fn is_preempting(&self, job: JobId) -> bool {
        self.preempting.contains_key(&job)
    }

    /// Whether another job is being preempted for this one.
    pub(super) fn has_victim(&self, job: JobId) -> bool {
        self.preempting.values().any(|&beneficiary| beneficiary == Some(job))
    }

    /// The job that was preempted for this one, which waits.
    pub(super) fn preempted_for(&self, job: JobId) -> Option<JobId> {
        self.preempted_for.get(&job).copied()
    }

    /// Whether a job was preempted last of all.
    pub(super) fn is_last_victim(&self, job: JobId) -> bool {
        self.last_victim == Some(job)
    }

    /// Whether a job moves to a GPU of that queue.
    pub(super) fn moves_to(&self, job: JobId, queue: usize) -> bool {
        self.moving.get(&job).is_some_and(|to| to.queue == queue)
    }

    /// GPUs of a queue to which jobs are on their way that move, without those of one job.
    pub(super) fn claimed(&self, queue: usize, but_for: JobId) -> usize {
        let claims = self.moving.iter().filter(|&(&job, to)| to.queue == queue && job != but_for);
        claims.map(|(_, to)| to.gpus as usize).sum()
    }

    /// When a running job last stored a checkpoint, and how long after the one before.
    pub(super) fn last_checkpoint(&self, job: JobId) -> Option<(Time, Duration)> {
        self.checkpoints.get(&job).copied()
    }

    /// A job that has run since `started` stores a checkpoint.
    pub(super) fn note_checkpoint(&mut self, now: Time, job: JobId, started: Time) {
        let before = self.checkpoints.get(&job).map_or(started, |&(last, _)| last);
        self.checkpoints.insert(job, (now, now.since(before)));
    }

    /// A running job is preempted for one that waits.
    pub(super) fn begin(&mut self, victim: JobId, beneficiary: JobId) {
        self.preempting.insert(victim, Some(beneficiary));
        self.last_victim = Some(victim);
    }

    /// A running job is preempted to move to GPUs of another queue.
    pub(super) fn begin_move(&mut self, job: JobId, queue: usize, gpus: u32) {
        self.moving.insert(job, Move { queue, gpus });
        self.preempting.insert(job, None);
        self.last_victim = Some(job);
    }

    /// A job's attempt is over. `is_queued`: whether the job waits again. `waits`: whether another one does.
    pub(super) fn end(&mut self, job: JobId, is_queued: bool, waits: impl Fn(JobId) -> bool) {
        // One that was to move has ended instead.
        if !is_queued {
            self.moving.remove(&job);
        }
        if let Some(Some(other)) = self.preempting.remove(&job)
            && waits(other)
        {
            self.preempted_for.insert(other, job);
        }
        self.checkpoints.remove(&job);
    }

    /// A job waits no more.
    pub(super) fn leave(&mut self, job: JobId) {
        self.moving.remove(&job);
        self.preempted_for.remove(&job);
    }

    /// Whether preemptions and moves end with the jobs that they are about.
    pub(super) fn are_sound(
        &self,
        is_live: impl Fn(JobId) -> bool,
        is_over: impl Fn(JobId) -> bool,
        waits: impl Fn(JobId) -> bool,
    ) -> bool {
        self.preempting.keys().all(|&job| is_live(job))
            && !self.moving.keys().any(|&job| is_over(job))
            && self.preempted_for.keys().all(|&job| waits(job))
    }
}
