//! Who waits for which kind of GPU, and who runs there until when: what the policy decides on.
//!
//! Must not know agents' sessions, stores or what users see. Everything here is derived from the jobs.
//!
//! Each waiting job is in the queue of one kind of GPU. A queue is kept by user, since shares change with time: whose
//! turn it is follows from them each time anew. It is also counted in buckets of runtime, so that the place of a job
//! among ten thousand others costs a look at a few hundred numbers.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use trainyard_types::{AgentId, JobId, Time};

use super::FRESH;
use super::facts::Facts;
use super::starvation::StarvationGuard;
use crate::duration::whole_millis;
use crate::record::Estimate;
use crate::state::order_statistic::OrderedSet;
use crate::state::path_visibility::JobPaths;
use crate::state::slots::Kind;

/// Buckets for each doubling of the runtime, and all of them: from a second to thirty-four years.
const PER_OCTAVE: f64 = 8.0;
const BUCKETS: usize = 240;

/// Jobs counted by their sort key, in buckets that grow by a factor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Load {
    jobs: Vec<f64>,
    /// Milliseconds times GPUs.
    gpu_time: Vec<f64>,
}

impl Default for Load {
    fn default() -> Self {
        Self { jobs: vec![0.0; BUCKETS], gpu_time: vec![0.0; BUCKETS] }
    }
}

/// What is ahead of a place in a queue, and what is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct QueueAhead {
    /// Jobs ahead.
    pub(super) shorter: f64,
    /// Their GPU-time, in milliseconds.
    pub(super) shorter_gpu_time: f64,
    /// Jobs behind.
    pub(super) longer: f64,
}

impl Load {
    fn bucket(sort_key: u64) -> usize {
        #[expect(clippy::cast_precision_loss, reason = "a bucket is wider than the rounding")]
        let octaves = (sort_key.max(1024) as f64).log2() - 10.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative")]
        let bucket = (octaves * PER_OCTAVE) as usize;
        bucket.min(BUCKETS - 1)
    }

    pub(super) fn add(&mut self, sort_key: u64, gpu_time: f64) {
        let at = Self::bucket(sort_key);
        self.jobs[at] += 1.0;
        self.gpu_time[at] += gpu_time;
    }

    pub(super) fn remove(&mut self, sort_key: u64, gpu_time: f64) {
        let at = Self::bucket(sort_key);
        self.jobs[at] = (self.jobs[at] - 1.0).max(0.0);
        // What rounding leaves behind must not pile up in a bucket that is empty.
        self.gpu_time[at] = if self.jobs[at] == 0.0 { 0.0 } else { (self.gpu_time[at] - gpu_time).max(0.0) };
    }

    /// How many jobs there are, and their GPU-time in milliseconds.
    pub(super) fn total(&self) -> (f64, f64) {
        (self.jobs.iter().sum(), self.gpu_time.iter().sum())
    }

    /// What is ahead of a job with this sort key. The jobs in its own bucket count half ahead and half behind.
    pub(super) fn ahead_of(&self, sort_key: u64) -> QueueAhead {
        let at = Self::bucket(sort_key);
        QueueAhead {
            shorter: self.jobs[..at].iter().sum::<f64>() + self.jobs[at] / 2.0,
            shorter_gpu_time: self.gpu_time[..at].iter().sum::<f64>() + self.gpu_time[at] / 2.0,
            longer: self.jobs[at + 1..].iter().sum::<f64>() + self.jobs[at] / 2.0,
        }
    }
}

/// The order of one user's jobs in a queue: by priority, then by sort key, then by submission.
pub(super) type QueuePosition = (Reverse<i32>, u64, JobId);

/// Jobs of a queue that are kept together: of one user, and with paths that the same agents see.
pub(super) type QueueOwner = (Arc<str>, Option<Arc<JobPaths>>);

/// A waiting job that has been scored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QueuedJob {
    pub(super) facts: Facts,
    /// The index of the queue that it is in; `None` while no GPU on pool would do.
    pub(super) queue: Option<usize>,
    /// What orders the queue: its runtime there in milliseconds, times the square root of its GPUs.
    pub(super) sort_key: u64,
    /// Its runtime there in milliseconds, times its GPUs.
    pub(super) gpu_time: f64,
    /// Counts up with each score of any job.
    pub(super) stamp: u64,
    /// When it was scored last.
    pub(super) scored_at: Time,
    /// From when on it starves: it goes before all that came later.
    pub(super) starving_at: Time,
    /// What was expected of it when it was scored first.
    pub(super) estimate: Option<Estimate>,
}

