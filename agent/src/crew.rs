//! The trainers that run now: on which slot, under which process id, and what they told of their work.
//! The driver writes; the GPUs' keeper and the metrics page read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trainyard_types::trainer::{Phases, TrainerEvent};
use trainyard_types::{AttemptId, GpuUuid, Slot};

use crate::closings::Device;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Crew(Arc<Mutex<Roll>>);

#[derive(Debug, Default)]
struct Roll {
    trainers: BTreeMap<AttemptId, Trainer>,
    images: BTreeMap<Slot, u64>,
}

#[derive(Debug)]
struct Trainer {
    slot: Slot,
    pid: u32,
    batch_size: u64,
    train_images: u64,
    /// Of the current epoch, as counted so far.
    epoch_images: u64,
    work: Work,
}

/// What a trainer told last.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Where a batch's time goes; `None` until it was told.
    pub phases: Option<Phases>,
    /// Share of the time spent waiting for data; `None` until it was told.
    pub loader_wait_ratio: Option<f64>,
}

/// For a scrape.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tally {
    /// Images trained since the agent's start, by slot.
    pub images: BTreeMap<Slot, u64>,
    /// What runs now, by slot.
    pub work: BTreeMap<Slot, Work>,
}

impl Crew {
    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A trainer runs.
    pub fn started(&self, attempt: AttemptId, slot: Slot, pid: u32) {
        let mut roll = self.roll();
        roll.images.entry(slot.clone()).or_default();
        let (batch_size, train_images, epoch_images) = (0, 0, 0);
        let work = Work::default();
        roll.trainers.insert(attempt, Trainer { slot, pid, batch_size, train_images, epoch_images, work });
    }

    /// A trainer told something.
    pub fn told(&self, attempt: AttemptId, event: &TrainerEvent) {
        let mut roll = self.roll();
        let Some(trainer) = roll.trainers.get_mut(&attempt) else { return };
        let before = trainer.epoch_images;
        match event {
            TrainerEvent::Started(started) => {
                trainer.batch_size = started.batch_size.into();
                trainer.train_images = started.train_images;
            }
            TrainerEvent::BatchSize(changed) => trainer.batch_size = changed.to.into(),
            TrainerEvent::Step(step) => {
                let done = u64::from(step.batch) * trainer.batch_size;
                // The last batch of an epoch is a short one.
                trainer.epoch_images = done.min(trainer.train_images).max(before);
                trainer.work = Work { phases: step.phases, loader_wait_ratio: Some(step.loader_wait_ratio) };
            }
            TrainerEvent::Epoch(_) => trainer.epoch_images = trainer.train_images,
            _ => return,
        }
        let more = trainer.epoch_images.saturating_sub(before);
        if matches!(event, TrainerEvent::Epoch(_)) {
            trainer.epoch_images = 0;
        }
        let slot = trainer.slot.clone();
        *roll.images.entry(slot).or_default() += more;
    }

    /// A trainer's process is gone.
    pub fn exited(&self, attempt: AttemptId) {
        self.roll().trainers.remove(&attempt);
    }

    /// Whether a trainer runs on a device.
    pub fn is_busy(&self, device: &Device) -> bool {
        self.roll().trainers.values().any(|trainer| Device::from(&trainer.slot) == *device)
    }

    /// Process ids by GPU.
    pub fn by_card(&self) -> BTreeMap<GpuUuid, u32> {
        let on_card = |trainer: &Trainer| match &trainer.slot {
            Slot::Gpu(uuid) => Some((uuid.clone(), trainer.pid)),
            Slot::Cpu(_) => None,
        };
        self.roll().trainers.values().filter_map(on_card).collect()
    }

    /// What is counted.
    pub fn tally(&self) -> Tally {
        let roll = self.roll();
        let work = roll.trainers.values().map(|trainer| (trainer.slot.clone(), trainer.work)).collect();
        Tally { images: roll.images.clone(), work }
    }
}

#[cfg(test)]
mod tests {
    use trainyard_types::JobId;
    use trainyard_types::trainer::{Epoch, Started, Step};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn each_image_is_counted_once_however_often_a_trainer_tells_its_position() {
        let crew = Crew::default();
        let attempt = AttemptId { job: JobId(Uuid::from_u128(1)), number: 1 };
        let slot = Slot::Gpu(GpuUuid("GPU-1".into()));
        crew.started(attempt, slot.clone(), 42);
        let started = Started { batch_size: 16, train_images: 100, ..Started::default() };
        crew.told(attempt, &TrainerEvent::Started(started));
        let count = || crew.tally().images[&slot];
        let step = |batch| {
            TrainerEvent::Step(Step { batch, batches: 7, loader_wait_ratio: 0.25, ..Step::default() })
        };
        let epoch = TrainerEvent::Epoch(Epoch::default());
        let mut seen = Vec::new();
        for event in [step(2), step(2), step(6), step(7), epoch.clone(), step(1), epoch] {
            crew.told(attempt, &event);
            seen.push(count());
        }
        assert_eq!(seen, [32, 32, 96, 100, 100, 116, 200]);
        assert_eq!(crew.tally().work[&slot].loader_wait_ratio, Some(0.25));
        assert_eq!(crew.by_card(), [(GpuUuid("GPU-1".into()), 42)].into());
        crew.exited(attempt);
        assert!(crew.tally().work.is_empty() && crew.by_card().is_empty());
        assert_eq!(count(), 200);
    }
}
