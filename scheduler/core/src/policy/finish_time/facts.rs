//! What the policy knows of one job, and what follows from it for one kind of GPU: whether it may run there, and for
//! how long.

use std::sync::Arc;
use std::time::Duration;

use trainyard_types::{AgentId, Cache, JobSpec, Time};

use super::HOLDERS_ASKED;
use super::gpu_queue::QueueOwner;
use crate::duration::to_millis;
use crate::policy::ClusterView;
use crate::record::JobRecord;
use crate::state::queue::Request;
use crate::state::slots::Kind;
use crate::throughput::Workload;

/// What the policy knows of a job.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Facts {
    pub(super) user: Arc<str>,
    pub(super) priority: i32,
    pub(super) request: Request,
    pub(super) workload: Workload,
    /// As submitted, with what a sweep's grid says.
    pub(super) spec: Arc<JobSpec>,
    pub(super) epochs: u32,
    /// The share of its epochs that its newest checkpoint has.
    pub(super) done: f64,
    /// Whether it has to be resumed.
    pub(super) resumes: bool,
    /// How long it had waited before it was queued the last time.
    pub(super) waited: Duration,
    /// When it was queued the last time.
    pub(super) since: Time,
    /// How long its trainers have run since its user queued it.
    pub(super) ran: Duration,
    pub(super) created: Time,
}

impl Facts {
    /// What is to be known of a job as it stands.
    pub(super) fn of(now: Time, view: &ClusterView<'_>, job: &JobRecord) -> Self {
        let spec = job.full_spec();
        let (waited, since) = waited(now, job);
        let epochs = spec.train.epochs.max(1);
        let done = job.checkpoint.as_ref().map_or(0.0, |checkpoint| f64::from(checkpoint.epoch));
        Self {
            user: Arc::clone(&job.user),
            priority: spec.priority,
            request: view.request(job),
            workload: Workload::from(&*spec),
            epochs,
            done: (done / f64::from(epochs)).min(1.0),
            resumes: !job.attempts.is_empty(),
            waited,
            since,
            ran: job.ran + job.live_attempt().map_or(Duration::ZERO, |attempt| attempt.ran(now)),
            created: job.created,
            spec,
        }
    }

    /// Whether the job may run on such a GPU: it is what the job asks for, and its memory is not known to be too
    /// small for a single image. If that is known of every GPU on offer, the job may fail by itself and say so.
    pub(super) fn fits(&self, view: &ClusterView<'_>, kind: &Kind) -> bool {
        let has_room = |kind: &Kind| match view.statuses().least_mib(&self.spec.train, kind.device()) {
            Some(needs) if *kind != Kind::Cpu => needs <= kind.half_gib().saturating_mul(512),
            Some(_) | None => true,
        };
        kind.satisfies(&self.request)
            && self.is_seen_on(view, kind)
            && (has_room(kind)
                || !view
                    .slots()
                    .kinds()
                    .keys()
                    .any(|other| other.satisfies(&self.request) && has_room(other)))
    }

    /// Whether an agent with such a GPU on offer sees the paths that the job names.
    pub(super) fn is_seen_on(&self, view: &ClusterView<'_>, kind: &Kind) -> bool {
        if self.request.paths.is_none() {
            return true;
        }
        let excluded = view.excluded(&self.request);
        view.slots().kinds().get(kind).is_none_or(|pool| !pool.is_only_of(|agent| excluded.contains(&agent)))
    }

    /// Whether such GPUs are only on agents where the job ended badly.
    pub(super) fn is_avoided(&self, view: &ClusterView<'_>, kind: &Kind) -> bool {
        let avoids = &self.request.avoids;
        let is_avoided = |agent| avoids.binary_search(&agent).is_ok();
        !avoids.is_empty() && view.slots().kinds().get(kind).is_some_and(|pool| pool.is_only_of(is_avoided))
    }

