//! Which job gets a free card.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use trainyard_types::{AgentId, JobId, Time};

use super::facts::Facts;
use super::queues::Place;
use super::share::Shares;
use super::{FRESH, FinishTime, NEXT_THOUGHT, SECOND_THOUGHT, THOUGHTS, is_gpu};
use crate::policy::{ClusterView, Placement};
use crate::spans::whole_millis;
use crate::state::queue::Request;
use crate::state::sight::JobPaths;
use crate::state::slots::{Kind, Location, Offer, first_of};

/// Candidates of a line that are looked at when the first do not fit.
const LOOKED_AT: usize = 64;

/// A job in the order in which its line goes: by priority, then by stretched length, then by id.
type Turn = Reverse<(Reverse<i32>, u64, JobId)>;

impl FinishTime {
    /// Thinks, as far as there is anything to decide.
    pub(super) fn prepare(&mut self, now: Time, view: &ClusterView<'_>) {
        self.plan.reserved.clear();
        let is_due = self.plan.rethink.take().is_some_and(|time| time <= now);
        let is_free = view.slots.kinds().values().any(|offer| !offer.free.is_empty());
        self.plan.thought_from = self.plan.stamp;
        self.think(now, view, if is_free || is_due { THOUGHTS } else { super::AFTERTHOUGHTS });
    }

    /// The next job to begin and where, by the lines as they stand; `None` when nothing more can begin.
    pub(super) fn choose(&mut self, now: Time, view: &ClusterView<'_>) -> Option<Placement> {
        let shares = Shares::active(now, view);
        for job in self.overdue_heads(view) {
            if let Some(placement) = self.choose_for_overdue(now, view, job) {
                return Some(placement);
            }
        }
        let kinds: Vec<Kind> = view
            .slots
            .kinds()
            .iter()
            .filter(|(_, offer)| !offer.free.is_empty())
            .map(|(kind, _)| kind.clone())
            .collect();
        for kind in kinds {
            let Some(at) = self.plan.find(&kind) else { continue };
            let placement = if self.plan.gangs == 0 {
                self.in_turn(now, view, at, shares).find_map(|job| self.fit_free(now, view, job, &kind, at))
            } else {
                // What is kept for one counts for those behind it.
                let jobs: Vec<JobId> = self.in_turn(now, view, at, shares).collect();
                jobs.into_iter().find_map(|job| self.fit(now, view, job, &kind, at))
            };
            if placement.is_some() {
                return placement;
            }
        }
        None
    }

    /// When to think again: a job waits although a free card would do for it, or has no line yet.
    pub(super) fn plan_second_thought(&mut self, now: Time, view: &ClusterView<'_>) {
        if !self.plan.standing.is_empty() {
            self.plan.rethink = Some(now + NEXT_THOUGHT);
            return;
        }
        let mut free = view.slots.kinds().iter().filter(|(_, offer)| !offer.free.is_empty());
        let wants = |kind: &Kind, offer: &Offer| {
            let mut requests = view.queue.ready().keys();
            requests
                .any(|request| kind.satisfies(request) && offer.has_free_beside(view.queue.lacking(request)))
        };
        if free.any(|(kind, offer)| wants(kind, offer)) {
            // What was thought of just before the card became free is thought over soon.
            let is_left_out = self.plan.left_out().is_some_and(|thought| now.since(thought) < FRESH);
            let after = if is_left_out { FRESH } else { SECOND_THOUGHT };
            self.plan.rethink = Some(now + after);
        }
    }

    /// The jobs of a line as they go, at most [`LOOKED_AT`], without those of users at their limit.
    pub(super) fn in_turn(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        shares: Shares,
    ) -> impl Iterator<Item = JobId> {
        let mut order: BinaryHeap<(Turn, usize)> = BinaryHeap::new();
        let mut lines = Vec::new();
        let offer = view.slots.kinds().get(&self.plan.kinds[at]);
        for ((user, paths), line) in &self.plan.lanes[at].line {
            if view.gpus_left(user) == 0 || !is_seen(view, paths.as_deref(), offer) {
                continue;
            }
            let stretch = shares.stretch_of(now, view, user);
            let mut rest = line.iter();
            if let Some(first) = rest.next() {
                order.push((turn(first, stretch), lines.len()));
            }
            lines.push((stretch, rest));
        }
        let next = move || {
            let (Reverse((.., job)), index) = order.pop()?;
            let (stretch, rest) = &mut lines[index];
            if let Some(next) = rest.next() {
                order.push((turn(next, *stretch), index));
            }
            Some(job)
        };
        std::iter::from_fn(next).take(LOOKED_AT)
    }

    /// The overdue job of each request that goes first and for which a card is free.
    fn overdue_heads(&self, view: &ClusterView<'_>) -> Vec<JobId> {
        let free = |request: &Request| {
            let mut kinds = view.slots.kinds().iter();
            let lacking = view.queue.lacking(request);
            kinds.any(|(kind, offer)| kind.satisfies(request) && offer.has_free_beside(lacking))
        };
        let may = |request: &Request, user: &str| !is_gpu(request) || view.gpus_left(user) >= request.gpus;
        self.plan.overdue.heads(free, may)
    }

