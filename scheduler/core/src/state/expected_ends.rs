//! When running attempts are expected to end, by the kind of their slot.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_types::{AttemptId, Time};

use crate::state::queue::Request;
use crate::state::slots::Kind;

/// Ends that are looked at one by one; behind them, averages do.
const NEAR: usize = 64;

/// When running attempts are expected to end, by the kind of their slot.
#[derive(Debug, Default)]
pub(crate) struct ExpectedEnds {
    by_kind: BTreeMap<Kind, BTreeSet<(Time, AttemptId)>>,
    of: BTreeMap<AttemptId, (Kind, Option<Time>)>,
}

impl ExpectedEnds {
    /// An attempt begins; nothing is known of its end yet.
    pub(crate) fn begin(&mut self, id: AttemptId, kind: Kind) {
        self.of.insert(id, (kind, None));
    }

    /// An attempt told how long it will take.
    pub(crate) fn expect(&mut self, id: AttemptId, end: Option<Time>) {
        let Some((kind, known)) = self.of.get_mut(&id) else { return };
        if *known == end {
            return;
        }
        let ends = match self.by_kind.get_mut(kind) {
            Some(ends) => ends,
            None => self.by_kind.entry(kind.clone()).or_default(),
        };
        if let Some(before) = known {
            ends.remove(&(*before, id));
        }
        ends.extend(end.map(|end| (end, id)));
        *known = end;
    }

    /// An attempt holds its slots no more.
    pub(crate) fn end(&mut self, id: AttemptId) {
        self.expect(id, None);
        self.of.remove(&id);
    }

    /// When an attempt is expected to end, as far as it told.
    pub(crate) fn of(&self, id: AttemptId) -> Option<Time> {
        self.of.get(&id)?.1
    }

    /// The expected ends on slots of each kind, the earliest first.
    pub(crate) fn by_kind(&self) -> impl Iterator<Item = (&Kind, &BTreeSet<(Time, AttemptId)>)> {
        self.by_kind.iter()
    }

    /// The earliest expected ends on slots that would do, at most [`NEAR`].
    pub(crate) fn near(&self, request: &Request) -> Vec<Time> {
        let kinds = self.by_kind.iter().filter(|(kind, _)| kind.satisfies(request));
        let mut near: Vec<Time> =
            kinds.flat_map(|(_, ends)| ends.iter().take(NEAR)).map(|&(end, _)| end).collect();
        near.sort();
        near.truncate(NEAR);
        near
    }
}
