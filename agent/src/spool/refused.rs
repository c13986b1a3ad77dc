//! Reports that the disk refused: they wait in memory, in their order, until it takes them. Bounded: positions
//! inside of epochs do not wait, and when there are too many, lines that are only nice to know go.

use std::collections::VecDeque;

use trainyard_types::{AttemptId, ReportBody, Time};

use super::count_gaps;
use super::thin::Weight;

/// How many may wait. They are a few hundred bytes each.
const MOST: usize = 20_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Refused(VecDeque<(AttemptId, Time, ReportBody)>);

impl Refused {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether reports of `attempt` wait.
    pub fn waits(&self, attempt: AttemptId) -> bool {
        self.0.iter().any(|(other, ..)| *other == attempt)
    }

    /// Keeps a report, if it is not one that the next one replaces.
    pub fn push(&mut self, attempt: AttemptId, time: Time, body: ReportBody) {
        match Weight::of(time, &body) {
            Weight::Step(_) => {}
            // An end is never left out: without it the job would hang.
            Weight::Line if self.0.len() >= MOST => count_gaps(1),
            Weight::Line | Weight::Kept => self.0.push_back((attempt, time, body)),
        }
    }

    /// All of them, the oldest first.
    pub fn take(self) -> VecDeque<(AttemptId, Time, ReportBody)> {
        self.0
    }

    /// Nobody wants to know of `attempt` any more.
    pub fn forget(&mut self, attempt: AttemptId) {
        self.0.retain(|(other, ..)| *other != attempt);
    }
}
