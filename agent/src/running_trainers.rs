//! The trainers that run now: on which slot, under which process id, and what they told of their work.
//! The driver writes; the GPU monitor, the self-tests and the metrics page read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trainyard_types::trainer::{Phases, TrainerEvent};
use trainyard_types::{AttemptId, GpuUuid, Slot};

use crate::device::Device;

/// The trainers that run now. Clones share what they know.
#[derive(Debug, Clone, Default)]
pub struct RunningTrainers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    trainers: BTreeMap<AttemptId, RunningTrainer>,
    images: BTreeMap<Slot, u64>,
}

#[derive(Debug)]
struct RunningTrainer {
    slot: Slot,
    pid: u32,
    batch_size: u64,
    train_images: u64,
    /// Images of the current epoch that were counted so far.
    epoch_images: u64,
    timing: StepTiming,
}

/// What a trainer told last of where its time goes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepTiming {
    /// Seconds that a batch spends in each phase; `None` until the trainer tells.
    pub phases: Option<Phases>,
    /// Share of the time spent waiting for data; `None` until the trainer tells.
    pub loader_wait_ratio: Option<f64>,
}

/// What the metrics page tells of training.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainingCounts {
    /// Images trained since the agent's start, by slot.
    pub images: BTreeMap<Slot, u64>,
    /// Where the time of the trainers goes that run now, by slot.
    pub timing: BTreeMap<Slot, StepTiming>,
}

impl RunningTrainers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a trainer that runs.
    pub fn started(&self, attempt: AttemptId, slot: Slot, pid: u32) {
        let mut state = self.state();
        state.images.entry(slot.clone()).or_default();
        let (batch_size, train_images, epoch_images) = (0, 0, 0);
        let timing = StepTiming::default();
        state
            .trainers
            .insert(attempt, RunningTrainer { slot, pid, batch_size, train_images, epoch_images, timing });
    }

    /// Takes what a trainer told.
    pub fn told(&self, attempt: AttemptId, event: &TrainerEvent) {
        let mut state = self.state();
        let Some(trainer) = state.trainers.get_mut(&attempt) else { return };
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
                trainer.timing =
                    StepTiming { phases: step.phases, loader_wait_ratio: Some(step.loader_wait_ratio) };
            }
            TrainerEvent::Epoch(_) => trainer.epoch_images = trainer.train_images,
            _ => return,
        }
        let more = trainer.epoch_images.saturating_sub(before);
        if matches!(event, TrainerEvent::Epoch(_)) {
            trainer.epoch_images = 0;
        }
        let slot = trainer.slot.clone();
        *state.images.entry(slot).or_default() += more;
    }

    /// Removes a trainer whose process is gone.
    pub fn exited(&self, attempt: AttemptId) {
        self.state().trainers.remove(&attempt);
    }

    /// Whether a trainer runs on a device.
    pub fn is_busy(&self, device: &Device) -> bool {
        self.state().trainers.values().any(|trainer| Device::from(&trainer.slot) == *device)
    }

    /// The process ids of trainers on GPUs, by GPU.
    pub fn by_gpu(&self) -> BTreeMap<GpuUuid, u32> {
        let on_gpu = |trainer: &RunningTrainer| match &trainer.slot {
            Slot::Gpu(uuid) => Some((uuid.clone(), trainer.pid)),
            Slot::Cpu(_) => None,
        };
        self.state().trainers.values().filter_map(on_gpu).collect()
    }

    /// What is counted of training, for the metrics page.
    pub fn counts(&self) -> TrainingCounts {
        let state = self.state();
        let timing = state.trainers.values().map(|trainer| (trainer.slot.clone(), trainer.timing)).collect();
        TrainingCounts { images: state.images.clone(), timing }
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
        let trainers = RunningTrainers::default();
        let attempt = AttemptId { job: JobId(Uuid::from_u128(1)), number: 1 };
        let slot = Slot::Gpu(GpuUuid("GPU-1".into()));
        trainers.started(attempt, slot.clone(), 42);
        let started = Started { batch_size: 16, train_images: 100, ..Started::default() };
        trainers.told(attempt, &TrainerEvent::Started(started));
        let count = || trainers.counts().images[&slot];
        let step = |batch| {
            TrainerEvent::Step(Step { batch, batches: 7, loader_wait_ratio: 0.25, ..Step::default() })
        };
        let epoch = TrainerEvent::Epoch(Epoch::default());
        let mut seen = Vec::new();
        for event in [step(2), step(2), step(6), step(7), epoch.clone(), step(1), epoch] {
            trainers.told(attempt, &event);
            seen.push(count());
        }
        assert_eq!(seen, [32, 32, 96, 100, 100, 116, 200]);
        assert_eq!(trainers.counts().timing[&slot].loader_wait_ratio, Some(0.25));
        assert_eq!(trainers.by_gpu(), [(GpuUuid("GPU-1".into()), 42)].into());
        trainers.exited(attempt);
        assert!(trainers.counts().timing.is_empty() && trainers.by_gpu().is_empty());
        assert_eq!(count(), 200);
    }
}
