//! What has to happen when its time comes.

use std::collections::BTreeSet;

use trainyard_types::{AgentId, GpuUuid, JobId, Slot, Time};

/// Things of one kind that are due at a time, the earliest first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Due<T>(BTreeSet<(Time, T)>);

impl<T> Default for Due<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: Ord + Clone> Due<T> {
    /// Something becomes due at `time`.
    pub(crate) fn add(&mut self, time: Time, what: T) {
        self.0.insert((time, what));
    }

    /// Takes out a deadline.
    pub(crate) fn remove(&mut self, time: Time, what: T) {
        self.0.remove(&(time, what));
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Time> {
        self.0.first().map(|(time, _)| *time)
    }

    /// The next one that is due by `now`; it stays.
    pub(crate) fn due(&self, now: Time) -> Option<T> {
        self.0.first().filter(|(time, _)| *time <= now).map(|(_, what)| what.clone())
    }

    /// Takes the earliest one out, due or not.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.0.pop_first().map(|(_, what)| what)
    }

    /// How many deadlines there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// All deadlines, each an index over what agents and jobs say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Deadlines {
    /// When the leases of agents end; lost agents have none.
    pub(crate) leases: Due<AgentId>,
    /// Since when lost agents are lost.
    pub(crate) lost: Due<AgentId>,
    /// When the cooldowns of slots end.
    pub(crate) cooldowns: Due<(AgentId, Slot)>,
    /// When slots on which jobs ended too soon are opened again.
    pub(crate) shut: Due<(AgentId, Slot)>,
    /// When reservations of GPUs end.
    pub(crate) reservations: Due<(AgentId, GpuUuid)>,
    /// When running jobs have used up their time.
    pub(crate) time_limits: Due<JobId>,
}

impl Deadlines {
    /// When the next agent, slot, GPU or job is due. Lost agents are remembered for a while: theirs is not counted.
    pub(crate) fn next(&self) -> Option<Time> {
        [
            self.leases.next(),
            self.cooldowns.next(),
            self.shut.next(),
            self.reservations.next(),
            self.time_limits.next(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