    /// The first free cards of the kind that do for the job, if it may have them. If it needs several which are
    /// not free together, they are kept for it.
    fn fit(
        &mut self,
        now: Time,
        view: &ClusterView<'_>,
        job: JobId,
        kind: &Kind,
        at: usize,
    ) -> Option<Placement> {
        let placement = self.fit_free(now, view, job, kind, at);
        let seat = self.plan.seats.get(&job)?;
        if placement.is_none() && seat.facts.request.gpus > 1 && self.may_begin(view, &seat.facts) {
            self.reserve(now, view, job, at);
        }
        placement
    }

    /// Whether its user may use so many more cards.
    fn may_begin(&self, view: &ClusterView<'_>, facts: &Facts) -> bool {
        !is_gpu(&facts.request) || view.gpus_left(&facts.user) >= facts.request.gpus
    }

    fn fit_free(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        job: JobId,
        kind: &Kind,
        at: usize,
    ) -> Option<Placement> {
        let facts = &self.plan.seats.get(&job)?.facts;
        if !self.may_begin(view, facts) {
            return None;
        }
        let done_by = now + std::time::Duration::from_millis(whole_millis(facts.takes(view, kind)));
        let may_use = |agent| self.plan.kept(at, agent).is_none_or(|kept| done_by <= kept.at);
        let locations = self.free_cards(view, kind, facts, self.plan.claimed(at, job), may_use)?;
        Some(Placement { job, kind: kind.clone(), locations })
    }

    /// The fastest kind that has cards free for a job that nobody may overtake any more.
    fn choose_for_overdue(&mut self, now: Time, view: &ClusterView<'_>, job: JobId) -> Option<Placement> {
        let facts: Facts = self.plan.seats.get(&job)?.facts.clone();
        let mut kinds: Vec<(u64, Kind)> = view
            .slots
            .kinds()
            .keys()
            .filter(|kind| facts.fits(view, kind))
            .map(|kind| (whole_millis(facts.takes(view, kind)), kind.clone()))
            .collect();
        kinds.sort();
        for (_, kind) in &kinds {
            let at = self.plan.find(kind)?;
            if let Some(placement) = self.fit_free(now, view, job, kind, at) {
                return Some(placement);
            }
        }
        let at = self.plan.seats.get(&job)?.lane?;
        let kind = self.plan.kinds[at].clone();
        self.fit(now, view, job, &kind, at)
    }

    /// The first free card of an agent that has read a job's data set before; none where one card is all there is.
    fn first_that_has_read<'a>(
        &self,
        view: &ClusterView<'_>,
        free: &'a BTreeSet<Location>,
        facts: &Facts,
    ) -> Option<&'a Location> {
        if free.len() < 2 {
            return None;
        }
        let data = facts.spec.train.data.to_str()?;
        free.iter().take(LOOKED_AT).find(|location| view.seen.holds(data, location.agent))
    }

    /// Free cards of one agent that may be used, all but those that are claimed: of an agent that holds the
    /// job's data set decoded if there is one, then of the agent that has fewest left over.
    pub(super) fn free_cards(
        &self,
        view: &ClusterView<'_>,
        kind: &Kind,
        facts: &Facts,
        claimed: usize,
        may_use: impl Fn(AgentId) -> bool,
    ) -> Option<Vec<Location>> {
        let free = &view.slots.kinds().get(kind)?.free;
        let gpus = facts.request.gpus;
        if free.len() < gpus as usize + claimed {
            return None;
        }
        let lacking = view.lacking(&facts.request);
        let avoids = |agent: AgentId| facts.request.avoids.binary_search(&agent).is_ok();
        let is_plain = lacking.is_empty() && facts.request.avoids.is_empty();
        if is_plain && gpus == 1 && self.plan.gangs == 0 && self.plan.reserved.is_empty() {
            let warm = facts.holders(view).find_map(|agent| first_of(free, &view.agents.get(&agent)?.record));
            let read = || self.first_that_has_read(view, free, facts);
            return warm.or_else(read).or(free.first()).map(|location| vec![location.clone()]);
        }
        let wanted = usize::try_from(gpus).ok()?;
        // The fewest left over, but where the job ended badly only if there is nothing else.
        let mut best: Option<((bool, usize), Vec<&Location>)> = None;
        let mut rest = free.iter().peekable();
        while let Some(first) = rest.next() {
            let mut of_agent = vec![first];
            while let Some(next) = rest.next_if(|next| next.agent == first.agent) {
                of_agent.push(next);
            }
            let fits = of_agent.len() >= wanted && !lacking.contains(&first.agent) && may_use(first.agent);
            let weight = (avoids(first.agent), of_agent.len());
            if fits && best.as_ref().is_none_or(|(least, _)| weight < *least) {
                best = Some((weight, of_agent));
            }
        }
        best.map(|(_, locations)| locations.into_iter().take(wanted).cloned().collect())
    }
}

/// Whether any free card is on an agent that sees these paths; when none is free, whoever makes way may be.
fn is_seen(view: &ClusterView<'_>, paths: Option<&JobPaths>, offer: Option<&Offer>) -> bool {
    let (Some(paths), Some(offer)) = (paths, offer) else { return true };
    offer.free.is_empty() || offer.has_free_beside(view.queue.lacking_of(paths))
}

fn turn(&(priority, rank, job): &Place, stretch: f64) -> Turn {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of centuries fit into 53 bits")]
    let stretched = whole_millis(rank as f64 * stretch);
    Reverse((priority, stretched, job))
}