    /// Agents that hold the job's data set decoded.
    pub(super) fn holders(&self, view: &ClusterView<'_>) -> impl Iterator<Item = AgentId> + Clone {
        let train = &self.spec.train;
        view.statuses().holders(&train.data, train.imgsz).filter(|_| train.cache == Cache::Disk)
    }

    /// Whether an agent with such a GPU holds the data set decoded.
    pub(super) fn is_warm(&self, view: &ClusterView<'_>, kind: &Kind) -> bool {
        Self::have(view, self.holders(view), kind)
    }

    /// Whether an agent with such a GPU need not fetch the data set.
    fn is_fetched(&self, view: &ClusterView<'_>, kind: &Kind) -> bool {
        Self::have(view, view.statuses().fetched(&self.spec.train.data), kind)
    }

    /// Whether one of these agents has such a GPU.
    fn have(view: &ClusterView<'_>, agents: impl Iterator<Item = AgentId>, kind: &Kind) -> bool {
        // Of very many the first tell: kinds of GPUs that only the others have count as cold.
        let mut agents = agents.take(HOLDERS_ASKED);
        agents.any(|agent| {
            let inventory = view.agents.get(agent).map(|agent| &agent.record().inventory);
            inventory.is_some_and(|inventory| kind.is_of(inventory))
        })
    }

    /// How long the job would take on a kind of GPU from its newest checkpoint on, in milliseconds.
    pub(super) fn runtime(&self, view: &ClusterView<'_>, kind: &Kind) -> f64 {
        let rate = view.throughput.rates.hope(&self.workload, kind.device());
        let resume = if self.resumes { to_millis(view.config.restart_cost) } else { 0.0 };
        let cold = view.throughput.cold_cache.factor() - 1.0;
        let filling = if cold > 0.0 && !self.is_warm(view, kind) {
            view.throughput.datasets.work(&self.spec.train.data, self.spec.train.fraction) * cold
        } else {
            0.0
        };
        let fetch = view.throughput.fetches.seconds(&self.spec.train.data);
        let fetch = if fetch > 0.0 && !self.is_fetched(view, kind) { fetch * 1000.0 } else { 0.0 };
        self.within_time((self.images_left(view, self.done) + filling) / rate * 1000.0 + resume) + fetch
    }

    /// How long its trainers will run still, in milliseconds, that would need so many for its epochs: `time` overrides
    /// epochs, and at the time limit the job is stopped.
    pub(super) fn within_time(&self, millis: f64) -> f64 {
        let left = |whole: f64| (whole - to_millis(self.ran)).max(0.0);
        let hours = self.spec.train.time;
        let millis = if hours > 0.0 { left(hours * 3_600_000.0) } else { millis };
        self.spec.time_limit.map_or(millis, |limit| millis.min(left(to_millis(limit))))
    }

    /// Images that the job is expected to train still when this share of its epochs is done.
    pub(super) fn images_left(&self, view: &ClusterView<'_>, done: f64) -> f64 {
        let images = view.throughput.datasets.work(&self.spec.train.data, self.spec.train.fraction);
        view.throughput.early_stops.left(done) * f64::from(self.epochs) * images
    }

    /// With which jobs of its queue it is kept together.
    pub(super) fn owner(&self) -> QueueOwner {
        (Arc::clone(&self.user), self.request.paths.clone())
    }
}

/// How long a job waited before it was queued the last time, and since when it is.
fn waited(now: Time, job: &JobRecord) -> (Duration, Time) {
    let (mut waited, mut since) = (Duration::ZERO, Some(job.created));
    for attempt in &job.attempts {
        waited += since.map_or(Duration::ZERO, |since| attempt.placed.since(since));
        since = attempt.ended.as_ref().map_or(Some(now), |end| end.reason.requeues().then_some(end.time));
    }
    // Its user may have queued it again, long after it had ended.
    (waited, since.unwrap_or(now))
}
