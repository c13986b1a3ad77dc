//! What the scheduler learns from the jobs that it runs: how fast GPUs are, how large data sets are, and
//! how often jobs stop before they said.
//!
//! Nobody is asked to guess a run time.

mod cold_cache;
mod datasets;
mod datasheet;
mod early_stop;
mod fetches;
mod rates;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trainyard_types::TrainSpec;
use trainyard_types::trainer::TrainerEvent;

use crate::record::JobRecord;

pub use self::cold_cache::{ColdCache, ColdRecord};
pub(crate) use self::datasets::ImageCounts;
pub use self::datasets::{DataRecord, DataSets};
pub use self::early_stop::{EarlyStops, StopsRecord};
pub use self::fetches::Fetches;
pub use self::rates::{Rate, RateRecord, Rates, Workload};

/// One thing that was learned, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThroughputRecord {
    /// A GPU's speed.
    Rate(RateRecord),
    /// A data set's size.
    Data(DataRecord),
    /// When jobs stop.
    Stops(StopsRecord),
    /// What a cold cache costs.
    Cold(ColdRecord),
}

impl ThroughputRecord {
    /// Under which name it is stored: what has the same name is replaced.
    pub fn key(&self) -> String {
        match self {
            Self::Rate(RateRecord { workload, device, .. }) => {
                let Workload { model, imgsz, amp, gpus } = workload;
                let precision = if *amp { "amp" } else { "full" };
                format!("rate {model} {imgsz} {precision} {gpus} {device}")
            }
            Self::Data(data) => data_key(&data.path),
            Self::Stops(_) => "stops".to_owned(),
            Self::Cold(_) => "cold".to_owned(),
        }
    }
}

/// The name under which a data set's size is stored.
pub(crate) fn data_key(path: &std::path::Path) -> String {
    format!("data {}", path.display())
}

/// All that was learned of throughput.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Throughput {
    /// Speeds by workload and kind of GPU.
    pub rates: Rates,
    /// How large data sets are.
    pub datasets: DataSets,
    /// When jobs stop, over all of them.
    pub early_stops: EarlyStops,
    /// What a cold cache costs, over all jobs.
    pub cold_cache: ColdCache,
    /// What it costs to bring data sets to machines.
    pub fetches: Fetches,
}

impl Throughput {
    pub(crate) fn load(&mut self, records: Vec<ThroughputRecord>) {
        for record in records {
            match record {
                ThroughputRecord::Rate(rate) => self.rates.load(rate),
                ThroughputRecord::Data(data) => self.datasets.load(data),
                ThroughputRecord::Stops(stops) => self.early_stops.load(&stops),
                ThroughputRecord::Cold(cold) => self.cold_cache.load(&cold),
            }
        }
        self.rates.carry_over();
    }

    /// A trainer counted the images of a data set: what is to be stored, and the name of what is not.
    pub(crate) fn count(
        &mut self,
        train: &TrainSpec,
        images: ImageCounts,
    ) -> Option<(ThroughputRecord, Option<String>)> {
        let (record, forgotten): (_, Option<PathBuf>) =
            self.datasets.count(&train.data, images, train.fraction)?;
        Some((ThroughputRecord::Data(record), forgotten.map(|path| data_key(&path))))
    }
}

/// What an event of a trainer tells of throughput.
#[derive(Clone, Copy)]
pub(crate) enum Observation {
    /// How many images its data set has.
    Images(ImageCounts),
    /// A speed, and of what.
    Rate(f64, RunPart),
    /// How far the job is, and no more.
    Progress,
    Nothing,
}

/// Which part of an attempt a speed is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunPart {
    /// The first steps, which start everything up.
    Steps,
    /// Its first epoch, which fills caches.
    FirstEpoch,
    SecondEpoch,
    LaterEpoch,
}

impl RunPart {
    /// How many values a speed of it counts as. A job's epochs are alike, so that a long job must not drown the others.
    pub(crate) const fn weight(self) -> f64 {
        match self {
            Self::Steps => 0.05,
            Self::FirstEpoch => 0.3,
            Self::SecondEpoch => 1.0,
            Self::LaterEpoch => 0.1,
        }
    }
}

impl Observation {
    /// What an event tells of a job, which is as it was before.
    pub(crate) fn of(event: &TrainerEvent, job: &JobRecord) -> Self {
        match event {
            TrainerEvent::Started(started) => {
                Self::Images(ImageCounts { train: started.train_images, val: started.val_images })
            }
            TrainerEvent::Epoch(epoch) => {
                let setup = job.live_attempt().and_then(|attempt| attempt.setup.as_ref());
                let part = match epoch.epoch.saturating_sub(setup.map_or(0, |setup| setup.first_epoch)) {
                    0 => RunPart::FirstEpoch,
                    1 => RunPart::SecondEpoch,
                    _ => RunPart::LaterEpoch,
                };
                Self::Rate(epoch.images_per_second, part)
            }
            TrainerEvent::Step(step) => {
                let is_first = job.progress.as_ref().is_none_or(|progress| progress.images_per_second == 0.0);
                if is_first { Self::Rate(step.images_per_second, RunPart::Steps) } else { Self::Nothing }
            }
            TrainerEvent::Finished(_) => Self::Progress,
            TrainerEvent::Checkpoint(_)
            | TrainerEvent::Memory(_)
            | TrainerEvent::Beat(_)
            | TrainerEvent::Workers(_)
            | TrainerEvent::BatchSize(_)
            | TrainerEvent::Log(_)
            | TrainerEvent::Failed(_) => Self::Nothing,
        }
    }
}
