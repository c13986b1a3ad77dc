//! Selection: which job gets a free GPU.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use trainyard_types::{AgentId, JobId, Time};

use super::facts::Facts;
use super::gpu_queue::QueuePosition;
use super::share_penalty::Shares;
use super::{FRESH, FinishTime, NEXT_SCORE_AFTER, REPLAN_AFTER, SCORE_BUDGET, is_gpu};
use crate::duration::{from_millis, whole_millis};
use crate::policy::{ClusterView, Placement};
use crate::state::path_visibility::JobPaths;
use crate::state::queue::Request;
use crate::state::slots::{Kind, Location, SlotPool, first_of};

/// Candidates of a queue that are tried when the first do not fit.
const LOOKED_AT: usize = 64;

/// A job in the order of its queue: by priority, then by its sort key times the share penalty, then by id.
type OrderKey = Reverse<(Reverse<i32>, u64, JobId)>;

impl FinishTime {
    /// Scores jobs, as many as there may be something to decide for.
    pub(super) fn prepare(&mut self, now: Time, view: &ClusterView<'_>) {
        self.reservations.clear();
        let is_due = self.replan_at.take().is_some_and(|time| time <= now);
        let is_free = view.slots().kinds().values().any(|pool| !pool.free().is_empty());
        self.queues.begin_round();
        self.score(now, view, if is_free || is_due { SCORE_BUDGET } else { super::SMALL_SCORE_BUDGET });
    }

    /// The next job to start and where, by the queues as they stand; `None` when nothing more can start.
    pub(super) fn choose(&mut self, now: Time, view: &ClusterView<'_>) -> Option<Placement> {
        let shares = Shares::active(now, view);
        for job in self.starving_heads(view) {
            if let Some(placement) = self.choose_for_starving(now, view, job) {
                return Some(placement);
            }
        }
        let kinds: Vec<Kind> = view
            .slots()
            .kinds()
            .iter()
            .filter(|(_, pool)| !pool.free().is_empty())
            .map(|(kind, _)| kind.clone())
            .collect();
        for kind in kinds {
            let Some(at) = self.queues.find(&kind) else { continue };
            let placement = if !self.queues.has_gangs() {
                self.in_order_of(now, view, at, shares)
                    .find_map(|job| self.place_now(now, view, job, &kind, at))
            } else {
                // What is reserved for one counts for those behind it.
                let jobs: Vec<JobId> = self.in_order_of(now, view, at, shares).collect();
                jobs.into_iter().find_map(|job| self.place_or_reserve(now, view, job, &kind, at))
            };
            if placement.is_some() {
                return placement;
            }
        }
        None
    }

    /// Sets the time of the next round: a job waits although a free GPU would do for it, or is in no queue yet.
    pub(super) fn schedule_replan(&mut self, now: Time, view: &ClusterView<'_>) {
        if self.queues.has_unassigned() {
            self.replan_at = Some(now + NEXT_SCORE_AFTER);
            return;
        }
        let mut free = view.slots().kinds().iter().filter(|(_, pool)| !pool.free().is_empty());
        let wants = |kind: &Kind, pool: &SlotPool| {
            let mut requests = view.queue().ready().keys();
            requests.any(|request| {
                kind.satisfies(request) && pool.has_free_without(view.queue().excluded(request))
            })
        };
        if free.any(|(kind, pool)| wants(kind, pool)) {
            // A score that is only a little older than the free GPU is made again soon.
            let is_left_out =
                self.queues.oldest_unscored().is_some_and(|scored_at| now.since(scored_at) < FRESH);
            let after = if is_left_out { FRESH } else { REPLAN_AFTER };
            self.replan_at = Some(now + after);
        }
    }

    /// The jobs of a queue in order, at most [`LOOKED_AT`], without those of users at their limit.
    pub(super) fn in_order_of(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        shares: Shares,
    ) -> impl Iterator<Item = JobId> {
        let mut order: BinaryHeap<(OrderKey, usize)> = BinaryHeap::new();
        let mut owners = Vec::new();
        let pool = view.slots().kinds().get(self.queues.kind(at));
        for ((user, paths), jobs) in self.queues.at(at).by_owner() {
            if view.gpus_left(user) == 0 || !is_seen(view, paths.as_deref(), pool) {
                continue;
            }
            let share_penalty = shares.penalty_of(now, view, user);
            let mut rest = jobs.iter();
            if let Some(first) = rest.next() {
                order.push((order_key(first, share_penalty), owners.len()));
            }
            owners.push((share_penalty, rest));
        }
        let next = move || {
            let (Reverse((.., job)), index) = order.pop()?;
            let (share_penalty, rest) = &mut owners[index];
            if let Some(next) = rest.next() {
                order.push((order_key(next, *share_penalty), index));
            }
            Some(job)
        };
        std::iter::from_fn(next).take(LOOKED_AT)
    }

    /// The starving job that goes first of each request for which a GPU is free.
    fn starving_heads(&self, view: &ClusterView<'_>) -> Vec<JobId> {
        let free = |request: &Request| {
            let mut kinds = view.slots().kinds().iter();
            let excluded = view.queue().excluded(request);
            kinds.any(|(kind, pool)| kind.satisfies(request) && pool.has_free_without(excluded))
        };
        let may = |request: &Request, user: &str| !is_gpu(request) || view.gpus_left(user) >= request.gpus;
        self.queues.starving().heads(free, may)
    }

