//! The queue for one kind of GPU: who waits for it in which order, and who runs there until when.
//!
//! A queue is kept by user, since shares change with time: whose turn it is follows from them each time anew.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use trainyard_types::{AgentId, JobId, Time};

use super::FRESH;
use super::load::{Load, QueueAhead};
use super::queues::QueuedJob;
use crate::duration::{to_millis, whole_millis};
use crate::state::order_statistic::OrderedSet;
use crate::state::path_visibility::JobPaths;

/// The order of one user's jobs in a queue: by priority, then by sort key, then by submission.
pub(super) type QueuePosition = (Reverse<i32>, u64, JobId);

/// Jobs of a queue that are kept together: of one user, and with paths that the same agents see.
pub(super) type QueueOwner = (Arc<str>, Option<Arc<JobPaths>>);

/// A running job, as its queue counts it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Runner {
    pub(super) agent: AgentId,
    pub(super) gpus: u32,
    /// When it is expected to end.
    pub(super) end: Time,
}

impl Runner {
    /// The sort key and the GPU-time of what is left of it.
    fn left(&self, now: Time) -> (u64, f64) {
        let left = to_millis(self.end.since(now));
        let gpus = f64::from(self.gpus);
        (whole_millis(left * gpus.sqrt()), left * gpus)
    }
}

/// The jobs that wait for one kind of GPU, and those that run there.
#[derive(Debug, Default)]
pub(super) struct GpuQueue {
    by_owner: BTreeMap<QueueOwner, OrderedSet<QueuePosition>>,
    /// Index: waiting jobs by priority, the higher first.
    loads: BTreeMap<Reverse<i32>, Load>,
    /// Index: how many jobs wait.
    waiting: usize,
    running: BTreeMap<JobId, Runner>,
    /// Index: the running jobs by their expected ends.
    ends: BTreeSet<(Time, JobId)>,
    /// Index: the running jobs by what is left of them, as of `running_as_of`.
    running_load: Load,
    running_as_of: Time,
    /// Waiting jobs for each GPU, on average over the last hours: what the time of such a GPU is worth.
    pressure: f64,
    pressure_as_of: Time,
}

/// The lookups of a queue, which change nothing.
impl GpuQueue {
    /// The waiting jobs of each owner, in order.
    pub(super) fn by_owner(&self) -> &BTreeMap<QueueOwner, OrderedSet<QueuePosition>> {
        &self.by_owner
    }

    /// What of its waiting jobs is ahead of one: of a higher priority all, of a lower one nothing.
    pub(super) fn ahead_of(&self, priority: i32, sort_key: u64) -> QueueAhead {
        let mut ahead = QueueAhead::default();
        for (&Reverse(other), load) in &self.loads {
            let part = match other.cmp(&priority) {
                Ordering::Greater => {
                    let (shorter, shorter_gpu_time) = load.total();
                    QueueAhead { shorter, shorter_gpu_time, longer: 0.0 }
                }
                Ordering::Equal => load.ahead_of(sort_key),
                Ordering::Less => QueueAhead { longer: load.total().0, ..QueueAhead::default() },
            };
            ahead.shorter += part.shorter;
            ahead.shorter_gpu_time += part.shorter_gpu_time;
            ahead.longer += part.longer;
        }
        ahead
    }

    /// What of the running jobs has less left than a job with this sort key, and what has more.
    pub(super) fn running_ahead_of(&self, sort_key: u64) -> QueueAhead {
        self.running_load.ahead_of(sort_key)
    }

    pub(super) fn runner(&self, job: JobId) -> Option<&Runner> {
        self.running.get(&job)
    }

    /// The jobs that run here.
    pub(super) fn runners(&self) -> impl Iterator<Item = (JobId, &Runner)> {
        self.running.iter().map(|(&job, runner)| (job, runner))
    }

    /// The running jobs by their expected ends.
    pub(super) fn ends(&self) -> &BTreeSet<(Time, JobId)> {
        &self.ends
    }

