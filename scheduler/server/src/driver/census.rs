//! Counts of jobs, agents and GPUs by state, for metrics.

use std::collections::BTreeMap;

use trainyard_scheduler_core::{AgentState, AgentView, Counters};
use trainyard_types::{JobState, Slot};

use super::metrics::{DriverMetrics, HeartbeatAges};
use super::state_view::StateView;

/// Counts of what there is, and of what has happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Census {
    /// Jobs by state.
    pub jobs: BTreeMap<JobState, usize>,
    /// Agents: connected, disconnected, lost.
    pub agents: [usize; 3],
    /// GPUs: free, busy, taking no job, away with their agents.
    pub gpus: [usize; 4],
    /// Jobs whose trainer has ended and whose results are handed in, and those of them that wait for something.
    pub handing_in: (usize, usize),
    /// Slots that are closed because jobs ended there too soon.
    pub shut_slots: usize,
    /// What the core has counted since this scheduler leads.
    pub counters: Counters,
    /// What the driver has counted since this scheduler leads.
    pub metrics: DriverMetrics,
    /// How long ago agents were last heard of.
    pub heartbeat_ages: HeartbeatAges,
}

impl StateView<'_> {
    /// Counts jobs, agents and GPUs.
    pub fn census(&self) -> Census {
        let jobs = JobState::ALL.map(|state| (state, self.core.count(state))).into();
        let mut agents = [0; 3];
        for agent in self.core.agents() {
            agents[agent.state as usize] += 1;
        }
        let age = |agent: AgentView<'_>| {
            let name = (agent.record.name.clone(), agent.record.id.to_string());
            (name, self.now.since(agent.last_seen))
        };
        Census {
            jobs,
            agents,
            gpus: self.gpus(),
            handing_in: self.core.handing_in(),
            shut_slots: self.core.shut_slots(),
            counters: self.core.counters().clone(),
            metrics: self.metrics.clone(),
            heartbeat_ages: self.core.agents().map(age).collect(),
        }
    }

    fn gpus(&self) -> [usize; 4] {
        let mut gpus = [0; 4];
        for agent in self.core.agents() {
            for gpu in &agent.record.inventory.gpus {
                let slot = Slot::Gpu(gpu.uuid.clone());
                let state = match (agent.state, agent.closed(&slot)) {
                    (AgentState::Disconnected | AgentState::Lost, _) => 3,
                    (AgentState::Connected, _) if agent.running.contains_key(&slot) => 1,
                    (AgentState::Connected, Some(_)) => 2,
                    (AgentState::Connected, None) => 0,
                };
                gpus[state] += 1;
            }
        }
        gpus
    }
}
