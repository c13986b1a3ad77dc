//! Cards of one agent for a job that needs several: which are kept for it, and who makes way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trainyard_types::{AgentId, JobId, Time};

use super::FinishTime;
use super::facts::Facts;
use super::queues::Reservation;
use crate::policy::ClusterView;
use crate::spans::whole_millis;
use crate::state::queue::Request;
use crate::state::slots::Kind;

/// Agents of one kind that are kept free at a time.
const RESERVATIONS: usize = 2;
/// A job makes way for several cards only when that saves at least so much more than it costs.
const WORTH_IT: Duration = Duration::from_secs(600);

/// How long a job takes to its next checkpoint before it has stored any.
const USUAL_GAP: Duration = Duration::from_secs(300);

/// The cards of one kind on one agent.
#[derive(Default)]
struct Group {
    free: u32,
    runners: Vec<JobId>,
}

/// A way to come by cards.
struct Way {
    agent: AgentId,
    /// Milliseconds from now.
    ready: f64,
    /// Milliseconds that it costs others.
    cost: f64,
    victims: BTreeSet<JobId>,
}

impl FinishTime {
    /// The cards of one kind by agent, without agents that lack what the job names.
    fn groups(
        &self,
        view: &ClusterView<'_>,
        at: usize,
        lacking: &BTreeSet<AgentId>,
    ) -> BTreeMap<AgentId, Group> {
        let mut groups: BTreeMap<AgentId, Group> = BTreeMap::new();
        let free = view.slots.kinds().get(&self.plan.kinds[at]).map(|offer| &offer.free);
        for location in free.into_iter().flatten() {
            groups.entry(location.agent).or_default().free += 1;
        }
        for (&job, runner) in &self.plan.lanes[at].running {
            groups.entry(runner.agent).or_default().runners.push(job);
        }
        groups.retain(|id, _| {
            !lacking.contains(id) && view.agents.get(id).is_some_and(|agent| agent.session.is_some())
        });
        groups
    }

    /// How long it takes until so many cards of a kind are together, in milliseconds; what making way costs
    /// others counts as time.
    pub(super) fn together_in(
        &mut self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        request: &Request,
        takes: f64,
    ) -> f64 {
        let gpus = request.gpus;
        if request.paths.is_some() {
            return self.work_out_together(now, view, at, request, takes);
        }
        // Jobs that are about as long wait about as long: one decision works it out once for all of them.
        let key = (at, gpus, whole_millis(takes.max(1.0).log2() * 2.0));
        if let Some(&known) = self.plan.together.get(&key) {
            return known;
        }
        let wait = self.work_out_together(now, view, at, request, takes);
        self.plan.together.insert(key, wait);
        wait
    }

    fn work_out_together(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        request: &Request,
        takes: f64,
    ) -> f64 {
        let gpus = request.gpus;
        let groups = self.groups(view, at, &view.lacking(request));
        let ways = groups.iter().flat_map(|(&agent, group)| {
            let natural = self.wait_for(now, at, agent, group, gpus);
            [natural, self.displace(now, view, at, (agent, group), gpus, takes)]
        });
        ways.flatten().map(|way| way.ready + way.cost).fold(1e15, f64::min)
    }

    /// The cards become free as jobs end.
    fn wait_for(&self, now: Time, at: usize, agent: AgentId, group: &Group, gpus: u32) -> Option<Way> {
        let running = &self.plan.lanes[at].running;
        let mut ends: Vec<(Time, u32)> = group
            .runners
            .iter()
            .filter_map(|job| Some((running.get(job)?.end, running.get(job)?.gpus)))
            .collect();
        ends.sort();
        let mut free = group.free;
        let mut ready = now;
        for (end, gpus_of) in ends {
            if free >= gpus {
                break;
            }
            free += gpus_of;
            ready = ready.max(end);
        }
        let ready = ready.since(now).as_secs_f64() * 1000.0;
        (free >= gpus).then(|| Way { agent, ready, cost: 0.0, victims: BTreeSet::new() })
    }

