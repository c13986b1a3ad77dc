//! The policies `fair` and `fifo`, which is `fair` without turns.
//!
//! Jobs go by priority; of one priority, the user goes first that has had least of late for its weight
//! ([`crate::state::fair_share`]), and of one user the earlier submission. Each takes the smallest GPU that satisfies
//! it; among equal GPUs one of an agent that has read its data set before, then the first by agent name and GPU
//! index. Agents that cannot see its paths are left out, and those where it ended badly come last. A job that
//! nothing free satisfies stays, and holds up only jobs with the very same request.

use std::cmp::Reverse;
use std::collections::btree_set::Iter;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::iter::Peekable;
use std::sync::Arc;

use trainyard_types::{AgentId, DeviceKind, JobId, Time};

use super::upcoming::{UPCOMING, is_soon, pair};
use super::{ClusterView, Fault, Placement, PlacementPolicy, Upcoming};
use crate::state::fair_share::stake;
use crate::state::queue::{Class, Request};
use crate::state::slots::{Kind, Location};

/// Places as many ready jobs as there are slots for, all of a round at once.
#[derive(Debug)]
pub(super) struct Fair {
    /// Whether users take turns; otherwise the earlier submission goes first.
    takes_turns: bool,
    /// What this round has decided and the engine has not carried out yet.
    decided: VecDeque<Placement>,
}

impl Fair {
    /// The policy `fair`.
    pub(super) fn with_turns() -> Self {
        Self { takes_turns: true, decided: VecDeque::new() }
    }

    /// The policy `fifo`.
    pub(super) fn without_turns() -> Self {
        Self { takes_turns: false, decided: VecDeque::new() }
    }
}

impl PlacementPolicy for Fair {
    fn begin_round(&mut self, now: Time, view: &ClusterView<'_>) {
        self.decided = place(now, view, self.takes_turns).into();
    }

    fn next(&mut self, _now: Time, _view: &ClusterView<'_>) -> Option<Placement> {
        self.decided.pop_front()
    }

    fn upcoming(&self, now: Time, view: &ClusterView<'_>) -> Vec<Upcoming> {
        upcoming(now, view, self.takes_turns)
    }

    fn check(&self, view: &ClusterView<'_>) -> Result<(), Fault> {
        // Shares change with time, but whether there is anything to place does not.
        match place(Time(0), view, self.takes_turns).first() {
            Some(placement) => Err(Fault::NotPlaced(placement.job)),
            None => Ok(()),
        }
    }
}

/// What a user may have, and when it is its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    /// The user with the lowest goes first.
    share: u64,
    /// What one attempt on a GPU, and on a CPU slot, adds to the share.
    stakes: [u64; 2],
    /// GPUs that the user may still take.
    gpus_left: u32,
}

impl Turn {
    fn of(now: Time, view: &ClusterView<'_>, user: &str) -> Self {
        let limits = view.limits(user);
        let stakes = [DeviceKind::Gpu, DeviceKind::Cpu].map(|device| stake(device, limits));
        Self { share: view.share(now, user), stakes, gpus_left: view.gpus_left(user) }
    }
}

/// Free slots of one kind.
struct Free<'a> {
    rest: Peekable<Iter<'a, Location>>,
    all: &'a BTreeSet<Location>,
    /// Taken out of turn, by jobs that need several.
    taken: BTreeSet<&'a Location>,
}

type Supply<'a> = BTreeMap<&'a Kind, Free<'a>>;
/// A job and the request that it shares with those that follow it.
type Head<'a> = (&'a Request, &'a Arc<str>, Iter<'a, JobId>);

/// The jobs of one priority that take turns as one: the first of each request; the rest follow as it is placed.
#[derive(Default)]
struct Contender<'a> {
    heads: BTreeMap<JobId, Head<'a>>,
}

/// Free slots that are looked at for one of an agent which has read a job's data set before.
const LOOKED_AT: usize = 16;

/// Places as many ready jobs as there are slots for. The share of a user is worked out only if it has a job
/// which a free slot satisfies.
///
/// Costs steps in the number of different requests, kinds of free slots and users who wait, not of jobs
/// or agents.
fn place(now: Time, view: &ClusterView<'_>, takes_turns: bool) -> Vec<Placement> {
    let free = view.slots().kinds().iter().map(|(kind, pool)| (kind, pool.free()));
    place_on(free, now, view, takes_turns)
}

