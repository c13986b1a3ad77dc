//! One machine that is two: cards that several agents offer. And two that are one: agents with one id.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_types::{AgentId, GpuUuid, Time};

use crate::agent::{Agent, AgentState};
use crate::changes::Changes;
use crate::core::Core;
use crate::output::Refusal;

/// A process that is connected counts as living when it was heard within so many heartbeats.
const HEARTBEATS: u32 = 2;
/// How long a person is told that somebody was refused.
const TOLD_FOR: Duration = Duration::from_secs(600);

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

    /// An agent offers its cards, and none of others any more. The slots are not on offer meanwhile.
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

    /// An agent is lost: its cards are those of whoever else offers them.
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

    /// What a person should know of an agent's machine, a sentence each.
    pub fn notices(&self, now: Time, id: AgentId) -> Vec<String> {
        let Some(agent) = self.agents.get(&id) else { return Vec::new() };
        let index = |gpu: &GpuUuid| {
            let known = agent.record.inventory.gpus.iter().find(|known| known.uuid == *gpu);
            known.map_or_else(|| gpu.to_string(), |known| format!("{} ({gpu})", known.index))
        };
        let later = agent.doubled.iter().map(|(gpu, (_, name))| {
            format!(
                "GPU {} is offered by agent `{name}`, too, which came first: stop one of the two agents",
                index(gpu)
            )
        });
        let others = self.doubled.iter().filter_map(|other| self.agents.get(other));
        let first = others.flat_map(|other| {
            let mine = other.doubled.iter().filter(|(_, (owner, _))| *owner == id);
            mine.map(|(gpu, _)| {
                let name = &other.record.name;
                format!("GPU {} is offered by agent `{name}`, too, which gets no job for it", index(gpu))
            })
        });
        let refused = agent.refused.filter(|refused| now.since(*refused) < TOLD_FOR).map(|_| {
            "another process with this agent's id was refused: two agents must not share a `data_dir`, nor a copy \
             of one"
                .to_owned()
        });
        agent.clock.notice().into_iter().chain(later).chain(first).chain(refused).collect()
    }
}

impl Agent {
    /// Whether it still offers a card, connected or not.
    fn owns(&self, gpu: &GpuUuid) -> bool {
        self.state() != AgentState::Lost && self.record.inventory.gpus.iter().any(|known| known.uuid == *gpu)
    }
}
