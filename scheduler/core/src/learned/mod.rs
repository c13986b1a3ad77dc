//! What the scheduler learns from the jobs that it runs: how fast cards are, how large data sets are, and
//! how often jobs stop before they said.
//!
//! Nobody is asked to guess a run time.

mod cold;
mod prior;
mod rates;
mod sizes;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{Cache, JobId, Time, TrainSpec};

use crate::changes::Changes;
use crate::core::Core;
use crate::output::Write;
use crate::policy::Change;
use crate::record::JobRecord;
use crate::slots::Kind;

pub use self::cold::{Cold, ColdRecord};
pub use self::rates::{Rate, RateRecord, Rates, Workload};
pub use self::sizes::{DataRecord, Sizes, StopsRecord};

/// One thing that was learned, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearnedRecord {
    /// A card's speed.
    Rate(RateRecord),
    /// A data set's size.
    Data(DataRecord),
    /// When jobs stop.
    Stops(StopsRecord),
    /// What a cold cache costs.
    Cold(ColdRecord),
}

impl LearnedRecord {
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

/// All of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Learned {
    /// By workload and card.
    pub rates: Rates,
    /// By data set, and over all jobs.
    pub sizes: Sizes,
    /// Over all jobs.
    pub cold: Cold,
}

impl Learned {
    pub(crate) fn load(&mut self, records: Vec<LearnedRecord>) {
        for record in records {
            match record {
                LearnedRecord::Rate(rate) => self.rates.load(rate),
                LearnedRecord::Data(data) => self.sizes.load_data(data),
                LearnedRecord::Stops(stops) => self.sizes.load_stops(&stops),
                LearnedRecord::Cold(cold) => self.cold.load(&cold),
            }
        }
        self.rates.carry_over();
    }

    /// A trainer counted the images of a data set: what is to be stored, and the name of what is not.
    pub(crate) fn count(
        &mut self,
        train: &TrainSpec,
        images: (u64, u64),
    ) -> Option<(LearnedRecord, Option<String>)> {
        let (record, forgotten): (_, Option<PathBuf>) =
            self.sizes.count(&train.data, images, train.fraction)?;
        Some((LearnedRecord::Data(record), forgotten.map(|path| data_key(&path))))
    }
}

/// What an event tells beside how far its job is.
#[derive(Clone, Copy)]
pub(crate) enum Told {
    /// Images that it trains and validates with.
    Images(u64, u64),
    /// A speed, and of what.
    Rate(f64, Pace),
    /// The job's place changed.
    Nothing,
    /// Nothing at all.
    Silence,
}

/// Which part of an attempt a speed is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The first steps, which start everything up.
    Steps,
    /// Its first epoch, which fills caches.
    FirstEpoch,
    SecondEpoch,
    LaterEpoch,
}

impl Pace {
    /// How many values it counts as. A job's epochs are alike, so that a long job must not drown the others.
    const fn counts(self) -> f64 {
        match self {
            Self::Steps => 0.05,
            Self::FirstEpoch => 0.3,
            Self::SecondEpoch => 1.0,
            Self::LaterEpoch => 0.1,
        }
    }
}

impl Told {
    /// `job` is as it was before.
    pub(crate) fn of(event: &TrainerEvent, job: &JobRecord) -> Self {
        match event {
            TrainerEvent::Started(started) => Self::Images(started.train_images, started.val_images),
            TrainerEvent::Epoch(epoch) => {
                let setup = job.live_attempt().and_then(|attempt| attempt.setup.as_ref());
                let pace = match epoch.epoch.saturating_sub(setup.map_or(0, |setup| setup.first_epoch)) {
                    0 => Pace::FirstEpoch,
                    1 => Pace::SecondEpoch,
                    _ => Pace::LaterEpoch,
                };
                Self::Rate(epoch.images_per_second, pace)
            }
            TrainerEvent::Step(step) => {
                let is_first = job.progress.as_ref().is_none_or(|progress| progress.images_per_second == 0.0);
                if is_first { Self::Rate(step.images_per_second, Pace::Steps) } else { Self::Silence }
            }
            TrainerEvent::Finished(_) => Self::Nothing,
            TrainerEvent::Checkpoint(_)
            | TrainerEvent::Memory(_)
            | TrainerEvent::Beat(_)
            | TrainerEvent::Workers(_)
            | TrainerEvent::BatchSize(_)
            | TrainerEvent::Log(_)
            | TrainerEvent::Failed(_) => Self::Silence,
        }
    }
}

impl Core {
    /// Takes in what a trainer told, after its job did.
    pub(crate) fn learn(&mut self, now: Time, id: JobId, told: Told, out: &mut Changes) {
        let Some(job) = self.jobs.get(&id) else { return };
        match told {
            Told::Silence => return,
            Told::Nothing => {}
            Told::Images(train, val) => {
                if let Some((record, forgotten)) = self.learned.count(&job.full_spec().train, (train, val)) {
                    out.write(Write::Learned(record));
                    out.write_all(forgotten.map(Write::Unlearn));
                }
            }
            Told::Rate(rate, pace) => {
                let device = job.live_attempt().map_or("", |attempt| attempt.device.as_str());
                let workload = Workload::from(&*job.full_spec());
                let record = self.learned.rates.observe(workload, device, rate, pace.counts());
                out.write_all(record.map(|record| Write::Learned(LearnedRecord::Rate(record))));
                if pace == Pace::SecondEpoch
                    && let Some(first) = cold_rate(job)
                {
                    let record = self.learned.cold.observe(first, rate);
                    out.write_all(record.map(|record| Write::Learned(LearnedRecord::Cold(record))));
                }
            }
        }
        self.tell_policy(now, &Change::Progress(id));
    }

    /// A job came to an end of its own: did it do all of its epochs?
    pub(crate) fn learn_end(&mut self, id: JobId, out: &mut Changes) {
        let Some(progress) = self.jobs.get(&id).and_then(|job| job.progress.as_ref()) else { return };
        let share = f64::from(progress.epoch) / f64::from(progress.epochs.max(1));
        out.write(Write::Learned(LearnedRecord::Stops(self.learned.sizes.end(share))));
    }

    /// How fast each kind of card that was seen or is there trains each workload that was seen.
    pub fn rates(&self) -> impl Iterator<Item = (Workload, &str, Rate)> {
        let here = self.slots.kinds().keys().map(Kind::device);
        self.learned.rates.table(here)
    }
}

/// Images a second of a live attempt's first epoch, if that filled the disk cache.
fn cold_rate(job: &JobRecord) -> Option<f64> {
    let attempt = job.live_attempt()?;
    let is_cold = attempt.id.number == 1 && !attempt.warm && job.spec.train.cache == Cache::Disk;
    let setup = attempt.setup.as_ref().filter(|setup| is_cold && setup.first_rate > 0.0)?;
    Some(setup.first_rate)
}