/// The same with these slots instead of those that are free.
fn place_on<'a>(
    free: impl Iterator<Item = (&'a Kind, &'a BTreeSet<Location>)>,
    now: Time,
    view: &ClusterView<'a>,
    takes_turns: bool,
) -> Vec<Placement> {
    let mut supply: Supply<'a> = free
        .filter(|(_, locations)| !locations.is_empty())
        .map(|(kind, all)| (kind, Free { rest: all.iter().peekable(), all, taken: BTreeSet::new() }))
        .collect();
    let mut placements = Vec::new();
    let open: Vec<(&Request, &Class)> = view
        .queue()
        .ready()
        .iter()
        .filter(|(request, _)| supply.keys().any(|kind| kind.satisfies(request)))
        .collect();
    let levels: BTreeSet<Reverse<i32>> = open.iter().flat_map(|(_, class)| class.keys().copied()).collect();
    let mut turns: BTreeMap<&Arc<str>, Turn> = BTreeMap::new();
    let everybody: Arc<str> = "".into();
    for level in levels {
        if supply.is_empty() {
            break;
        }
        let mut contenders: BTreeMap<&Arc<str>, Contender<'_>> = BTreeMap::new();
        for (request, class) in &open {
            for (user, jobs) in class.get(&level).into_iter().flatten() {
                turns.entry(user).or_insert_with(|| Turn::of(now, view, user));
                let mut rest = jobs.iter();
                if let Some(&first) = rest.next() {
                    let contender =
                        contenders.entry(if takes_turns { user } else { &everybody }).or_default();
                    contender.heads.insert(first, (request, user, rest));
                }
            }
        }
        place_level(&mut supply, view, contenders, &mut turns, &mut placements);
    }
    placements
}

/// The jobs that would be placed if the slots which become free soon were free already.
fn upcoming(now: Time, view: &ClusterView<'_>, takes_turns: bool) -> Vec<Upcoming> {
    let mut soon: BTreeMap<&Kind, (Vec<AgentId>, BTreeSet<Location>)> = BTreeMap::new();
    for (kind, ends) in view.jobs.expected_ends().by_kind() {
        for &(_, attempt) in ends.iter().take(UPCOMING).take_while(|(end, _)| is_soon(now, *end)) {
            let running = view.job(attempt.job).and_then(|job| job.live_attempt());
            let Some((attempt, (_, index))) = running.and_then(|it| Some((it, view.kind_of(it)?))) else {
                continue;
            };
            let (agents, locations) = soon.entry(kind).or_default();
            agents.push(attempt.agent);
            locations.insert(Location {
                agent_name: attempt.agent_name.clone(),
                agent: attempt.agent,
                index,
                slot: attempt.slot.clone(),
            });
        }
    }
    if soon.is_empty() {
        return Vec::new();
    }
    let locations = soon.iter().map(|(kind, (_, locations))| (*kind, locations));
    let placed = place_on(locations, now, view, takes_turns);
    let mut upcoming = Vec::new();
    for (kind, (agents, _)) in &soon {
        let jobs = placed.iter().filter(|placement| placement.kind == **kind).map(|placement| placement.job);
        upcoming.extend(pair(view, jobs, agents.clone()));
    }
    upcoming
}

/// Users take turns until nothing that is left satisfies anybody.
fn place_level<'a>(
    supply: &mut Supply<'a>,
    view: &ClusterView<'_>,
    mut contenders: BTreeMap<&Arc<str>, Contender<'a>>,
    turns: &mut BTreeMap<&'a Arc<str>, Turn>,
    placements: &mut Vec<Placement>,
) {
    let share = |turns: &BTreeMap<&'a Arc<str>, Turn>, name| turns.get(name).map_or(0, |turn| turn.share);
    let mut order: BTreeSet<(u64, &Arc<str>)> =
        contenders.keys().map(|&name| (share(turns, name), name)).collect();
    while let Some((_, name)) = order.pop_first()
        && !supply.is_empty()
    {
        let Some(contender) = contenders.get_mut(name) else { continue };
        while let Some((job, (request, user, mut rest))) = contender.heads.pop_first() {
            let Some(turn) = turns.get_mut(user) else { continue };
            let is_gpu = request.device == DeviceKind::Gpu;
            // When nothing satisfies this job, nothing satisfies the rest of its request either.
            if is_gpu && turn.gpus_left < request.gpus {
                continue;
            }
            let Some((kind, locations)) = take(supply, view, job, request) else { continue };
            placements.push(Placement { job, kind: kind.clone(), locations });
            let stake = turn.stakes[usize::from(!is_gpu)].saturating_mul(u64::from(request.gpus));
            turn.share = turn.share.saturating_add(stake);
            turn.gpus_left = turn.gpus_left.saturating_sub(if is_gpu { request.gpus } else { 0 });
            if let Some(&next) = rest.next() {
                contender.heads.insert(next, (request, user, rest));
            }
            order.insert((share(turns, name), name));
            break;
        }
    }
}

/// The smallest that satisfies, of an agent where the job did not end badly if there is one.
fn take<'a>(
    supply: &mut Supply<'a>,
    view: &ClusterView<'_>,
    job: JobId,
    request: &Request,
) -> Option<(&'a Kind, Vec<Location>)> {
    let excluded = view.queue().excluded(request);
    let likes = |agent| view.has_read(job, agent);
    let best = if excluded.is_empty() && request.avoids.is_empty() {
        smallest(supply, request, likes, |_| true)
    } else {
        let sees = |agent| !excluded.contains(&agent);
        let goes = |agent| sees(agent) && request.avoids.binary_search(&agent).is_err();
        let elsewhere = smallest(supply, request, likes, goes);
        // It has waited before its retry: where it ended badly is better than nowhere.
        let mut again = || smallest(supply, request, likes, sees);
        elsewhere.or_else(|| if request.avoids.is_empty() { None } else { again() })
    };
    let (kind, locations) = best?;
    let free = supply.get_mut(kind)?;
    free.take(&locations);
    if free.next().is_none() {
        supply.remove(kind);
    }
    Some((kind, locations.into_iter().cloned().collect()))
}

