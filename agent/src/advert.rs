//! What an agent tells of itself beside its cards: in its Hello, and in heartbeats when it changes.

use trainyard_proto::convert::agent;
use trainyard_proto::pb;
use trainyard_types::FitRecord;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Advert {
    /// What its devices were seen to need.
    pub fit_records: Vec<FitRecord>,
    /// Why it takes no job at all, a sentence; empty when it does.
    pub unavailable: String,
    /// Data sets whose images it has decoded, with the image size.
    pub cached_data: Vec<(String, u32)>,
}

impl Advert {
    /// A heartbeat; of the fit records only those that are not in `told`.
    pub fn heartbeat(&self, gpus: Vec<pb::Gpu>, told: &[FitRecord]) -> pb::Heartbeat {
        let news = self.fit_records.iter().filter(|record| !told.contains(record));
        pb::Heartbeat {
            gpus,
            fit_records: news.map(Into::into).collect(),
            unavailable: self.unavailable.clone(),
            cached_data: agent::cached_data(&self.cached_data),
        }
    }
}