    /// Jobs make way at their next checkpoints, those first that lose least.
    fn displace(
        &self,
        now: Time,
        view: &ClusterView<'_>,
        at: usize,
        (agent, group): (AgentId, &Group),
        gpus: u32,
        takes: f64,
    ) -> Option<Way> {
        let mut spare = self.spare(view, at, agent);
        let mut ways: Vec<(f64, f64, JobId, u32, bool)> = Vec::new();
        for &job in &group.runners {
            let Some(runner) = self.plan.lanes[at].running.get(&job) else { continue };
            let left = runner.end.since(now).as_secs_f64() * 1000.0;
            let soon = self.to_checkpoint(now, job).min(left);
            if soon >= left || self.is_left_alone(now, view, job) {
                ways.push((0.0, left, job, runner.gpus, false));
                continue;
            }
            let restart = view.config.restart_cost.as_secs_f64() * 1000.0;
            let elsewhere = spare
                .iter()
                .filter(|(_, free)| **free >= runner.gpus)
                .filter_map(|(&lane, _)| Some(((self.moved(now, view, job, lane)? - left).max(0.0), lane)))
                .min_by(|a, b| a.0.total_cmp(&b.0));
            let loss = match elsewhere {
                Some((loss, lane)) if loss < takes + restart => {
                    spare.entry(lane).and_modify(|free| *free -= runner.gpus);
                    loss
                }
                Some(_) | None => takes + restart,
            };
            ways.push((loss, soon, job, runner.gpus, true));
        }
        let weight = |way: &(f64, f64, JobId, u32, bool)| way.0 / f64::from(way.3) + way.1;
        ways.sort_by(|a, b| weight(a).total_cmp(&weight(b)));
        let mut way = Way { agent, ready: 0.0, cost: 0.0, victims: BTreeSet::new() };
        let mut free = group.free;
        for (loss, soon, job, gpus_of, makes_way) in ways {
            if free >= gpus {
                break;
            }
            free += gpus_of;
            way.ready = way.ready.max(soon);
            way.cost += loss;
            if makes_way {
                way.victims.insert(job);
            }
        }
        (free >= gpus).then_some(way)
    }

    /// Free cards by lane, but those of this agent and those that are kept.
    fn spare(&self, view: &ClusterView<'_>, at: usize, agent: AgentId) -> BTreeMap<usize, u32> {
        let mut spare = BTreeMap::new();
        for (kind, offer) in view.slots.kinds() {
            let Some(lane) = self.plan.find(kind) else { continue };
            let kept = |other: AgentId| (lane, other) == (at, agent) || self.plan.kept(lane, other).is_some();
            let free = offer.free.iter().filter(|location| !kept(location.agent)).count();
            spare.insert(lane, u32::try_from(free).unwrap_or(u32::MAX));
        }
        spare
    }

    /// How long a running job would still take in another lane, in milliseconds.
    pub(super) fn moved(&self, now: Time, view: &ClusterView<'_>, job: JobId, lane: usize) -> Option<f64> {
        let kind: &Kind = &self.plan.kinds[lane];
        let mut facts = Facts::of(now, view, view.jobs.get(&job)?);
        facts.resumes = true;
        facts.fits(view, kind).then(|| facts.takes(view, kind))
    }

    /// When a job is expected to store its next checkpoint, in milliseconds from now.
    fn to_checkpoint(&self, now: Time, job: JobId) -> f64 {
        let (last, gap) = self.plan.checkpoints.get(&job).copied().unwrap_or((now, USUAL_GAP));
        (last + gap).since(now).as_secs_f64() * 1000.0
    }

    /// Keeps the cards of one agent for a job that nothing free fits.
    pub(super) fn reserve(&mut self, now: Time, view: &ClusterView<'_>, job: JobId, at: usize) {
        let of_lane = self.plan.reserved.iter().filter(|kept| kept.lane == at);
        if of_lane.clone().any(|kept| kept.job == job) || of_lane.count() >= RESERVATIONS {
            return;
        }
        let Some(seat) = self.plan.seats.get(&job) else { return };
        let gpus = seat.facts.request.gpus;
        let takes = seat.facts.takes(view, &self.plan.kinds[at]);
        let groups = self.groups(view, at, &view.lacking(&seat.facts.request));
        let open = || groups.iter().filter(|(agent, _)| self.plan.kept(at, **agent).is_none());
        let best = |ways: Vec<Way>| {
            ways.into_iter().min_by(|a, b| (a.ready + a.cost).total_cmp(&(b.ready + b.cost)))
        };
        let natural =
            best(open().filter_map(|(&agent, group)| self.wait_for(now, at, agent, group, gpus)).collect());
        let quick = best(
            open()
                .filter_map(|(&agent, group)| self.displace(now, view, at, (agent, group), gpus, takes))
                .collect(),
        );
        let worth = WORTH_IT.as_secs_f64() * 1000.0;
        let way = match (natural, quick) {
            (Some(natural), Some(quick)) if quick.ready + quick.cost + worth < natural.ready => quick,
            (None, Some(quick)) => quick,
            (Some(natural), _) => natural,
            (None, None) => return,
        };
        let at_time = now + Duration::from_millis(whole_millis(way.ready));
        let Way { agent, victims, .. } = way;
        self.plan.reserved.push(Reservation { lane: at, agent, job, at: at_time, victims });
    }
}
