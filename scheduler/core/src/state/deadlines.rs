//! What has to happen when its time comes.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_types::{AgentId, GpuUuid, Slot, Time};

use crate::record::AgentRecord;

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

/// The deadlines of agents, each an index over what they say. [`super::agents::Agents`] lends it for reading only.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AgentDeadlines {
    /// When the leases of agents end; lost agents have none.
    pub(super) leases: Due<AgentId>,
    /// Since when lost agents are lost.
    pub(super) lost: Due<AgentId>,
    /// When the cooldowns of slots end.
    pub(super) cooldowns: Due<(AgentId, Slot)>,
    /// When slots on which jobs ended too soon are opened again.
    pub(super) shut: Due<(AgentId, Slot)>,
    /// When reservations of GPUs end.
    pub(super) reservations: Due<(AgentId, GpuUuid)>,
}

impl AgentDeadlines {
    /// When the next agent, slot or GPU is due. Lost agents are remembered for a while: theirs is not counted.
    pub(crate) fn next(&self) -> Option<Time> {
        let next = [self.leases.next(), self.cooldowns.next(), self.shut.next(), self.reservations.next()];
        next.into_iter().flatten().min()
    }

    /// Takes out those of an agent's orders and slots.
    pub(super) fn forget(&mut self, id: AgentId, record: &AgentRecord, cooldowns: &BTreeMap<Slot, Time>) {
        for (gpu, &until) in &record.reserved {
            self.reservations.remove(until, (id, gpu.clone()));
        }
        for (slot, &until) in cooldowns {
            self.cooldowns.remove(until, (id, slot.clone()));
        }
        for (slot, shut) in &record.shut {
            if let Some(until) = shut.until {
                self.shut.remove(until, (id, slot.clone()));
            }
        }
    }
}