    /// When the next GPU becomes free after so many others; behind the last one, when that does.
    pub(super) fn nth_end(&self, behind: usize) -> Option<Time> {
        let nth = if behind < self.ends.len() { self.ends.iter().nth(behind) } else { self.ends.last() };
        nth.map(|&(end, _)| end)
    }

    /// Waiting jobs for each GPU, on average over the last hours.
    pub(super) fn pressure(&self) -> f64 {
        self.pressure
    }

    /// Whether its indexes are what those that wait and run say, and these jobs are the ones that wait.
    pub(super) fn is_sound<'a>(&self, waiting: impl Iterator<Item = (JobId, &'a QueuedJob)> + Clone) -> bool {
        let mut load = Load::default();
        waiting.clone().for_each(|(_, queued)| load.add(queued.sort_key, queued.gpu_time));
        let are_here = waiting.clone().all(|(job, queued)| {
            self.by_owner.get(&queued.facts.owner()).is_some_and(|jobs| jobs.contains(&queued.position(job)))
        });
        let in_order: usize = self.by_owner.values().map(OrderedSet::len).sum();
        let ends: BTreeSet<_> = self.running.iter().map(|(&job, runner)| (runner.end, job)).collect();
        let counted = self.ahead_of(i32::MIN, u64::MAX).shorter;
        are_here
            && in_order == waiting.count()
            && self.waiting == in_order
            && (counted - load.total().0).abs() < 1e-6
            && ends == self.ends
            && (self.running_load.total().0 - self.running.len() as f64).abs() < 1e-6
    }
}

/// Changes, by [`super::queues::Queues`] only.
impl GpuQueue {
    /// A job waits here.
    pub(super) fn insert(&mut self, job: JobId, queued: &QueuedJob) {
        let load = self.loads.entry(Reverse(queued.facts.priority)).or_default();
        load.add(queued.sort_key, queued.gpu_time);
        self.waiting += 1;
        self.by_owner.entry(queued.facts.owner()).or_default().insert(queued.position(job));
    }

    /// A job waits here no more.
    pub(super) fn remove(&mut self, job: JobId, queued: &QueuedJob) {
        let priority = Reverse(queued.facts.priority);
        if let Some(load) = self.loads.get_mut(&priority) {
            load.remove(queued.sort_key, queued.gpu_time);
            if load.total().0 == 0.0 {
                self.loads.remove(&priority);
            }
        }
        self.waiting -= 1;
        let owner = queued.facts.owner();
        if let Some(jobs) = self.by_owner.get_mut(&owner) {
            jobs.remove(&queued.position(job));
            if jobs.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
    }

    /// A job runs here, or is expected to end at another time.
    pub(super) fn run(&mut self, job: JobId, runner: Runner) {
        self.stop(job);
        let (sort_key, gpu_time) = runner.left(self.running_as_of);
        self.running_load.add(sort_key, gpu_time);
        self.ends.insert((runner.end, job));
        self.running.insert(job, runner);
    }

    /// A job runs here no more.
    pub(super) fn stop(&mut self, job: JobId) {
        if let Some(runner) = self.running.remove(&job) {
            let (sort_key, gpu_time) = runner.left(self.running_as_of);
            self.running_load.remove(sort_key, gpu_time);
            self.ends.remove(&(runner.end, job));
        }
    }

    /// Brings what is left of the running jobs up to `now`, unless it is as good as new.
    pub(super) fn refresh_running(&mut self, now: Time) {
        if now.since(self.running_as_of) < FRESH {
            return;
        }
        self.running_as_of = now;
        self.running_load = Load::default();
        for runner in self.running.values() {
            let (sort_key, gpu_time) = runner.left(now);
            self.running_load.add(sort_key, gpu_time);
        }
    }

    /// Brings the queue pressure up to `now`, before the queue changes.
    pub(super) fn update_pressure(&mut self, now: Time, gpus: usize, memory: Duration) {
        let span = now.since(self.pressure_as_of).as_secs_f64();
        if span > 0.0 {
            let kept = (-span / memory.as_secs_f64()).exp();
            let each = self.waiting as f64 / gpus.max(1) as f64;
            self.pressure = self.pressure * kept + each * (1.0 - kept);
            self.pressure_as_of = now;
        }
    }
}
