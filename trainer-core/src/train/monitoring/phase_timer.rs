//! Where the time of training goes: the seconds of each phase of a batch.
//!
//! A GPU computes behind the host's back, so a phase's time is only known if the host waits for it. Most
//! batches go on without; those of one optimiser step in some fifty are measured, with the device awaited
//! after each phase. On a CPU every batch is measured: a clock costs nothing.

use std::time::{Duration, Instant};

use tch::Device;
use trainyard_types::trainer::{Phase, Phases};

/// On a GPU, one of so many optimiser steps is measured.
const EVERY: u64 = 50;

/// Seconds of some batches.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    /// By phase: copy, forward, loss, backward, optimiser.
    by_phase: [f64; 5],
    /// Batches whose phases were measured.
    measured: u64,
    /// Waiting for the loader, of all batches.
    loader_wait: f64,
    /// All batches.
    batches: u64,
}

impl Sums {
    fn wait(&self) -> f64 {
        self.loader_wait / self.batches.max(1) as f64
    }

    /// The mean of a batch; `None` if no batch was measured.
    fn mean(&self) -> Option<Phases> {
        let [copy, forward, loss, backward, optimizer] =
            self.by_phase.map(|seconds| seconds / self.measured.max(1) as f64);
        let wait = self.wait();
        (self.measured > 0).then_some(Phases { wait, copy, forward, loss, backward, optimizer })
    }
}

/// Measures the phases of a training's batches.
#[derive(Debug)]
pub struct PhaseTimer {
    device: Device,
    /// Whether the batch that runs is measured.
    measuring: bool,
    /// The phase that runs, and since when.
    running: Option<(Phase, Instant)>,
    epoch: Sums,
    recent: Sums,
    /// The newest means that are known.
    newest: Option<Phases>,
    /// Optimiser steps of the session so far.
    steps: u64,
    /// How many steps came before the one that was measured last.
    last_measured: Option<u64>,
}

impl PhaseTimer {
    /// A timer for training on `device`.
    pub fn new(device: Device) -> Self {
        Self {
            device,
            measuring: device == Device::Cpu,
            running: None,
            epoch: Sums::default(),
            recent: Sums::default(),
            newest: None,
            steps: 0,
            last_measured: None,
        }
    }

    /// Before an epoch's first batch.
    pub fn begin_epoch(&mut self) {
        self.newest = self.epoch.mean().or(self.newest);
        self.epoch = Sums::default();
        self.running = None;
        self.decide();
    }

    /// A phase of a batch begins, and the one before it ends. The first one's beginning awaits what the device
    /// did before, if the batch is measured.
    pub fn begin(&mut self, phase: Phase) {
        if self.measuring {
            self.lap();
            self.running = Some((phase, Instant::now()));
        }
    }

    /// A batch ends, for which the loader was waited so long; `stepped`: an optimiser step ended with it.
    pub fn end_batch(&mut self, loader_wait: Duration, stepped: bool) {
        for sums in [&mut self.epoch, &mut self.recent] {
            sums.loader_wait += loader_wait.as_secs_f64();
            sums.batches += 1;
        }
        if self.measuring {
            self.lap();
            self.epoch.measured += 1;
            self.recent.measured += 1;
        }
        if stepped {
            if self.measuring {
                self.last_measured = Some(self.steps);
            }
            self.steps += 1;
            self.decide();
        }
    }

    /// Means since the last call. Where no batch was measured since, those of the last ones that were, beside
    /// the loader's wait, which always is.
    pub fn recent(&mut self) -> Option<Phases> {
        let wait = self.recent.wait();
        let known = self.recent.mean().or(self.newest);
        self.recent = Sums::default();
        self.newest = known;
        known.map(|phases| Phases { wait, ..phases })
    }

    /// Means of the epoch so far. Where no batch of it was measured, those of the last ones that were, beside the epoch's
    /// wait for the loader.
    pub fn epoch(&self) -> Option<Phases> {
        let wait = self.epoch.wait();
        self.epoch.mean().or(self.newest).map(|phases| Phases { wait, ..phases })
    }

