//! Which waiting job goes to which free slot: a function without state.
//!
//! Jobs go by priority; of one priority, the user goes first that has had least of late for its weight
//! ([`crate::share`]), and of one user the earlier submission. Each takes the smallest card that satisfies
//! it; among equal cards one of an agent that has read its data set before, then the first by agent name and GPU
//! index. Agents that cannot see its paths are left out, and those where it ended badly come last. A job that
//! nothing free satisfies stays, and holds up only jobs with the very same request.

use std::cmp::Reverse;
use std::collections::btree_set::Iter;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::sync::Arc;

use trainyard_types::{AgentId, DeviceKind, JobId};

use crate::queue::{Class, Queue, Request};
use crate::slots::{Kind, Location, Slots};

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The job.
    pub job: JobId,
    /// The kind of slot.
    pub kind: Kind,
    /// The slots, all of one agent.
    pub locations: Vec<Location>,
}

/// What a user may have, and when it is its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The lowest goes first.
    pub share: u64,
    /// What one attempt on a GPU, and on a CPU slot, adds to the share.
    pub stakes: [u64; 2],
    /// GPUs that it may still take.
    pub gpus_left: u32,
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
struct Line<'a> {
    heads: BTreeMap<JobId, Head<'a>>,
}

/// Free slots that are looked at for one of an agent which has read a job's data set before.
const LOOKED_AT: usize = 16;

/// Who may be given what: the queue knows who cannot see a job's paths, the core who has read its data set.
struct Taste<'a, F> {
    queue: &'a Queue,
    has_read: F,
}

/// Places as many ready jobs as there are slots for. `turn` is asked once for each user that has a job
/// which a free slot satisfies. If it `is_fair`, users take turns; otherwise the earlier submission goes first.
/// `has_read` says whether a job's data set was read by an agent before.
///
/// Costs steps in the number of different requests, kinds of free slots and users who wait, not of jobs
/// or agents.
pub fn place(
    queue: &Queue,
    slots: &Slots,
    is_fair: bool,
    turn: impl Fn(&str) -> Turn,
    has_read: impl Fn(JobId, AgentId) -> bool,
) -> Vec<Placement> {
    let taste = Taste { queue, has_read };
    let mut supply: Supply<'_> = slots
        .kinds()
        .iter()
        .filter(|(_, offer)| !offer.free.is_empty())
        .map(|(kind, offer)| {
            let rest = offer.free.iter().peekable();
            (kind, Free { rest, all: &offer.free, taken: BTreeSet::new() })
        })
        .collect();
    let mut placements = Vec::new();
    let open: Vec<(&Request, &Class)> = queue
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
        let mut lines: BTreeMap<&Arc<str>, Line<'_>> = BTreeMap::new();
        for (request, class) in &open {
            for (user, jobs) in class.get(&level).into_iter().flatten() {
                turns.entry(user).or_insert_with(|| turn(user));
                let mut rest = jobs.iter();
                if let Some(&first) = rest.next() {
                    let line = lines.entry(if is_fair { user } else { &everybody }).or_default();
                    line.heads.insert(first, (request, user, rest));
                }
            }
        }
        place_level(&mut supply, &taste, lines, &mut turns, &mut placements);
    }
    placements
}

/// Users take turns until nothing that is left satisfies anybody.
fn place_level<'a, F: Fn(JobId, AgentId) -> bool>(
    supply: &mut Supply<'a>,
    taste: &Taste<'_, F>,
    mut lines: BTreeMap<&Arc<str>, Line<'a>>,
    turns: &mut BTreeMap<&'a Arc<str>, Turn>,
    placements: &mut Vec<Placement>,
) {
    let share = |turns: &BTreeMap<&'a Arc<str>, Turn>, name| turns.get(name).map_or(0, |turn| turn.share);
    let mut order: BTreeSet<(u64, &Arc<str>)> =
        lines.keys().map(|&name| (share(turns, name), name)).collect();
    while let Some((_, name)) = order.pop_first()
        && !supply.is_empty()
    {
        let Some(line) = lines.get_mut(name) else { continue };
        while let Some((job, (request, user, mut rest))) = line.heads.pop_first() {
            let Some(turn) = turns.get_mut(user) else { continue };
            let is_gpu = request.device == DeviceKind::Gpu;
            // When nothing satisfies this job, nothing satisfies the rest of its request either.
            if is_gpu && turn.gpus_left < request.gpus {
                continue;
            }
            let Some((kind, locations)) = take(supply, taste, job, request) else { continue };
            placements.push(Placement { job, kind: kind.clone(), locations });
            let stake = turn.stakes[usize::from(!is_gpu)].saturating_mul(u64::from(request.gpus));
            turn.share = turn.share.saturating_add(stake);
            turn.gpus_left = turn.gpus_left.saturating_sub(if is_gpu { request.gpus } else { 0 });
            if let Some(&next) = rest.next() {
                line.heads.insert(next, (request, user, rest));
            }
            order.insert((share(turns, name), name));
            break;
        }
    }
}

/// The smallest that satisfies, of an agent where the job did not end badly if there is one.
fn take<'a, F: Fn(JobId, AgentId) -> bool>(
    supply: &mut Supply<'a>,
    taste: &Taste<'_, F>,
    job: JobId,
    request: &Request,
) -> Option<(&'a Kind, Vec<Location>)> {
    let lacking = taste.queue.lacking(request);
    let likes = |agent| (taste.has_read)(job, agent);
    let best = if lacking.is_empty() && request.avoids.is_empty() {
        smallest(supply, request, likes, |_| true)
    } else {
        let sees = |agent| !lacking.contains(&agent);
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
        let Some(found) = free.together(request.gpus, &likes, &may) else { continue };
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
    fn together(
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
