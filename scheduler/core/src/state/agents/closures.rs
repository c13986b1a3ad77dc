//! Slots that the scheduler closes by itself: a cooldown after a fault, a closure after quick ends.

use std::time::Duration;

use trainyard_types::{AgentId, Slot, Time};

use super::Agents;
use crate::record::Shut;

/// How long a slot is closed after quick ends the first time, and at most.
const FIRST: Duration = Duration::from_secs(600);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What becomes of slots that are opened after quick ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reopening {
    /// They were closed wrongly: nothing is held against them.
    Acquitted,
    /// Their time is over: they are on probation from that time on.
    Due(Time),
    /// A person has cleared them: they are on probation from that time on, as if they were closed for the first time.
    Cleared(Time),
}

impl Agents {
    /// Closes slots until `until`, after a fault on them.
    pub(crate) fn start_cooldown(&mut self, id: AgentId, slots: Vec<Slot>, until: Time) {
        self.change(id, |agent, deadlines| {
            for slot in slots {
                if let Some(before) = agent.cooldowns.insert(slot.clone(), until) {
                    deadlines.cooldowns.remove(before, (id, slot.clone()));
                }
                deadlines.cooldowns.add(until, (id, slot));
            }
        });
    }

    /// Slots whose cooldown has ended are tried again.
    pub(crate) fn end_cooldown(&mut self, id: AgentId, slots: &[Slot]) {
        if slots.is_empty() {
            return;
        }
        self.change(id, |agent, deadlines| {
            for slot in slots {
                if let Some(until) = agent.cooldowns.remove(slot) {
                    deadlines.cooldowns.remove(until, (id, slot.clone()));
                }
            }
        });
    }

    /// Ends the next cooldown that is over; `false` when there is none.
    pub(crate) fn end_due_cooldown(&mut self, now: Time) -> bool {
        let Some((agent, slot)) = self.deadlines.cooldowns.due(now) else { return false };
        self.end_cooldown(agent, &[slot]);
        true
    }

    /// Closes slots after quick ends; twice as long as the last time.
    pub(crate) fn shut(&mut self, now: Time, id: AgentId, slots: Vec<Slot>, why: &str) {
        self.change(id, |agent, deadlines| {
            for slot in slots {
                let times = agent.record.shut.get(&slot).map_or(0, |shut| shut.times);
                let until = now + FIRST.saturating_mul(1 << times.min(16)).min(LONGEST);
                let shut = Shut { until: Some(until), times: times + 1, since: now, why: why.to_owned() };
                if let Some(Shut { until: Some(before), .. }) = agent.record.shut.insert(slot.clone(), shut) {
                    deadlines.shut.remove(before, (id, slot.clone()));
                }
                deadlines.shut.add(until, (id, slot));
            }
        });
    }

    /// Opens slots that were closed after quick ends.
    pub(crate) fn reopen(&mut self, id: AgentId, slots: &[Slot], reopening: Reopening) {
        self.change(id, |agent, deadlines| {
            for slot in slots {
                let Some(mut shut) = agent.record.shut.remove(slot) else { continue };
                if let Some(until) = shut.until.take() {
                    deadlines.shut.remove(until, (id, slot.clone()));
                }
                let (since, times) = match reopening {
                    Reopening::Acquitted => continue,
                    Reopening::Due(since) => (since, shut.times),
                    Reopening::Cleared(since) => (since, 0),
                };
                agent.record.shut.insert(slot.clone(), Shut { since, times, ..shut });
            }
        });
    }

    /// Opens the next slot whose closure is over: the agent whose it is, or `None` when there is none.
    pub(crate) fn reopen_due(&mut self, now: Time) -> Option<AgentId> {
        let (id, slot) = self.deadlines.shut.due(now)?;
        self.reopen(id, &[slot], Reopening::Due(now));
        Some(id)
    }

    /// Slots on probation have proved themselves; `false` when none of these was.
    pub(crate) fn end_probation(&mut self, id: AgentId, slots: &[Slot]) -> bool {
        let Some(agent) = self.by_id.get_mut(&id) else { return false };
        let before = agent.record.shut.len();
        agent.record.shut.retain(|slot, shut| shut.until.is_some() || !slots.contains(slot));
        agent.record.shut.len() != before
    }

    /// How many slots are closed after quick ends.
    pub(crate) fn shut_slots(&self) -> usize {
        self.deadlines.shut.len()
    }
}
