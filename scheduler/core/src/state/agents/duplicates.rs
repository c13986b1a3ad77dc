//! GPUs that several agents offer: the one that came first has them, until it is lost or offers them no more.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_types::{AgentId, GpuUuid, Time};

use super::Agents;
use super::agent::Agent;

impl Agents {
    /// Whether another process that lives is connected with this id; it was heard within `alive`. Agents that are
    /// too old to say who they are replace each other. Returns that agent.
    pub(crate) fn refuse_second_process(
        &mut self,
        now: Time,
        id: AgentId,
        instance: &str,
        alive: Duration,
    ) -> Option<&Agent> {
        let agent = self.by_id.get_mut(&id)?;
        let is_other = !instance.is_empty() && !agent.instance.is_empty() && agent.instance != instance;
        if !is_other || agent.session.is_none() || now.since(agent.last_seen) >= alive {
            return None;
        }
        agent.refused = Some(now);
        Some(agent)
    }

    /// Agents with GPUs that another one offered first.
    pub(crate) fn with_duplicates(&self) -> impl Iterator<Item = &Agent> {
        self.with_duplicates.iter().filter_map(|id| self.by_id.get(id))
    }

    /// An agent offers its GPUs, and no others any more.
    pub(super) fn claim_gpus(&mut self, id: AgentId) {
        let Some(agent) = self.by_id.get(&id) else { return };
        let mine: Vec<GpuUuid> = agent.record.inventory.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        let mut duplicates = BTreeMap::new();
        for gpu in mine {
            let owner = self.gpu_owners.get(&gpu).filter(|owner| **owner != id);
            let owner = owner.and_then(|owner| self.by_id.get(owner)).filter(|owner| owner.owns(&gpu));
            match owner {
                Some(owner) => {
                    duplicates.insert(gpu, (owner.record.id, owner.record.name.clone()));
                }
                None => drop(self.gpu_owners.insert(gpu, id)),
            }
        }
        if duplicates.is_empty() {
            self.with_duplicates.remove(&id);
        } else {
            self.with_duplicates.insert(id);
        }
        if let Some(agent) = self.by_id.get_mut(&id) {
            agent.duplicates = duplicates;
        }
    }

    /// An agent is lost: its GPUs are those of whoever else offers them.
    pub(super) fn give_gpus_up(&mut self, id: AgentId) {
        self.gpu_owners.retain(|_, owner| *owner != id);
        self.inherit_gpus(id);
    }

    /// What an agent does not offer any more is that of whoever else offers it.
    pub(super) fn inherit_gpus(&mut self, id: AgentId) {
        let heirs: Vec<AgentId> = self.with_duplicates.iter().copied().filter(|heir| *heir != id).collect();
        for heir in heirs {
            self.claim_gpus(heir);
            self.offer(heir);
        }
    }
}