/// A job that runs.
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
        let left = self.end.since(now).as_secs_f64() * 1000.0;
        let gpus = f64::from(self.gpus);
        (whole_millis(left * gpus.sqrt()), left * gpus)
    }
}

/// The queue for one kind of GPU, and the jobs that run there.
#[derive(Debug, Default)]
pub(super) struct GpuQueue {
    pub(super) by_owner: BTreeMap<QueueOwner, OrderedSet<QueuePosition>>,
    /// Waiting jobs by priority, the higher first.
    loads: BTreeMap<Reverse<i32>, Load>,
    /// How many jobs wait.
    pub(super) waiting: usize,
    pub(super) running: BTreeMap<JobId, Runner>,
    /// The running jobs by their expected ends.
    pub(super) ends: BTreeSet<(Time, JobId)>,
    /// The running jobs by what is left of them, as of `running_as_of`.
    pub(super) running_load: Load,
    running_as_of: Time,
    /// Waiting jobs for each GPU, on average over the last hours: what the time of such a GPU is worth.
    pub(super) queue_pressure: f64,
    as_of: Time,
}

/// GPUs of an agent that are reserved for a job that needs several.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GangReservation {
    pub(super) queue: usize,
    pub(super) agent: AgentId,
    pub(super) job: JobId,
    /// When the GPUs are expected to be free.
    pub(super) at: Time,
    /// Jobs that are preempted for it at their next checkpoint.
    pub(super) victims: BTreeSet<JobId>,
}

/// The queues of all kinds of GPUs.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    pub(super) kinds: Vec<Kind>,
    pub(super) of_kind: Vec<GpuQueue>,
    pub(super) queued: BTreeMap<JobId, QueuedJob>,
    /// Ready jobs that are in no queue yet: by priority, then by submission.
    pub(super) unassigned: BTreeSet<(Reverse<i32>, JobId)>,
    /// Queued jobs by their stamp, the oldest score first.
    pub(super) by_score_age: BTreeSet<(u64, JobId)>,
    pub(super) stamp: u64,
    /// The newest stamp before this round.
    pub(super) scored_before: u64,
    /// When queued jobs begin to starve.
    pub(super) starving_from: BTreeSet<(Time, JobId)>,
    /// Queued jobs that starve.
    pub(super) starving: StarvationGuard,
    pub(super) reservations: Vec<GangReservation>,
    /// Running jobs that are being preempted, and for whom; for nobody when they move to a faster GPU.
    pub(super) preempting: BTreeMap<JobId, Option<JobId>>,
    /// Waiting jobs for which another was preempted, and which.
    pub(super) preempted_for: BTreeMap<JobId, JobId>,
    /// The job that was preempted last.
    pub(super) last_victim: Option<JobId>,
    /// Jobs that move to a faster GPU: the queue of its kind, and how many GPUs they need.
    pub(super) moving: BTreeMap<JobId, (usize, u32)>,
    /// When each running job last stored a checkpoint, and how long after the one before.
    pub(super) checkpoints: BTreeMap<JobId, (Time, Duration)>,
    /// Within a round: how long a gang waits, by queue, number of GPUs and class of runtime.
    pub(super) gang_waits: BTreeMap<(usize, u32, u64), f64>,
    /// Queued jobs that need several GPUs.
    pub(super) gangs: usize,
    /// When a round is due although nothing has changed.
    pub(super) replan_at: Option<Time>,
}

impl Queues {
    /// The index of the queue of a kind, which is made if there is none.
    pub(super) fn queue_of(&mut self, kind: &Kind) -> usize {
        if let Some(at) = self.kinds.iter().position(|known| known == kind) {
            return at;
        }
        self.kinds.push(kind.clone());
        self.of_kind.push(GpuQueue::default());
        self.kinds.len() - 1
    }

    /// The index of the queue of a kind, if there is one.
    pub(super) fn find(&self, kind: &Kind) -> Option<usize> {
        self.kinds.iter().position(|known| known == kind)
    }

    /// A job became ready.
    pub(crate) fn arrive(&mut self, job: JobId, priority: i32) {
        if !self.queued.contains_key(&job) {
            self.unassigned.insert((Reverse(priority), job));
        }
    }

