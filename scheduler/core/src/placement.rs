//! Which waiting job goes to which free slot: a function without state.
//!
//! Jobs go by priority; of one priority, the user goes first that has had least of late for its weight
//! ([`crate::share`]), and of one user the earlier submission. Each takes the smallest card that satisfies
//! it; among equal cards the first by agent name and GPU index. A job that nothing free satisfies stays,
//! and holds up only jobs with the very same request.

use std::cmp::Reverse;
use std::collections::btree_set::Iter;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::sync::Arc;

use trainyard_types::{DeviceKind, JobId};

use crate::queue::{Class, Queue, Request};
use crate::slots::{Kind, Location, Slots};

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The job.
    pub job: JobId,
    /// The kind of slot.
    pub kind: Kind,
    /// The slot.
    pub location: Location,
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

type Supply<'a> = BTreeMap<&'a Kind, Peekable<Iter<'a, Location>>>;

/// One user's jobs of one priority: the first of each request; the rest follow as it is placed.
#[derive(Default)]
struct Line<'a> {
    heads: BTreeMap<JobId, (&'a Request, Iter<'a, JobId>)>,
}

/// Places as many ready jobs as there are slots for. `turn` is asked once for each user that has a job
/// which a free slot satisfies.
///
/// Costs steps in the number of different requests, kinds of free slots and users who wait, not of jobs
/// or agents.
pub fn place(queue: &Queue, slots: &Slots, turn: impl Fn(&str) -> Turn) -> Vec<Placement> {
    let mut supply: Supply<'_> = slots
        .kinds()
        .iter()
        .filter(|(_, offer)| !offer.free.is_empty())
        .map(|(kind, offer)| (kind, offer.free.iter().peekable()))
        .collect();
    let mut placements = Vec::new();
    let open: Vec<(&Request, &Class)> = queue
        .ready()
        .iter()
        .filter(|(request, _)| supply.keys().any(|kind| kind.satisfies(request)))
        .collect();
    let levels: BTreeSet<Reverse<i32>> = open.iter().flat_map(|(_, class)| class.keys().copied()).collect();
    let mut turns: BTreeMap<&Arc<str>, Turn> = BTreeMap::new();
    for level in levels {
        if supply.is_empty() {
            break;
        }
        let mut lines: BTreeMap<&Arc<str>, Line<'_>> = BTreeMap::new();
        for (request, class) in &open {
            for (user, jobs) in class.get(&level).into_iter().flatten() {
                let mut rest = jobs.iter();
                if let Some(&first) = rest.next() {
                    lines.entry(user).or_default().heads.insert(first, (request, rest));
                }
            }
        }
        for &user in lines.keys() {
            turns.entry(user).or_insert_with(|| turn(user));
        }
        place_level(&mut supply, lines, &mut turns, &mut placements);
    }
    placements
}

/// Users take turns until nothing that is left satisfies anybody.
fn place_level<'a>(
    supply: &mut Supply<'a>,
    mut lines: BTreeMap<&'a Arc<str>, Line<'a>>,
    turns: &mut BTreeMap<&'a Arc<str>, Turn>,
    placements: &mut Vec<Placement>,
) {
    let mut order: BTreeSet<(u64, &Arc<str>)> =
        lines.keys().filter_map(|&user| Some((turns.get(user)?.share, user))).collect();
    while let Some((_, user)) = order.pop_first()
        && !supply.is_empty()
    {
        let (Some(line), Some(turn)) = (lines.get_mut(user), turns.get_mut(user)) else { continue };
        while let Some((job, (request, mut rest))) = line.heads.pop_first() {
            let is_gpu = request.device == DeviceKind::Gpu;
            // When nothing satisfies this job, nothing satisfies the rest of its line either.
            if is_gpu && turn.gpus_left == 0 {
                continue;
            }
            let Some((kind, location)) = take(supply, request) else { continue };
            placements.push(Placement { job, kind: kind.clone(), location: location.clone() });
            turn.share = turn.share.saturating_add(turn.stakes[usize::from(!is_gpu)]);
            turn.gpus_left = turn.gpus_left.saturating_sub(u32::from(is_gpu));
            if let Some(&next) = rest.next() {
                line.heads.insert(next, (request, rest));
            }
            order.insert((turn.share, user));
            break;
        }
    }
}

/// The smallest that satisfies; kinds of that same size compete by location.
fn take<'a>(supply: &mut Supply<'a>, request: &Request) -> Option<(&'a Kind, &'a Location)> {
    let mut best: Option<(&'a Kind, &'a Location)> = None;
    for (&kind, free) in supply.iter_mut() {
        if best.is_some_and(|(smallest, _)| kind.half_gib() > smallest.half_gib()) {
            break;
        }
        let Some(&location) = free.peek() else { continue };
        if kind.satisfies(request) && best.is_none_or(|(_, first)| location < first) {
            best = Some((kind, location));
        }
    }
    let (kind, _) = best?;
    let free = supply.get_mut(kind)?;
    free.next();
    if free.peek().is_none() {
        supply.remove(kind);
    }
    best
}
