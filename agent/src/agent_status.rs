//! What an agent tells of itself beside its GPUs: all of it in Hello, and what has changed in heartbeats.

use trainyard_proto::convert::agent;
use trainyard_proto::pb;
use trainyard_types::{FitRecord, Fitness, Time};

/// What the scheduler is told of this agent beside its GPUs. Several tasks each write their part.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AgentStatus {
    /// The memory that training was seen to need on its devices.
    pub fit_records: Vec<FitRecord>,
    /// Why its disk takes no job, a sentence; empty when it does.
    pub disk_short: String,
    /// Why it has no GPUs although there should be some, and nothing else to offer; empty when it has.
    pub no_gpus: String,
    /// Why there is no trainer, a sentence; empty when there is one.
    pub no_trainer: String,
    /// Data sets whose images it has decoded, with the image size.
    pub cached_data: Vec<(String, u32)>,
    /// What the machine has of what jobs need.
    pub fitness: Fitness,
}

impl AgentStatus {
    /// Why the agent takes no job at all, for a person; empty when it does.
    pub fn unavailable(&self) -> String {
        let reasons = [&self.disk_short, &self.no_gpus, &self.no_trainer].map(String::as_str);
        reasons.into_iter().filter(|reason| !reason.is_empty()).collect::<Vec<_>>().join("; ")
    }

    /// Whether the scheduler must hear of this at once, if `told` is what it was told last.
    pub fn is_urgent(&self, told: &Self) -> bool {
        self.unavailable() != told.unavailable() || self.fitness != told.fitness
    }

    /// What the machine has, with the time that its clock shows.
    pub fn fitness_now(&self) -> Fitness {
        Fitness { clock: Some(Time::now()), ..self.fitness.clone() }
    }

    /// A heartbeat. Of the fit records it has only those that are not in `told`.
    pub fn heartbeat(&self, gpus: Vec<pb::Gpu>, told: &[FitRecord]) -> pb::Heartbeat {
        let changed = self.fit_records.iter().filter(|record| !told.contains(record));
        pb::Heartbeat {
            gpus,
            fit_records: changed.map(Into::into).collect(),
            unavailable: self.unavailable(),
            cached_data: agent::cached_data(&self.cached_data),
            fitness: Some((&self.fitness_now()).into()),
        }
    }
}
