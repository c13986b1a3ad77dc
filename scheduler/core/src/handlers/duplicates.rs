//! One machine that is two: GPUs that several agents offer. And two that are one: agents with one id.

use std::collections::BTreeMap;

use trainyard_types::{AgentId, GpuUuid, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::output::Refusal;
use crate::state::agent::{Agent, AgentState};

/// A process that is connected counts as living when it was heard within so many heartbeats.
const HEARTBEATS: u32 = 2;

impl Core {
    /// Whether another process that lives is connected with this id. Agents that are too old to say who they are
    /// replace each other.
    pub(crate) fn is_taken(&mut self, now: Time, id: AgentId, instance: &str) -> Option<Refusal> {
        let alive = self.config.heartbeat.saturating_mul(HEARTBEATS);
        let agent = self.agents.get_mut(&id)?;
        let is_other = !instance.is_empty() && !agent.instance.is_empty() && agent.instance != instance;
        if !is_other || agent.session.is_none() || now.since(agent.last_seen()) >= alive {
            return None;
        }
        agent.refused = Some(now);
        Some(Refusal::AgentIdInUse { id, name: agent.record.name.clone() })
    }

    /// An agent offers its GPUs, and none of others any more. The slots are not on offer meanwhile.
    pub(crate) fn claim_gpus(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(&id) else { return };
        let mine: Vec<GpuUuid> = agent.record.inventory.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        let mut doubled = BTreeMap::new();
        for gpu in mine {
            let owner =
                self.owners.get(&gpu).filter(|owner| **owner != id).and_then(|owner| self.agents.get(owner));
            match owner.filter(|owner| owner.owns(&gpu)) {
                Some(owner) => {
                    doubled.insert(gpu, (owner.record.id, owner.record.name.clone()));
                }
                None => drop(self.owners.insert(gpu, id)),
            }
        }
        if doubled.is_empty() {
            self.doubled.remove(&id);
        } else {
            self.doubled.insert(id);
        }
        if let Some(agent) = self.agents.get_mut(&id) {
            agent.doubled = doubled;
        }
    }

    /// An agent is lost: its GPUs are those of whoever else offers them.
    pub(crate) fn give_gpus_up(&mut self, id: AgentId, out: &mut Changes) -> Option<&Agent> {
        self.owners.retain(|_, owner| *owner != id);
        self.inherit(id, out);
        self.agents.get(&id)
    }

    /// What an agent does not offer any more is that of whoever else offers it.
    pub(crate) fn inherit(&mut self, id: AgentId, out: &mut Changes) {
        let heirs: Vec<AgentId> = self.doubled.iter().copied().filter(|heir| *heir != id).collect();
        for heir in heirs {
            self.withdraw_slots(heir);
            self.claim_gpus(heir);
            self.offer_slots(heir, out);
        }
    }
}

impl Agent {
    /// Whether it still offers a GPU, connected or not.
    fn owns(&self, gpu: &GpuUuid) -> bool {
        self.state() != AgentState::Lost && self.record.inventory.gpus.iter().any(|known| known.uuid == *gpu)
    }
}
