//! Learning rates, momentum and accumulation as functions of how far training is. No state, no tensors.
//!
//! Progress is counted in units of images, each as large as a batch of the reference's default size (see
//! [`unit_images`]). One or more units make an optimiser step, whatever batches they go through the model in.

use trainyard_types::TrainSpec;

/// What the optimiser uses at one unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Learning rates of convolution weights, normalisation weights and biases.
    pub lr: [f64; 3],
    /// SGD's momentum, of all groups.
    pub momentum: f64,
    /// Units whose gradients make one step.
    pub accumulate: u64,
}

/// The schedule of a run: its length, and its rates at any point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Epochs in all.
    pub epochs: u32,
    /// Units of an epoch; the last one may have fewer images.
    pub units_per_epoch: u64,
    /// Images of a unit.
    pub unit_images: u32,
    /// Images that make one optimiser step, nominally.
    pub nominal_batch: u32,
    /// Whether the learning rate falls by a cosine; linearly otherwise.
    pub cosine: bool,
    /// The initial learning rate.
    pub lr0: f64,
    /// Final learning rate, as a share of `lr0`.
    pub lrf: f64,
    /// SGD's momentum after warm-up.
    pub momentum: f64,
    /// L2 penalty on convolution weights, for the nominal batch.
    pub weight_decay: f64,
    /// Epochs over which the rates rise.
    pub warmup_epochs: f64,
    /// SGD's momentum at the start of warm-up.
    pub warmup_momentum: f64,
    /// Learning rate of biases at the start of warm-up.
    pub warmup_bias_lr: f64,
}

impl Schedule {
    /// A spec's schedule, for epochs of `images` images in units of `unit_images`.
    pub fn new(spec: &TrainSpec, images: u64, unit_images: u32) -> Self {
        Self {
            epochs: spec.epochs,
            units_per_epoch: images.div_ceil(u64::from(unit_images.max(1))),
            unit_images,
            nominal_batch: spec.nbs,
            cosine: spec.cos_lr,
            lr0: spec.lr0,
            lrf: spec.lrf,
            momentum: spec.momentum,
            weight_decay: spec.weight_decay,
            warmup_epochs: spec.warmup_epochs,
            warmup_momentum: spec.warmup_momentum,
            warmup_bias_lr: spec.warmup_bias_lr,
        }
    }

    /// [`Schedule::new`] with the units of [`unit_images`]: the same on every GPU, whatever fits in its memory.
    pub fn for_any_gpu(spec: &TrainSpec, images: u64, batch_size: u32) -> Self {
        Self::new(spec, images, unit_images(spec.nbs, batch_size))
    }

    /// Units of warm-up: never the last epoch's.
    pub fn warmup_units(&self) -> u64 {
        let epochs = self.warmup_epochs.min(f64::from(self.epochs.saturating_sub(1)));
        (epochs * self.units_per_epoch as f64).round_ties_even() as u64
    }

    /// Units that make one step after warm-up.
    pub fn accumulate(&self) -> u64 {
        let units = f64::from(self.nominal_batch) / f64::from(self.unit_images.max(1));
        (units.round_ties_even() as u64).max(1)
    }

    /// L2 penalty on convolution weights, scaled to the images that really make one step.
    pub fn decay(&self) -> f64 {
        let images = f64::from(self.unit_images) * self.accumulate() as f64;
        self.weight_decay * images / f64::from(self.nominal_batch.max(1))
    }

    /// Learning rate of an epoch (from 0), as a share of the initial one.
    pub fn factor(&self, epoch: u32) -> f64 {
        let passed = f64::from(epoch) / f64::from(self.epochs.max(1));
        if self.cosine {
            (1.0 - (std::f64::consts::PI * passed).cos()) / 2.0 * (self.lrf - 1.0) + 1.0
        } else {
            (1.0 - passed) * (1.0 - self.lrf) + self.lrf
        }
    }

