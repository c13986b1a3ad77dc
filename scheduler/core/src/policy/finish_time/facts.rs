//! What the policy knows of one job, and what follows from it for one kind of GPU: whether it may run there, and for
//! how long.

use std::sync::Arc;
use std::time::Duration;

use trainyard_types::{AgentId, Cache, EndReason, JobSpec, Time};

use super::HOLDERS_ASKED;
use super::queues::LineOf;
use crate::policy::ClusterView;
use crate::record::JobRecord;
use crate::retry::{self, Verdict};
use crate::state::queue::Request;
use crate::state::slots::Kind;
use crate::throughput::Workload;

/// What the policy knows of a job that waits.
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
    pub(super) created: Time,
}

impl Facts {
    /// What the policy has to know of a job that is ready.
    pub(super) fn of(now: Time, view: &ClusterView<'_>, job: &JobRecord) -> Self {
        let spec = job.full_spec();
        let (waited, since) = waited(now, job);
        let epochs = spec.train.epochs.max(1);
        let done = job.checkpoint.as_ref().map_or(0.0, |checkpoint| f64::from(checkpoint.epoch));
        Self {
            user: std::sync::Arc::clone(&job.user),
            priority: spec.priority,
            request: view.request(job),
            workload: Workload::from(&*spec),
            epochs,
            done: (done / f64::from(epochs)).min(1.0),
            resumes: !job.attempts.is_empty(),
            waited,
            since,
            created: job.created,
            spec,
        }
    }

    /// Whether a job may run on such a card: it is what the job asks for, and memory is not known to be too
    /// small for a single image, unless that is so on every card on offer; then the job's own end says so.
    pub(super) fn fits(&self, view: &ClusterView<'_>, kind: &Kind) -> bool {
        let has_room = |kind: &Kind| match view.advertised.least_mib(&self.spec.train, kind.device()) {
            Some(needs) if *kind != Kind::Cpu => needs <= kind.half_gib().saturating_mul(512),
            Some(_) | None => true,
        };
        kind.satisfies(&self.request)
            && self.is_seen_on(view, kind)
            && (has_room(kind)
                || !view.slots.kinds().keys().any(|other| other.satisfies(&self.request) && has_room(other)))
    }

    /// Whether an agent with such a card on offer sees what a job names.
    pub(super) fn is_seen_on(&self, view: &ClusterView<'_>, kind: &Kind) -> bool {
        if self.request.paths.is_none() {
            return true;
        }
        let lacking = view.lacking(&self.request);
        view.slots.kinds().get(kind).is_none_or(|offer| !offer.is_only_of(|agent| lacking.contains(&agent)))
    }

    /// Whether such cards are only on agents where a job ended badly.
    pub(super) fn is_avoided(&self, view: &ClusterView<'_>, kind: &Kind) -> bool {
        let avoids = &self.request.avoids;
        let is_avoided = |agent| avoids.binary_search(&agent).is_ok();
        !avoids.is_empty() && view.slots.kinds().get(kind).is_some_and(|offer| offer.is_only_of(is_avoided))
    }

    /// Agents that hold a job's data set decoded.
    pub(super) fn holders(&self, view: &ClusterView<'_>) -> impl Iterator<Item = AgentId> + Clone {
        let train = &self.spec.train;
        view.advertised.holders(&train.data, train.imgsz).filter(|_| train.cache == Cache::Disk)
    }

    /// Whether an agent with such a card holds it.
    pub(super) fn is_warm(&self, view: &ClusterView<'_>, kind: &Kind) -> bool {
        // Of very many the first tell: cards of a kind that only the others have count as cold.
        self.holders(view).take(HOLDERS_ASKED).any(|agent| {
            let inventory = view.agents.get(&agent).map(|agent| &agent.record.inventory);
            inventory.is_some_and(|inventory| kind.is_of(inventory))
        })
    }

    /// How long a job would take on a kind of card from its newest checkpoint on, in milliseconds.
    pub(super) fn takes(&self, view: &ClusterView<'_>, kind: &Kind) -> f64 {
        let rate = view.throughput.rates.hope(&self.workload, kind.device());
        let resume = if self.resumes { view.config.restart_cost.as_secs_f64() * 1000.0 } else { 0.0 };
        let cold = view.throughput.cold_cache.factor() - 1.0;
        let filling = if cold > 0.0 && !self.is_warm(view, kind) {
            view.throughput.datasets.work(&self.spec.train.data, self.spec.train.fraction) * cold
        } else {
            0.0
        };
        (self.images_left(view, self.done) + filling) / rate * 1000.0 + resume
    }

    /// Images that a job at this share of its epochs is expected to train still.
    pub(super) fn images_left(&self, view: &ClusterView<'_>, done: f64) -> f64 {
        let images = view.throughput.datasets.work(&self.spec.train.data, self.spec.train.fraction);
        view.throughput.early_stops.left(done) * f64::from(self.epochs) * images
    }

    /// The line in which the job stands.
    pub(super) fn line(&self) -> LineOf {
        (Arc::clone(&self.user), self.request.paths.clone())
    }
}

/// How long a job waited before it was queued the last time, and since when it is.
fn waited(now: Time, job: &JobRecord) -> (Duration, Time) {
    let (mut waited, mut since) = (Duration::ZERO, Some(job.created));
    for attempt in &job.attempts {
        waited += since.map_or(Duration::ZERO, |since| attempt.placed.since(since));
        since = attempt.ended.as_ref().map_or(Some(now), |end| requeues(end.reason).then_some(end.time));
    }
    // Its user may have queued it again, long after it had ended.
    (waited, since.unwrap_or(now))
}

/// Whether a job is queued again that ends like this by itself.
fn requeues(reason: EndReason) -> bool {
    matches!(retry::verdict(reason, false, false), Verdict::Retry | Verdict::Requeue)
}
