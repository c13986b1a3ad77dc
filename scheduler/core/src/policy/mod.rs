//! The policy `finish-time`: every job finishes as early as this mix of cards allows.
//!
//! 1. **Where.** Each waiting job stands in the line of one kind of card: where its own time to the end
//!    (waiting included) plus the delay that it causes others is least (`think`). A card is worth
//!    more the longer its line has been over the last hours, so that small jobs keep off cards which only
//!    large ones can use. A job may therefore wait although another card is idle; the reason is that it will
//!    be done earlier where it waits.
//! 2. **Who.** When a card is free, the job of its line goes first that takes the shortest time, of the
//!    highest priority (`choose`). How long is what jobs of late tell ([`crate::learned`]), never
//!    what the user says. Jobs of a user who has had more than [`SHARE_SLACK`] times what the others that are
//!    active have had on average count as longer by as much (`share`), without a limit: whoever goes on
//!    taking more yields to everybody in the end.
//! 3. **Nobody starves.** A job that has waited for longer than `patience` plus [`PATIENCE_FACTOR`] times its
//!    own length is overdue: it goes before every job that came later, on every card that would do, and is
//!    not preempted. So what comes more than that time after a job never delays it.
//! 4. **Preemption** (`reconsider`) happens right after a checkpoint of the job that makes way, for
//!    a job that is much shorter, or when a much faster card is free, and never when any free card would do
//!    for the waiting job. A job that was preempted is left alone for [`LEFT_ALONE`], twice as long after the
//!    second time, and so on, and no job is preempted twice in a row. It is charged to nobody's retries.
//! 5. **Several cards** of one agent are kept together for a job that needs them; others may use them as long
//!    as they will be done by then, and jobs whose displacement costs less than the wait make way.
//!
//! A decision thinks of at most [`THOUGHTS`] jobs, those first that were not thought of for longest: with a
//! short queue all of them each time. Nothing is done when nothing has changed.

mod check;
mod choose;
mod explain;
mod lanes;
mod make_way;
mod overdue;
mod share;
mod together;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use trainyard_types::{AgentId, Cache, DeviceKind, EndReason, JobId, JobState, Time};

pub(crate) use self::explain::why_here;
pub(crate) use self::lanes::Plan;
use self::lanes::{Facts, Runner, Seat, as_rank};
use crate::core::Core;
use crate::learned::Workload;
use crate::queue::Request;
use crate::record::{Estimate, JobRecord, Progress};
use crate::retry::{self, Verdict};
use crate::slots::Kind;

/// Who goes next, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// By priority, then by submission; the smallest card that satisfies.
    Fifo,
    /// By priority, then the user that has had least of late; the smallest card that satisfies.
    #[default]
    Fair,
    /// The module's text.
    FinishTime,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fifo, Self::Fair, Self::FinishTime];

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Fair => "fair",
            Self::FinishTime => "finish-time",
        }
    }
}

/// Jobs that one decision thinks of anew.
pub const THOUGHTS: usize = 384;
/// Jobs that are thought of when a checkpoint is stored or a job arrives while nothing is free.
const AFTERTHOUGHTS: usize = 8;
/// When more jobs have come than one decision thinks of, the next ones are thought of after this.
const NEXT_THOUGHT: Duration = Duration::from_millis(5);
/// A job counts as overdue after `patience` and so many times its own length.
pub const PATIENCE_FACTOR: u32 = 4;
/// A user's jobs are put back when it has had more than so many times the others' mean share.
pub const SHARE_SLACK: f64 = 2.0;
/// What the others are taken to have had at least, in GPU-time for each of their weight: small differences
/// are nobody's debt.
pub const SHARE_FLOOR: Duration = Duration::from_secs(3600);
/// How long a job is left alone after it was preempted the first time.
pub const LEFT_ALONE: Duration = Duration::from_secs(3 * 3600);
/// What each waiting job of a line adds to the worth of one of its cards' time.
const CROWDING_WORTH: f64 = 16.0;
/// Over which time that is averaged.
const CROWDING_MEMORY: Duration = Duration::from_secs(6 * 3600);
/// Machines with a data set that are asked for their cards.
const HOLDERS_ASKED: usize = 64;
/// What was thought of a job, or worked out of a line, holds for so long: events that come faster are not worth
/// thinking everything over.
const FRESH: Duration = Duration::from_secs(1);
/// What it counts, beside the job's own length, that a kind of card is only where the job ended badly.
const AVOIDED_COST: Duration = Duration::from_secs(600);
/// When a job waits although a free card would do, that is thought over again after this.
const SECOND_THOUGHT: Duration = Duration::from_secs(60);

