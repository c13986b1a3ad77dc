//! What people order of agents: drains, and reservations of GPUs.

use trainyard_types::{AgentId, GpuUuid, Time};

use super::Agents;
use crate::record::Drain;

impl Agents {
    /// Takes an agent out of use, or into use again.
    pub(crate) fn set_drain(&mut self, id: AgentId, drain: Option<Drain>) {
        self.change(id, |agent, _| agent.record.drain = drain);
    }

    /// Reserves GPUs for their owner. A reservation that one of them has already is replaced.
    pub(crate) fn reserve(&mut self, id: AgentId, gpus: Vec<GpuUuid>, until: Time) {
        self.change(id, |agent, deadlines| {
            for gpu in gpus {
                if let Some(before) = agent.record.reserved.insert(gpu.clone(), until) {
                    deadlines.reservations.remove(before, (id, gpu.clone()));
                }
                deadlines.reservations.add(until, (id, gpu));
            }
        });
    }

    /// Takes reserved GPUs into use again.
    pub(crate) fn end_reservations(&mut self, id: AgentId, gpus: &[GpuUuid]) {
        self.change(id, |agent, deadlines| {
            for gpu in gpus {
                if let Some(until) = agent.record.reserved.remove(gpu) {
                    deadlines.reservations.remove(until, (id, gpu.clone()));
                }
            }
        });
    }

    /// Ends the next reservation whose time is over: the agent whose it was, or `None` when there is none.
    pub(crate) fn end_due_reservation(&mut self, now: Time) -> Option<AgentId> {
        let (agent, gpu) = self.deadlines.reservations.due(now)?;
        self.end_reservations(agent, &[gpu]);
        Some(agent)
    }
}