    /// The rates at a unit, counted from 0 over the whole run.
    pub fn at(&self, unit: u64) -> Rates {
        let epoch = u32::try_from(unit / self.units_per_epoch.max(1)).unwrap_or(u32::MAX);
        let lr = self.lr0 * self.factor(epoch);
        let warmup = self.warmup_units();
        if warmup == 0 || unit > warmup {
            return Rates { lr: [lr; 3], momentum: self.momentum, accumulate: self.accumulate() };
        }
        let passed = unit as f64 / warmup as f64;
        let between = |from: f64, to: f64| from + (to - from) * passed;
        let nominal = f64::from(self.nominal_batch) / f64::from(self.unit_images.max(1));
        Rates {
            lr: [between(0.0, lr), between(0.0, lr), between(self.warmup_bias_lr, lr)],
            momentum: between(self.warmup_momentum, self.momentum),
            accumulate: (between(1.0, nominal).round_ties_even() as u64).max(1),
        }
    }
}

/// Images of a unit, the smallest number that an optimiser step may be made of.
///
/// The reference accumulates batches of the size that fits, so that its steps depend on the GPU. Here a
/// step is made of units instead, which are what its batches are at its default size, 16 of nominally 64:
/// a quarter of the nominal batch, or less where that does not divide. A batch larger than the nominal one
/// is its own.
pub fn unit_images(nominal_batch: u32, batch_size: u32) -> u32 {
    if batch_size > nominal_batch {
        return batch_size;
    }
    let most = (nominal_batch / 4).max(1);
    (1..=most).rev().find(|images| nominal_batch.is_multiple_of(*images)).unwrap_or(1)
}

/// Decides after which units the optimiser steps. A remainder carries over the end of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accumulation {
    /// Units whose gradients are accumulated for the next step.
    pub units: u64,
}

impl Accumulation {
    /// Counts a unit; returns whether the optimiser steps now.
    pub fn add(&mut self, accumulate: u64) -> bool {
        self.units += 1;
        let steps = self.units >= accumulate;
        if steps {
            self.units = 0;
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use trainyard_types::{ModelScale, TrainSpec};

    use super::*;

    fn schedule(epochs: u32, unit_images: u32) -> Schedule {
        let spec = TrainSpec { epochs, ..TrainSpec::new(ModelScale::N, "/d/data.yaml") };
        Schedule::new(&spec, 320, unit_images)
    }

    #[test]
    fn a_run_of_one_epoch_has_no_warm_up() {
        let rates = schedule(1, 16).at(0);
        assert_eq!(rates, Rates { lr: [0.01; 3], momentum: 0.937, accumulate: 4 });
    }

    #[test]
    fn warm_up_starts_at_zero_and_ends_at_the_schedules_rate() {
        let schedule = schedule(10, 16);
        let first = schedule.at(0);
        assert_eq!(first, Rates { lr: [0.0, 0.0, 0.1], momentum: 0.8, accumulate: 1 });
        let last = schedule.at(schedule.warmup_units());
        let next = schedule.at(schedule.warmup_units() + 1);
        assert!(last.lr.iter().zip(next.lr).all(|(last, next)| (last - next).abs() < 1e-15));
        assert_eq!(last.accumulate, 4);
    }

    #[test]
    fn the_penalty_follows_the_images_of_a_step() {
        let decay = [64, 48, 16, 5, 128].map(|batch| schedule(3, batch).decay());
        let images = [64.0, 48.0, 64.0, 65.0, 128.0];
        for (decay, images) in decay.into_iter().zip(images) {
            assert!((decay - 0.0005 * images / 64.0).abs() < 1e-12);
        }
    }

    #[test]
    fn units_make_up_the_nominal_batch_exactly() {
        let found = [(64, 16), (64, 24), (64, 64), (64, 1), (64, 96), (10, 4), (61, 8), (2, 2)];
        let units = found.map(|(nominal, batch)| unit_images(nominal, batch));
        assert_eq!(units, [16, 16, 16, 16, 96, 2, 1, 1]);
    }

    #[test]
    fn the_last_batch_may_be_smaller_and_counts() {
        assert_eq!(schedule(1, 48).units_per_epoch, 7);
    }
}