    /// A job waits no more.
    pub(crate) fn leave(&mut self, job: JobId, priority: i32) {
        self.unassigned.remove(&(Reverse(priority), job));
        self.moving.remove(&job);
        self.preempted_for.remove(&job);
        if let Some(queued) = self.dequeue(job) {
            self.starving_from.remove(&(queued.starving_at, job));
            self.starving.remove(&queued.facts.request, &queued.facts.user, queued.facts.created, job);
            self.gangs -= usize::from(queued.facts.request.gpus > 1);
        }
    }

    /// Takes a job out of its queue; the caller puts it into another one, or lets it go.
    pub(super) fn dequeue(&mut self, job: JobId) -> Option<QueuedJob> {
        let queued = self.queued.remove(&job)?;
        self.by_score_age.remove(&(queued.stamp, job));
        if let Some(queue) = queued.queue {
            let queue = &mut self.of_kind[queue];
            let priority = Reverse(queued.facts.priority);
            if let Some(load) = queue.loads.get_mut(&priority) {
                load.remove(queued.sort_key, queued.gpu_time);
                if load.total().0 == 0.0 {
                    queue.loads.remove(&priority);
                }
            }
            queue.waiting -= 1;
            let owner = queued.facts.owner();
            if let Some(jobs) = queue.by_owner.get_mut(&owner) {
                jobs.remove(&(Reverse(queued.facts.priority), queued.sort_key, job));
                if jobs.is_empty() {
                    queue.by_owner.remove(&owner);
                }
            }
        }
        Some(queued)
    }

    /// Puts a job into a queue. Its stamp is the newest.
    pub(super) fn enqueue(&mut self, job: JobId, mut queued: QueuedJob) {
        self.stamp += 1;
        queued.stamp = self.stamp;
        self.by_score_age.insert((queued.stamp, job));
        if let Some(queue) = queued.queue {
            let queue = &mut self.of_kind[queue];
            queue
                .loads
                .entry(Reverse(queued.facts.priority))
                .or_default()
                .add(queued.sort_key, queued.gpu_time);
            queue.waiting += 1;
            let position = (Reverse(queued.facts.priority), queued.sort_key, job);
            queue.by_owner.entry(queued.facts.owner()).or_default().insert(position);
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

    /// The gang for which an agent's GPUs are reserved, if they are.
    pub(super) fn reservation_of(&self, queue: usize, agent: AgentId) -> Option<&GangReservation> {
        self.reservations.iter().find(|reservation| (reservation.queue, reservation.agent) == (queue, agent))
    }

    /// GPUs of a queue to which jobs are on their way that move, without those of one job.
    pub(super) fn claimed(&self, queue: usize, but_for: JobId) -> usize {
        let claims = self.moving.iter().filter(|&(&job, &(to, _))| to == queue && job != but_for);
        claims.map(|(_, &(_, gpus))| gpus as usize).sum()
    }

    /// The oldest score among the jobs that this round did not score, if there are any.
    pub(super) fn oldest_unscored(&self) -> Option<Time> {
        let (_, job) = self.by_score_age.first().filter(|&&(stamp, _)| stamp <= self.scored_before)?;
        self.queued.get(job).map(|queued| queued.scored_at)
    }

    /// When a job that runs is expected to end.
    pub(crate) fn expected_end(&self, job: JobId) -> Option<Time> {
        self.of_kind.iter().find_map(|queue| queue.running.get(&job)).map(|runner| runner.end)
    }

    /// Whether a job is being preempted.
    pub(crate) fn is_being_preempted(&self, job: JobId) -> bool {
        self.preempting.contains_key(&job)
    }

    /// Whether another job is being preempted for this one.
    pub(super) fn has_preemption(&self, job: JobId) -> bool {
        self.preempting.values().any(|&beneficiary| beneficiary == Some(job))
    }
}

impl GpuQueue {
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

    /// When the next GPU becomes free after so many others; behind the last one, when that does.
    pub(super) fn nth_end(&self, behind: usize) -> Option<Time> {
        let nth = if behind < self.ends.len() { self.ends.iter().nth(behind) } else { self.ends.last() };
        nth.map(|&(end, _)| end)
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
        let span = now.since(self.as_of).as_secs_f64();
        if span > 0.0 {
            let kept = (-span / memory.as_secs_f64()).exp();
            #[expect(clippy::cast_precision_loss, reason = "counts of jobs and GPUs")]
            let each = self.waiting as f64 / gpus.max(1) as f64;
            self.queue_pressure = self.queue_pressure * kept + each * (1.0 - kept);
            self.as_of = now;
        }
    }
}
