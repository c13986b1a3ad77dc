//! Cuts an epoch's images into optimiser steps, and those into micro-batches that fit. Knows no tensors.
//!
//! Which images make a step is the same on every GPU; only the micro-batches that they go through the model
//! in depend on the GPU.

use std::ops::Range;

use crate::optim::Schedule;
use crate::optim::schedule::Accumulation;

/// Images of an epoch that go through the model at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatch {
    /// Positions of its images in the epoch's order.
    pub samples: Range<u64>,
    /// The unit whose rates the optimiser steps with after it; `None` if more images belong to the step.
    pub step: Option<u64>,
}

/// What is left to train of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatches {
    /// The micro-batches in order; as equal as possible within a step, larger ones first.
    pub list: Vec<MicroBatch>,
    /// Units of images whose gradients are accumulated for a step of the next epoch.
    pub units_left: u64,
}

/// An epoch that begins, or goes on in its middle.
#[derive(Debug, Clone, Copy)]
pub struct EpochPosition {
    /// Its number, from 0.
    pub epoch: u32,
    /// Its images.
    pub images: u64,
    /// The first of them, which are trained already.
    pub images_done: u64,
    /// What [`MicroBatches::units_left`] was for the epoch before.
    pub units_accumulated: u64,
}

impl EpochPosition {
    /// Cuts the rest of the epoch into micro-batches of at most `batch_size` images.
    ///
    /// It does not matter what was done before in which micro-batches: going on from the end of one gives
    /// the rest of those that there would have been.
    pub fn micro_batches(self, schedule: &Schedule, batch_size: u32) -> MicroBatches {
        let Self { epoch, images, images_done, units_accumulated } = self;
        let unit_images = u64::from(schedule.unit_images.max(1));
        let first = u64::from(epoch) * schedule.units_per_epoch;
        let mut accumulation = Accumulation { units: units_accumulated };
        let (mut list, mut start) = (Vec::new(), 0);
        for unit in first..first + schedule.units_per_epoch {
            let end = ((unit - first + 1) * unit_images).min(images);
            let steps = accumulation.add(schedule.at(unit).accumulate);
            if steps || end == images {
                let step = steps.then_some(unit);
                list.extend(cut(start.max(images_done)..end, u64::from(batch_size.max(1)), step));
                start = end;
            }
        }
        MicroBatches { list, units_left: accumulation.units }
    }
}

/// Cuts into as few micro-batches as possible, as equal as possible; the last one ends the step, if there is one.
fn cut(samples: Range<u64>, batch_size: u64, step: Option<u64>) -> impl Iterator<Item = MicroBatch> {
    let images = samples.end.saturating_sub(samples.start);
    let count = images.div_ceil(batch_size);
    let mut start = samples.start;
    (0..count).map(move |at| {
        let size = images / count + u64::from(at < images % count);
        let samples = start..start + size;
        start += size;
        MicroBatch { samples, step: step.filter(|_| at + 1 == count) }
    })
}

#[cfg(test)]
mod tests {
    use trainyard_types::{ModelScale, TrainSpec};

    use super::*;

    const IMAGES: u64 = 205;

    fn schedule(warmup_epochs: f64, batch_size: u32) -> Schedule {
        let spec = TrainSpec { epochs: 10, warmup_epochs, ..TrainSpec::new(ModelScale::N, "/d/data.yaml") };
        Schedule::for_any_gpu(&spec, IMAGES, batch_size)
    }

    fn position(epoch: u32, images_done: u64, units_accumulated: u64) -> EpochPosition {
        EpochPosition { epoch, images: IMAGES, images_done, units_accumulated }
    }

    fn sizes(list: &[MicroBatch]) -> Vec<u64> {
        list.iter().map(|micro_batch| micro_batch.samples.end - micro_batch.samples.start).collect()
    }

    /// The end of each step and its unit.
    fn steps(list: &[MicroBatch]) -> Vec<(u64, u64)> {
        list.iter().filter_map(|micro_batch| Some((micro_batch.samples.end, micro_batch.step?))).collect()
    }

    #[test]
    fn a_gpu_for_24_images_takes_22_and_21_and_21() {
        let found = position(0, 0, 0).micro_batches(&schedule(0.0, 24), 24);
        assert_eq!(sizes(&found.list), [22, 21, 21, 22, 21, 21, 22, 21, 21, 13]);
        assert_eq!(steps(&found.list), [(64, 3), (128, 7), (192, 11)]);
        assert_eq!(found.units_left, 1);
    }

    #[test]
    fn a_batch_above_the_nominal_one_is_its_own() {
        let found = position(0, 0, 0).micro_batches(&schedule(0.0, 96), 96);
        assert_eq!(sizes(&found.list), [96, 96, 13]);
        assert_eq!(steps(&found.list), [(96, 0), (192, 1), (205, 2)]);
    }

    #[test]
    fn steps_are_of_the_same_images_on_every_gpu_in_and_after_warm_up() {
        let on = |batch_size: u32| {
            let schedule = schedule(3.0, batch_size);
            let mut units_left = 0;
            let epoch = |epoch| {
                let found = position(epoch, 0, units_left).micro_batches(&schedule, batch_size);
                assert!(sizes(&found.list).iter().all(|&size| size <= u64::from(batch_size)));
                assert_eq!(sizes(&found.list).iter().sum::<u64>(), IMAGES);
                units_left = found.units_left;
                steps(&found.list)
            };
            (0..10).map(epoch).collect::<Vec<_>>()
        };
        let reference = on(16);
        assert_eq!(reference[0][0], (16, 0), "the first step of the warm-up is small");
        for batch_size in [1, 3, 24, 40, 64] {
            assert_eq!(on(batch_size), reference, "{batch_size}");
        }
    }

    #[test]
    fn going_on_after_any_batch_gives_the_rest() {
        let schedule = schedule(3.0, 24);
        for epoch in [0, 5] {
            let whole = position(epoch, 0, 3).micro_batches(&schedule, 24);
            for (at, micro_batch) in whole.list.iter().enumerate() {
                let rest = position(epoch, micro_batch.samples.end, 3).micro_batches(&schedule, 24);
                assert_eq!(rest.list, whole.list[at + 1..]);
                assert_eq!(rest.units_left, whole.units_left);
            }
        }
    }
}
