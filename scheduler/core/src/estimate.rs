//! When a waiting job will start, as far as that can be told.
//!
//! Known are the expected ends of running attempts and how long attempts of late took. Of other things,
//! such as jobs that are yet to come, nothing is known; and where nothing is known nothing is said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trainyard_types::{AttemptId, JobId, Time};

use crate::core::Core;
use crate::queue::Request;
use crate::slots::Kind;

/// Ends that are looked at one by one; behind them, averages do.
const NEAR: usize = 64;

/// When running attempts are expected to end, by the kind of their slot.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    by_kind: BTreeMap<Kind, BTreeSet<(Time, AttemptId)>>,
    of: BTreeMap<AttemptId, (Kind, Option<Time>)>,
}

impl Ends {
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

    pub(crate) fn end(&mut self, id: AttemptId) {
        self.expect(id, None);
        self.of.remove(&id);
    }

    /// The earliest expected ends on slots that would do, at most [`NEAR`].
    fn near(&self, request: &Request) -> Vec<Time> {
        let kinds = self.by_kind.iter().filter(|(kind, _)| kind.satisfies(request));
        let mut near: Vec<Time> =
            kinds.flat_map(|(_, ends)| ends.iter().take(NEAR)).map(|&(end, _)| end).collect();
        near.sort();
        near.truncate(NEAR);
        near
    }
}

impl Core {
    /// When a job that runs is expected to end.
    pub fn estimated_end(&self, job: JobId) -> Option<Time> {
        let attempt = self.jobs.get(&job)?.live_attempt()?.id;
        self.policy.expected_end(job).or_else(|| self.ends.of.get(&attempt)?.1)
    }

    /// When a job with this request starts behind `ahead` others, on `slots` slots that would do; `None`
    /// when nothing is known.
    pub(crate) fn estimate_start(
        &self,
        now: Time,
        request: &Request,
        ahead: usize,
        slots: usize,
    ) -> Option<Time> {
        if slots == 0 {
            return None;
        }
        let near = self.ends.near(request);
        if let Some(&end) = near.get(ahead) {
            return Some(end.max(now));
        }
        // Beyond what is known one by one, slots become free at the pace of the usual length of a run.
        let usual = self.usual_run()?;
        let rounds = u32::try_from(ahead / slots).ok()?.saturating_add(1);
        Some(match near.get(ahead % slots) {
            Some(&end) => end.max(now) + usual.saturating_mul(rounds - 1),
            None => now + usual.saturating_mul(rounds),
        })
    }

    /// The mean over users of how long their attempts run.
    fn usual_run(&self) -> Option<Duration> {
        let runs = self.users.iter().filter_map(|user| user.record.typical_run);
        let (sum, count) =
            runs.fold((0_u64, 0_u64), |(sum, count), run| (sum.saturating_add(run), count + 1));
        Some(Duration::from_millis(sum.checked_div(count)?))
    }
}
