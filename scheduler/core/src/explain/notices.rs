//! What a person should know of an agent's machine.

use std::time::Duration;

use trainyard_types::{AgentId, GpuUuid, Time};

use crate::engine::Core;

/// How long a person is told that somebody was refused.
const TOLD_FOR: Duration = Duration::from_secs(600);

impl Core {
    /// What a person should know of an agent's machine, a sentence each.
    pub fn notices(&self, now: Time, id: AgentId) -> Vec<String> {
        let Some(agent) = self.agents.get(id) else { return Vec::new() };
        let index = |gpu: &GpuUuid| {
            let known = agent.record().inventory.gpus.iter().find(|known| known.uuid == *gpu);
            known.map_or_else(|| gpu.to_string(), |known| format!("{} ({gpu})", known.index))
        };
        let later = agent.duplicates().iter().map(|(gpu, (_, name))| {
            format!(
                "GPU {} is offered by agent `{name}`, too, which came first: stop one of the two agents",
                index(gpu)
            )
        });
        let first = self.agents.with_duplicates().flat_map(|other| {
            let mine = other.duplicates().iter().filter(|(_, (owner, _))| *owner == id);
            mine.map(|(gpu, _)| {
                let name = other.name();
                format!("GPU {} is offered by agent `{name}`, too, which gets no job for it", index(gpu))
            })
        });
        let refused = agent.refused().filter(|refused| now.since(*refused) < TOLD_FOR).map(|_| {
            "another process with this agent's id was refused: two agents must not share a `data_dir`, nor a copy \
             of one"
                .to_owned()
        });
        agent.clock().notice().into_iter().chain(later).chain(first).chain(refused).collect()
    }
}
