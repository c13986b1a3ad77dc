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
        let others = self.agents.named(agent.name()).count().saturating_sub(1);
        let named = (others > 0).then(|| {
            let who = if others == 1 { "another machine has".to_owned() } else { format!("{others} other machines have") };
            format!(
                "{who} this name, too: set `name` on one of them, or `yard agents forget ID` one that is gone; orders \
                 need the ID until then"
            )
        });
        // By its own word, which is over with its session.
        let own = agent.fitness().notices.iter().filter(|_| agent.session().is_some()).cloned();
        agent
            .clock()
            .notice()
            .into_iter()
            .chain(own)
            .chain(named)
            .chain(later)
            .chain(first)
            .chain(refused)
            .collect()
    }
}