/// The smallest that satisfies; kinds of that same size compete by who has read the data set, then by location.
fn smallest<'a>(
    supply: &mut Supply<'a>,
    request: &Request,
    likes: impl Fn(AgentId) -> bool,
    may: impl Fn(AgentId) -> bool,
) -> Option<(&'a Kind, Vec<&'a Location>)> {
    let mut best: Option<(&'a Kind, (bool, Vec<&'a Location>))> = None;
    for (&kind, free) in supply.iter_mut() {
        if best.as_ref().is_some_and(|(smallest, _)| kind.half_gib() > smallest.half_gib()) {
            break;
        }
        if !kind.satisfies(request) {
            continue;
        }
        let Some(found) = free.of_one_agent(request.gpus, &likes, &may) else { continue };
        if best.as_ref().is_none_or(|(_, first)| found < *first) {
            best = Some((kind, found));
        }
    }
    best.map(|(kind, (_, locations))| (kind, locations))
}

impl<'a> Free<'a> {
    /// The first that is left.
    fn next(&mut self) -> Option<&'a Location> {
        while self.rest.next_if(|location| self.taken.remove(*location)).is_some() {}
        self.rest.peek().copied()
    }

    /// The slots of one agent that are enough, and whether that agent is none that is liked: the first one's that
    /// is, else the first one's.
    fn of_one_agent(
        &mut self,
        gpus: u32,
        likes: &impl Fn(AgentId) -> bool,
        may: &impl Fn(AgentId) -> bool,
    ) -> Option<(bool, Vec<&'a Location>)> {
        let first = self.next()?;
        let wanted = usize::try_from(gpus.max(1)).ok()?;
        let is_left = |location: &&'a Location| !self.taken.contains(*location) && may(location.agent);
        let mut left = self.all.range(first..).filter(is_left).peekable();
        let mut best: Option<Vec<&'a Location>> = None;
        let mut looked_at = 0;
        while let Some(start) = left.next() {
            let mut of_agent = vec![start];
            while of_agent.len() < wanted
                && let Some(next) = left.next_if(|next| next.agent == start.agent)
            {
                of_agent.push(next);
            }
            if of_agent.len() == wanted {
                looked_at += 1;
                // With nothing to choose from nobody is asked.
                let is_last = best.is_none() && left.peek().is_none();
                if is_last || looked_at > LOOKED_AT {
                    best.get_or_insert(of_agent);
                    break;
                }
                if likes(start.agent) {
                    return Some((false, of_agent));
                }
                best.get_or_insert(of_agent);
            }
            while left.next_if(|next| next.agent == start.agent).is_some() {}
        }
        best.map(|locations| (true, locations))
    }

    fn take(&mut self, locations: &[&'a Location]) {
        self.taken.extend(locations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UserLimits;
    use crate::policy::fixture::{Cluster, job};

    const NOW: Time = Time(1_000_000);

    /// Two GPUs; ada has submitted three jobs before bob submits one.
    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        cluster.connect(1, &[("large", 24), ("small", 8)]);
        for number in 1..=3 {
            cluster.submit(NOW, number, "ada", 10, 1);
        }
        cluster.submit(NOW, 4, "bob", 10, 1);
        cluster
    }

    #[test]
    fn with_turns_every_user_gets_one_before_anybody_gets_two() {
        let placed = cluster().round(NOW, &mut Fair::with_turns());
        assert_eq!(placed, [(job(1), "small".into()), (job(4), "large".into())]);
    }

    #[test]
    fn without_turns_the_earlier_submission_goes_first() {
        let placed = cluster().round(NOW, &mut Fair::without_turns());
        assert_eq!(placed, [(job(1), "small".into()), (job(2), "large".into())]);
    }

    #[test]
    fn a_user_at_its_limit_holds_up_nobody() {
        let mut cluster = cluster();
        let limits = UserLimits { running_gpus: Some(0), ..UserLimits::default() };
        cluster.config.users.insert("ada".into(), limits);
        let placed = cluster.round(NOW, &mut Fair::without_turns());
        assert_eq!(placed, [(job(4), "small".into())]);
    }

    #[test]
    fn a_job_for_two_gpus_waits_for_two_that_are_alike() {
        let mut cluster = Cluster::default();
        cluster.connect(1, &[("large", 24), ("small", 8)]);
        cluster.submit(NOW, 1, "ada", 10, 2);
        assert_eq!(cluster.round(NOW, &mut Fair::with_turns()), []);
        cluster.connect(2, &[("large", 24), ("large", 24)]);
        assert_eq!(cluster.round(NOW, &mut Fair::with_turns()), [(job(1), "large".into())]);
    }
}
