//! What will happen, in order of time. No threads.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_types::Time;

/// Happenings to come; those of one time come in the order in which they were planned.
#[derive(Debug)]
pub struct Agenda<H> {
    now: Time,
    sequence: u64,
    planned: BTreeMap<(Time, u64), H>,
}

impl<H> Agenda<H> {
    /// Nothing is planned yet.
    pub fn new(now: Time) -> Self {
        Self { now, sequence: 0, planned: BTreeMap::new() }
    }

    pub fn now(&self) -> Time {
        self.now
    }

    /// Plans something; what lies in the past happens next.
    pub fn at(&mut self, time: Time, happening: H) {
        self.sequence += 1;
        self.planned.insert((time.max(self.now), self.sequence), happening);
    }

    /// Plans something for later.
    pub fn after(&mut self, span: Duration, happening: H) {
        self.at(self.now + span, happening);
    }

    /// Moves the time to the next happening.
    pub fn advance(&mut self) -> Option<H> {
        let ((time, _), happening) = self.planned.pop_first()?;
        self.now = time;
        Some(happening)
    }
}