impl Core {
    /// What the policy has to know of a job that is ready.
    fn facts(&self, now: Time, job: &JobRecord) -> Facts {
        let spec = job.full_spec();
        let (waited, since) = waited(now, job);
        let epochs = spec.train.epochs.max(1);
        let done = job.checkpoint.as_ref().map_or(0.0, |checkpoint| f64::from(checkpoint.epoch));
        Facts {
            user: std::sync::Arc::clone(&job.user),
            priority: spec.priority,
            request: self.request(job),
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
    fn fits(&self, facts: &Facts, kind: &Kind) -> bool {
        let has_room = |kind: &Kind| match self.advertised.least_mib(&facts.spec.train, kind.device()) {
            Some(needs) if *kind != Kind::Cpu => needs <= kind.half_gib().saturating_mul(512),
            Some(_) | None => true,
        };
        kind.satisfies(&facts.request)
            && self.is_seen_on(facts, kind)
            && (has_room(kind)
                || !self.slots.kinds().keys().any(|other| other.satisfies(&facts.request) && has_room(other)))
    }

    /// Whether an agent with such a card on offer sees what a job names.
    fn is_seen_on(&self, facts: &Facts, kind: &Kind) -> bool {
        if facts.request.paths.is_none() {
            return true;
        }
        let lacking = self.lacking(&facts.request);
        self.slots.kinds().get(kind).is_none_or(|offer| !offer.is_only_of(|agent| lacking.contains(&agent)))
    }

    /// Whether such cards are only on agents where a job ended badly.
    fn is_avoided(&self, facts: &Facts, kind: &Kind) -> bool {
        let avoids = &facts.request.avoids;
        let is_avoided = |agent| avoids.binary_search(&agent).is_ok();
        !avoids.is_empty() && self.slots.kinds().get(kind).is_some_and(|offer| offer.is_only_of(is_avoided))
    }

    /// Agents that hold a job's data set decoded.
    fn holders(&self, facts: &Facts) -> impl Iterator<Item = AgentId> + Clone {
        let train = &facts.spec.train;
        self.advertised.holders(&train.data, train.imgsz).filter(|_| train.cache == Cache::Disk)
    }

    /// Whether an agent with such a card holds it.
    fn is_warm(&self, facts: &Facts, kind: &Kind) -> bool {
        // Of very many the first tell: cards of a kind that only the others have count as cold.
        self.holders(facts).take(HOLDERS_ASKED).any(|agent| {
            let inventory = self.agents.get(&agent).map(|agent| &agent.record.inventory);
            inventory.is_some_and(|inventory| kind.is_of(inventory))
        })
    }

    /// How long a job would take on a kind of card from its newest checkpoint on, in milliseconds.
    fn takes(&self, facts: &Facts, kind: &Kind) -> f64 {
        let rate = self.learned.rates.hope(&facts.workload, kind.device());
        let resume = if facts.resumes { self.config.restart_cost.as_secs_f64() * 1000.0 } else { 0.0 };
        let cold = self.learned.cold.factor() - 1.0;
        let filling = if cold > 0.0 && !self.is_warm(facts, kind) {
            self.learned.sizes.work(&facts.spec.train.data, facts.spec.train.fraction) * cold
        } else {
            0.0
        };
        (self.images_left(facts, facts.done) + filling) / rate * 1000.0 + resume
    }

    /// Images that a job at this share of its epochs is expected to train still.
    fn images_left(&self, facts: &Facts, done: f64) -> f64 {
        let images = self.learned.sizes.work(&facts.spec.train.data, facts.spec.train.fraction);
        self.learned.sizes.left(done) * f64::from(facts.epochs) * images
    }

    /// Takes in which jobs are waiting now.
    pub(crate) fn follow_queue(&mut self) {
        let (came, went) = self.queue.take_changes();
        if self.config.policy != Policy::FinishTime {
            return;
        }
        let priority = |id| self.jobs.get(&id).map_or(0, |job: &JobRecord| job.spec.priority);
        for job in went {
            self.plan.leave(job, priority(job));
        }
        for job in came {
            self.plan.arrive(job, priority(job));
        }
    }

    /// Finds the line of jobs that have none, and thinks again of those that were not thought of for
    /// longest: `thoughts` jobs in all.
    fn think(&mut self, now: Time, thoughts: usize) {
        self.plan.together.clear();
        let mut lanes = Vec::new();
        for (kind, offer) in self.slots.kinds() {
            let at = self.plan.lane(kind);
            self.plan.lanes[at].settle(now, offer.total, CROWDING_MEMORY);
            self.plan.lanes[at].age(now);
            lanes.push((at, offer.total));
        }
        if self.plan.standing.is_empty() && self.plan.seats.is_empty() {
            return;
        }
        self.plan.grow_impatient(now);
        let mut left = thoughts;
        while left > 0
            && let Some((_, id)) = self.plan.standing.pop_first()
        {
            left -= 1;
            let Some(job) = self.jobs.get(&id) else { continue };
            let facts = self.facts(now, job);
            self.plan.gangs += usize::from(facts.request.gpus > 1);
            let overdue_at = self.overdue_at(&facts);
            self.plan.patience.insert((overdue_at, id));
            let seat = Seat {
                facts,
                lane: None,
                rank: 0,
                area: 0.0,
                stamp: 0,
                thought: now,
                overdue_at,
                estimate: None,
            };
            self.seat(now, id, seat, &lanes);
        }
        let newest = self.plan.stamp;
        while left > 0
            && let Some(&(stamp, id)) = self.plan.by_age.first()
            && stamp <= newest
            && self.plan.seats.get(&id).is_none_or(|seat| now.since(seat.thought) >= FRESH)
        {
            left -= 1;
            if let Some(seat) = self.plan.stand_up(id) {
                self.seat(now, id, seat, &lanes);
            }
        }
        self.plan.grow_impatient(now);
    }

    /// When a job has waited for as long as it must.
    fn overdue_at(&self, facts: &Facts) -> Time {
        let kinds = self.slots.kinds().keys().filter(|kind| self.fits(facts, kind));
        let shortest = kinds.map(|kind| as_rank(self.takes(facts, kind))).min().unwrap_or(0);
        let own = Duration::from_millis(shortest).saturating_mul(PATIENCE_FACTOR);
        let patience = self.config.patience.saturating_add(own);
        facts.since + patience.saturating_sub(facts.waited)
    }

    /// Gives a job the seat where it costs least: its own time to the end, and what it takes from others.
    fn seat(&mut self, now: Time, id: JobId, mut seat: Seat, lanes: &[(usize, usize)]) {
        seat.thought = now;
        let cards = f64::from(seat.facts.request.gpus);
        let mut best: Option<(f64, usize, u64, f64)> = None;
        let mut expected = None;
        for &(at, total) in lanes {
            let kind = &self.plan.kinds[at];
            if !self.fits(&seat.facts, kind) {
                continue;
            }
            let takes = self.takes(&seat.facts, kind);
            let (rank, area) = (as_rank(takes * cards.sqrt()), takes * cards);
            let wait = self.expected_wait(now, at, total, seat.facts.priority, rank);
            let mut cost = takes + wait + self.delays(at, total, seat.facts.priority, rank, area);
            let moves_here = self.plan.moving.get(&id).is_some_and(|&(to, _)| to == at)
                && self.slots.kinds().get(kind).is_some_and(|offer| !offer.free.is_empty());
            if self.is_avoided(&seat.facts, kind) {
                cost += takes + AVOIDED_COST.as_secs_f64() * 1000.0;
            }
            if seat.facts.request.gpus > 1 {
                cost += self.together_in(now, at, &seat.facts.request, takes);
            }
            if moves_here {
                cost = 0.0;
            }
            if best.is_none_or(|(least, ..)| cost < least) {
                best = Some((cost, at, rank, area));
                expected = Some((wait, takes));
            }
        }
        if seat.estimate.is_none() {
            seat.estimate = expected.map(|(wait, takes)| {
                let start = now + Duration::from_millis(as_rank(wait));
                Estimate { made: now, start, end: start + Duration::from_millis(as_rank(takes)) }
            });
        }
        seat.lane = best.map(|(_, at, ..)| at);
        (seat.rank, seat.area) = best.map_or((0, 0.0), |(_, _, rank, area)| (rank, area));
        self.plan.sit_down(id, seat);
    }

    /// How long a job of this priority and length is expected to wait in a line, in milliseconds.
    fn expected_wait(&self, now: Time, at: usize, total: usize, priority: i32, rank: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of cards")]
        let cards = total.max(1) as f64;
        let lane = &self.plan.lanes[at];
        let (waiting, running) = (lane.around(priority, rank), lane.running_load.around(rank));
        let shorter = waiting.shorter + running.shorter;
        let spread = (cards - 1.0) / (2.0 * shorter.max(1.0));
        let flow = (waiting.shorter_area + running.shorter_area) / cards * (1.0 - spread).max(0.0);
        let flow = if shorter < cards { 0.0 } else { flow };
        // However short it is, it waits until cards become free.
        let free = self.slots.kinds().get(&self.plan.kinds[at]).map_or(0, |offer| offer.free.len());
        let ahead = usize::try_from(as_rank(waiting.shorter)).unwrap_or(usize::MAX);
        let next = ahead.checked_sub(free).and_then(|behind| lane.nth_end(behind));
        flow.max(next.map_or(0.0, |end| end.since(now).as_secs_f64() * 1000.0))
    }

    /// What a job in a line costs others, in milliseconds of waiting: those in it, and those that are yet to come.
    fn delays(&self, at: usize, total: usize, priority: i32, rank: u64, area: f64) -> f64 {
        let lane = &self.plan.lanes[at];
        #[expect(clippy::cast_precision_loss, reason = "a count of cards")]
        let cards = total.max(1) as f64;
        let (waiting, running) = (lane.around(priority, rank), lane.running_load.around(rank));
        let shorter = waiting.shorter + running.shorter;
        let longer = waiting.longer + running.longer;
        let delayed = longer.min(shorter + longer + 1.0 - cards).max(0.0);
        area * (delayed / cards + CROWDING_WORTH * lane.crowding)
    }

    /// A job begins, goes on, or has told how far it is.
    pub(crate) fn follow_runner(&mut self, now: Time, id: JobId) {
        if self.config.policy != Policy::FinishTime {
            return;
        }
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(attempt) = job.live_attempt().filter(|attempt| attempt.holds_slots()) else { return };
        let Some((kind, _)) = self.kind_of(attempt) else { return };
        let facts = self.facts(now, job);
        let table = self.learned.rates.estimate(&facts.workload, kind.device()).images_per_second;
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
        let millis = self.images_left(&facts, facts.done.max(trained).clamp(0.0, 1.0)) / own.unwrap_or(table)
            * 1000.0
            + if resume { self.config.restart_cost.as_secs_f64() * 1000.0 } else { 0.0 };
        let runner = Runner {
            agent: attempt.agent,
            gpus: facts.request.gpus,
            end: now + Duration::from_millis(as_rank(millis)),
        };
        let at = self.plan.lane(&kind);
        self.plan.lanes[at].run(id, runner);
    }

    /// An attempt of a job is over.
    pub(crate) fn unfollow_runner(&mut self, id: JobId) {
        for lane in &mut self.plan.lanes {
            lane.stop(id);
        }
        // One that was to move has ended instead.
        if self.jobs.get(&id).is_none_or(|job| job.state != JobState::Queued) {
            self.plan.moving.remove(&id);
        }
        if let Some(Some(other)) = self.plan.making_way.remove(&id)
            && self.plan.seats.contains_key(&other)
        {
            self.plan.made_way.insert(other, id);
        }
        self.plan.checkpoints.remove(&id);
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

/// Whether it counts against a user's limit of GPUs.
fn is_gpu(request: &Request) -> bool {
    request.device == DeviceKind::Gpu
}