    /// The first free GPUs of the kind that do for the job, if it may have them. If it needs several which are
    /// not free together, they are reserved for it.
    fn place_or_reserve(
        &mut self,
        now: Time,
        view: &ClusterView<'_>,
        job: JobId,
        kind: &Kind,
        at: usize,
    ) -> Option<Placement> {
        let placement = self.place_now(now, view, job, kind, at);
        let queued = self.queues.queued(job)?;
        if placement.is_none() && queued.facts.request.gpus > 1 && self.may_begin(view, &queued.facts) {
            self.reserve_gang(now, view, job, at);
        }
        placement
    }

    /// Whether its user may use so many more GPUs.
    fn may_begin(&self, view: &ClusterView<'_>, facts: &Facts) -> bool {
        !is_gpu(&facts.request) || view.gpus_left(&facts.user) >= facts.request.gpus
    }

    fn place_now(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        job: JobId,
        kind: &Kind,
        at: usize,
    ) -> Option<Placement> {
        let facts = &self.queues.queued(job)?.facts;
        if !self.may_begin(view, facts) {
            return None;
        }
        let done_by = now + from_millis(facts.runtime(view, kind));
        let may_use = |agent| {
            self.reservations.of_agent(at, agent).is_none_or(|reservation| done_by <= reservation.ready_at)
        };
        let locations = self.free_gpus(view, kind, facts, self.preemptions.claimed(at, job), may_use)?;
        Some(Placement { job, kind: kind.clone(), locations })
    }

    /// A place on the fastest kind that has GPUs free for a starving job.
    fn choose_for_starving(&mut self, now: Time, view: &ClusterView<'_>, job: JobId) -> Option<Placement> {
        let facts: Facts = self.queues.queued(job)?.facts.clone();
        let mut kinds: Vec<(u64, Kind)> = view
            .slots()
            .kinds()
            .keys()
            .filter(|kind| facts.fits(view, kind))
            .map(|kind| (whole_millis(facts.runtime(view, kind)), kind.clone()))
            .collect();
        kinds.sort();
        for (_, kind) in &kinds {
            let at = self.queues.find(kind)?;
            if let Some(placement) = self.place_now(now, view, job, kind, at) {
                return Some(placement);
            }
        }
        let at = self.queues.queued(job)?.queue?;
        let kind = self.queues.kind(at).clone();
        self.place_or_reserve(now, view, job, &kind, at)
    }

    /// The first free GPU of an agent that has read a job's data set before; `None` when only one is free anyway.
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
        free.iter().take(LOOKED_AT).find(|location| view.readers().contains(data, location.agent))
    }

    /// Free GPUs of one agent that may be used, without those that are claimed: of an agent that holds the
    /// job's data set decoded if there is one, then of the agent that has fewest left over.
    pub(super) fn free_gpus(
        &self,
        view: &ClusterView<'_>,
        kind: &Kind,
        facts: &Facts,
        claimed: usize,
        may_use: impl Fn(AgentId) -> bool,
    ) -> Option<Vec<Location>> {
        let free = view.slots().kinds().get(kind)?.free();
        let gpus = facts.request.gpus;
        if free.len() < gpus as usize + claimed {
            return None;
        }
        let excluded = view.excluded(&facts.request);
        let avoids = |agent: AgentId| facts.request.avoids.binary_search(&agent).is_ok();
        let is_plain = excluded.is_empty() && facts.request.avoids.is_empty();
        if is_plain && gpus == 1 && !self.queues.has_gangs() && self.reservations.is_empty() {
            let of = |agent| first_of(free, view.agents.get(agent)?.record());
            let warm = facts.holders(view).find_map(of);
            let fetched = || view.statuses().fetched(&facts.spec.train.data).find_map(of);
            let read = || self.first_that_has_read(view, free, facts);
            return warm
                .or_else(fetched)
                .or_else(read)
                .or(free.first())
                .map(|location| vec![location.clone()]);
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
            let fits = of_agent.len() >= wanted && !excluded.contains(&first.agent) && may_use(first.agent);
            let weight = (avoids(first.agent), of_agent.len());
            if fits && best.as_ref().is_none_or(|(least, _)| weight < *least) {
                best = Some((weight, of_agent));
            }
        }
        best.map(|(_, locations)| locations.into_iter().take(wanted).cloned().collect())
    }
}

/// Whether any free GPU is on an agent that sees these paths. When none is free, that of a preempted job may be.
fn is_seen(view: &ClusterView<'_>, paths: Option<&JobPaths>, pool: Option<&SlotPool>) -> bool {
    let (Some(paths), Some(pool)) = (paths, pool) else { return true };
    pool.free().is_empty() || pool.has_free_without(view.queue().excluded_for(paths))
}

fn order_key(&(priority, sort_key, job): &QueuePosition, share_penalty: f64) -> OrderKey {
    let penalised = whole_millis(sort_key as f64 * share_penalty);
    Reverse((priority, penalised, job))
}
