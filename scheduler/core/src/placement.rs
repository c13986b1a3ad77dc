//! Which waiting job goes to which free slot: a function without state.
//!
//! Jobs go by priority, then by submission. Each takes the smallest card that satisfies it; among equal
//! cards the first by agent name and GPU index. A job that nothing free satisfies stays, and holds up
//! only jobs with the very same request.

use std::collections::BTreeMap;
use std::collections::btree_set::Iter;
use std::iter::Peekable;

use trainyard_types::JobId;

use crate::queue::{Place, Queue, Request};
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

type Supply<'a> = BTreeMap<&'a Kind, Peekable<Iter<'a, Location>>>;

/// Places as many ready jobs as there are slots for, in the order of the queue.
///
/// Costs steps in the number of different requests and kinds of free slots, not of jobs or agents.
pub fn place(queue: &Queue, slots: &Slots) -> Vec<Placement> {
    let mut supply: Supply<'_> = slots
        .kinds()
        .iter()
        .filter(|(_, offer)| !offer.free.is_empty())
        .map(|(kind, offer)| (kind, offer.free.iter().peekable()))
        .collect();
    let mut placements = Vec::new();
    if supply.is_empty() {
        return placements;
    }
    // The first job of each request; the rest of its jobs follow as it is placed.
    let mut heads: BTreeMap<Place, (&Request, Iter<'_, Place>)> = BTreeMap::new();
    for (request, class) in queue.ready() {
        let mut rest = class.iter();
        if let Some(&first) = rest.next() {
            heads.insert(first, (request, rest));
        }
    }
    while let Some(((_, job), (request, mut rest))) = heads.pop_first() {
        // When nothing satisfies this job, nothing satisfies the rest of its class either.
        let Some((kind, location)) = take(&mut supply, request) else { continue };
        placements.push(Placement { job, kind: kind.clone(), location: location.clone() });
        if supply.is_empty() {
            break;
        }
        if let Some(&next) = rest.next() {
            heads.insert(next, (request, rest));
        }
    }
    placements
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
