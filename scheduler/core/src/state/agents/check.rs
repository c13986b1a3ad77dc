//! Whether the indexes are what the agents say, for [`crate::invariants`].

use std::collections::{BTreeMap, BTreeSet};

use trainyard_types::AgentId;

use super::Agents;
use crate::state::deadlines::AgentDeadlines;
use crate::state::slots::Slots;

/// An index that does not match the agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgentFault {
    Slots,
    Deadlines,
    Names,
}

impl Agents {
    /// Checks the indexes, in steps in the number of slots.
    pub(crate) fn check(&self) -> Result<(), AgentFault> {
        let (mut slots, mut deadlines) = (Slots::default(), AgentDeadlines::default());
        let mut names: BTreeMap<String, BTreeSet<AgentId>> = BTreeMap::new();
        for (&id, agent) in &self.by_id {
            if !agent.record.name.is_empty() {
                names.entry(agent.record.name.clone()).or_default().insert(id);
            }
            slots.set_agent(&agent.record, agent.open_slots(), |slot| !agent.running.contains_key(slot));
            match (agent.lease_until, agent.record.lost) {
                (Some(until), _) => deadlines.leases.add(until, id),
                (None, Some(since)) => deadlines.lost.add(since, id),
                (None, None) => {}
            }
            for (gpu, &until) in &agent.record.reserved {
                deadlines.reservations.add(until, (id, gpu.clone()));
            }
            for (slot, shut) in &agent.record.shut {
                if let Some(until) = shut.until {
                    deadlines.shut.add(until, (id, slot.clone()));
                }
            }
            for (slot, &until) in &agent.cooldowns {
                deadlines.cooldowns.add(until, (id, slot.clone()));
            }
        }
        if names != self.by_name {
            return Err(AgentFault::Names);
        }
        if slots != self.slots {
            return Err(AgentFault::Slots);
        }
        if deadlines == self.deadlines { Ok(()) } else { Err(AgentFault::Deadlines) }
    }
}
