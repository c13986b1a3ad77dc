//! A queue of events in order of time. No threads.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_types::Time;

/// Events to come; those of one time come in the order in which they were planned.
#[derive(Debug)]
pub struct EventQueue<E> {
    now: Time,
    sequence: u64,
    planned: BTreeMap<(Time, u64), E>,
}

impl<E> EventQueue<E> {
    /// Nothing is planned yet.
    pub fn new(now: Time) -> Self {
        Self { now, sequence: 0, planned: BTreeMap::new() }
    }

    pub fn now(&self) -> Time {
        self.now
    }

    /// Plans something; what lies in the past happens next.
    pub fn at(&mut self, time: Time, event: E) {
        self.sequence += 1;
        self.planned.insert((time.max(self.now), self.sequence), event);
    }

    /// Plans something for later.
    pub fn after(&mut self, span: Duration, event: E) {
        self.at(self.now + span, event);
    }

    /// Moves the time to the next event.
    pub fn advance(&mut self) -> Option<E> {
        let ((time, _), event) = self.planned.pop_first()?;
        self.now = time;
        Some(event)
    }
}