    /// Ends the phase that runs.
    fn lap(&mut self) {
        if let Device::Cuda(index) = self.device {
            tch::Cuda::synchronize(i64::try_from(index).unwrap_or(0));
        }
        let Some((phase, since)) = self.running.take() else { return };
        let Some(at) = index(phase) else { return };
        let seconds = since.elapsed().as_secs_f64();
        self.epoch.by_phase[at] += seconds;
        self.recent.by_phase[at] += seconds;
    }

    /// Whether the next optimiser step is measured: whole ones, so that each batch counts with its share of the
    /// optimiser. Never the first, in which libraries are loaded.
    fn decide(&mut self) {
        if self.device == Device::Cpu {
            return;
        }
        self.measuring = match self.last_measured {
            None => self.steps > 0,
            Some(last) => self.steps - last >= EVERY,
        };
    }
}

/// The phase's index in [`Sums::by_phase`]; none for what is not of a batch.
const fn index(phase: Phase) -> Option<usize> {
    match phase {
        Phase::Copy => Some(0),
        Phase::Forward => Some(1),
        Phase::Loss => Some(2),
        Phase::Backward => Some(3),
        Phase::Optimizer => Some(4),
        Phase::Start | Phase::Measurement | Phase::Validation | Phase::Checkpoint => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: [Phase; 4] = [Phase::Copy, Phase::Forward, Phase::Loss, Phase::Backward];

    fn batch(timer: &mut PhaseTimer, waited: u64, stepped: bool) {
        BATCH.into_iter().for_each(|phase| timer.begin(phase));
        if stepped {
            timer.begin(Phase::Optimizer);
        }
        timer.end_batch(Duration::from_secs(waited), stepped);
    }

    #[test]
    fn phases_of_all_batches_add_up_on_a_cpu_and_wait_is_a_mean() {
        let mut timer = PhaseTimer::new(Device::Cpu);
        timer.begin_epoch();
        assert_eq!((timer.recent(), timer.epoch()), (None, None));
        let began = Instant::now();
        batch(&mut timer, 1, false);
        batch(&mut timer, 3, true);
        let took = began.elapsed().as_secs_f64();
        let recent = timer.recent().unwrap();
        let Phases { wait, copy, forward, loss, backward, optimizer } = recent;
        assert_eq!(wait, 2.0);
        let spent = [copy, forward, loss, backward, optimizer];
        assert!(spent.iter().all(|seconds| *seconds >= 0.0), "{spent:?}");
        assert!(2.0 * spent.iter().sum::<f64>() <= took, "{spent:?} in {took}");
        // None since: what was known, but the wait.
        timer.measuring = false;
        batch(&mut timer, 7, true);
        assert_eq!(timer.recent(), Some(Phases { wait: 7.0, ..recent }));
        let epoch = timer.epoch().unwrap();
        assert_eq!((epoch.forward, epoch.wait), (forward, 11.0 / 3.0));
        timer.begin_epoch();
        batch(&mut timer, 2, true);
        assert_eq!(timer.epoch(), Some(Phases { wait: 2.0, ..epoch }), "none of it was measured");
    }

    /// The optimiser steps of a GPU that would be measured, of epochs of so many.
    fn measured(epochs: u64, steps: u64) -> Vec<u64> {
        let mut timer = PhaseTimer { measuring: false, ..PhaseTimer::new(Device::Vulkan) };
        let mut found = Vec::new();
        for epoch in 0..epochs {
            timer.begin_epoch();
            for step in 0..steps {
                if timer.measuring {
                    found.push(epoch * steps + step);
                }
                batch(&mut timer, 0, false);
                batch(&mut timer, 0, true);
            }
        }
        found
    }

    #[test]
    fn on_a_gpu_one_whole_step_in_fifty_is_measured_however_short_epochs_are() {
        assert_eq!(measured(1, 120), [1, 51, 101]);
        assert_eq!(measured(40, 3), [1, 51, 101]);
        assert_eq!(measured(3, 1), [1]);
    }
}
