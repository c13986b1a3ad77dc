//! What an agent tells of itself beside its GPUs: in its Hello, and in heartbeats when it changes.

use trainyard_proto::convert::agent;
use trainyard_proto::pb;
use trainyard_types::{FitRecord, Fitness, Time};

/// What the scheduler is told of this agent beside its GPUs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Advert {
    /// What its devices were seen to need.
    pub fit_records: Vec<FitRecord>,
    /// Why its disk takes no job, a sentence; empty when it does.
    pub disk_short: String,
    /// Why it has no GPUs although there should be some, and nothing else to offer; empty when it has.
    pub no_cards: String,
    /// Why there is no trainer, a sentence; empty when there is one.
    pub no_trainer: String,
    /// Data sets whose images it has decoded, with the image size.
    pub cached_data: Vec<(String, u32)>,
    /// What the machine has of what jobs need.
    pub fitness: Fitness,
}

impl Advert {
    /// Why it takes no job at all, for a person; empty when it does.
    pub fn unavailable(&self) -> String {
        let reasons = [&self.disk_short, &self.no_cards, &self.no_trainer].map(String::as_str);
        reasons.into_iter().filter(|reason| !reason.is_empty()).collect::<Vec<_>>().join("; ")
    }

    /// Whether the scheduler must know at once, after it was told `told`.
    pub fn is_urgent(&self, told: &Self) -> bool {
        self.unavailable() != told.unavailable() || self.fitness != told.fitness
    }

    /// What the machine has, with what its clock shows.
    pub fn fitness_now(&self) -> Fitness {
        Fitness { clock: Some(Time::now()), ..self.fitness.clone() }
    }

    /// A heartbeat; of the fit records only those that are not in `told`.
    pub fn heartbeat(&self, gpus: Vec<pb::Gpu>, told: &[FitRecord]) -> pb::Heartbeat {
        let news = self.fit_records.iter().filter(|record| !told.contains(record));
        pb::Heartbeat {
            gpus,
            fit_records: news.map(Into::into).collect(),
            unavailable: self.unavailable(),
            cached_data: agent::cached_data(&self.cached_data),
            fitness: Some((&self.fitness_now()).into()),
        }
    }
}
