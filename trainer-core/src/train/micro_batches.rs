//! Cuts an epoch's images into optimiser steps, and those into micro-batches that fit. Knows no tensors.
//!
//! Which images make a step is the same on every GPU; only the micro-batches that they go through the model
//! in depend on the GPU. These are of few sizes: libtorch prepares each convolution, and takes memory, for each.

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
    /// The micro-batches in order; within a step an odd one first, then larger ones before smaller ones.
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
        let sizes = Sizes::new(schedule, batch_size);
        let (mut list, mut start) = (Vec::new(), 0);
        for unit in first..first + schedule.units_per_epoch {
            let end = ((unit - first + 1) * unit_images).min(images);
            let steps = accumulation.add(schedule.at(unit).accumulate);
            if steps || end == images {
                let step = steps.then_some(unit);
                list.extend(sizes.cut(start.max(images_done)..end, step));
                start = end;
            }
        }
        MicroBatches { list, units_left: accumulation.units }
    }
}

/// The sizes of a run's micro-batches. A step is of whole units, the images of which are either; only an epoch's last
/// unit, which may be short, and a batch size that changes within a step leave another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    /// The larger one, no more than fit.
    full: u64,
    /// A unit's images, or an equal share of them where they do not fit.
    part: u64,
}

impl Sizes {
    fn new(schedule: &Schedule, batch_size: u32) -> Self {
        let (unit, batch_size) = (u64::from(schedule.unit_images.max(1)), u64::from(batch_size.max(1)));
        let part = unit / unit.div_ceil(batch_size);
        let step = unit * schedule.accumulate();
        let largest = (part..=batch_size).rev().find(|&full| {
            let sizes = Self { full, part };
            sizes.full_batches(step).is_some_and(|count| count > 0) && sizes.full_batches(unit).is_some()
        });
        Self { full: largest.unwrap_or(part), part }
    }

    /// How many full micro-batches so many images have, if the others are to be of the other size; as many as possible.
    fn full_batches(self, images: u64) -> Option<u64> {
        (0..=images / self.full).rev().find(|count| (images - count * self.full).is_multiple_of(self.part))
    }

    /// Cuts into micro-batches; the last one ends the step, if there is one.
    fn cut(self, samples: Range<u64>, step: Option<u64>) -> Vec<MicroBatch> {
        let images = samples.end.saturating_sub(samples.start);
        let odd = |odd: u64| Some((odd, self.full_batches(images - odd)?));
        let (odd, full_batches) = (0..=images).find_map(odd).unwrap_or((images, 0));
        let mut list = Vec::new();
        let mut start = samples.start;
        while start < samples.end {
            let size = match list.len() as u64 {
                0 if odd > 0 => odd,
                before if before - u64::from(odd > 0) < full_batches => self.full,
                _ => self.part,
            };
            list.push(MicroBatch { samples: start..start + size, step: None });
            start += size;
        }
        if let Some(last) = list.last_mut() {
            last.step = step;
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
    fn a_gpu_for_24_images_takes_24_and_24_and_16() {
        let found = position(0, 0, 0).micro_batches(&schedule(0.0, 24), 24);
        assert_eq!(sizes(&found.list), [24, 24, 16, 24, 24, 16, 24, 24, 16, 13]);
        assert_eq!(steps(&found.list), [(64, 3), (128, 7), (192, 11)]);
        assert_eq!(found.units_left, 1);
    }

    /// How many micro-batches of each size a run of 50 epochs has.
    fn histogram(images: u64, batch_size: u32) -> BTreeMap<u64, usize> {
        let spec = TrainSpec { epochs: 50, ..TrainSpec::new(ModelScale::N, "/d/data.yaml") };
        let schedule = Schedule::for_any_gpu(&spec, images, batch_size);
        let (mut units_accumulated, mut found) = (0, BTreeMap::new());
        for epoch in 0..50 {
            let position = EpochPosition { epoch, images, images_done: 0, units_accumulated };
            let MicroBatches { list, units_left } = position.micro_batches(&schedule, batch_size);
            units_accumulated = units_left;
            sizes(&list).into_iter().for_each(|size| *found.entry(size).or_default() += 1);
        }
        found
    }

    #[test]
    fn a_run_has_one_size_of_micro_batches_or_two_and_what_is_left_of_an_epoch() {
        assert_eq!(histogram(292, 64), BTreeMap::from([(64, 178), (16, 188), (4, 50)]));
        assert_eq!(histogram(292, 24), BTreeMap::from([(24, 414), (16, 279), (4, 50)]));
        assert_eq!(histogram(292, 16), BTreeMap::from([(16, 900), (4, 50)]));
        assert_eq!(histogram(288, 16), BTreeMap::from([(16, 900)]));
        assert_eq!(histogram(292, 4), BTreeMap::from([(4, 3650)]));
        for batch_size in [1, 2, 3, 5, 6, 7, 8, 10, 12, 20, 28, 32, 40, 48, 96] {
            let few = histogram(320, batch_size);
            assert!(few.len() <= 2, "{batch_size}: {few:?}");
        }
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
        for (epoch, batch_size) in
            [0, 5].into_iter().flat_map(|epoch| (1..=70).map(move |size| (epoch, size)))
        {
            let schedule = schedule(3.0, batch_size);
            let whole = position(epoch, 0, 3).micro_batches(&schedule, batch_size);
            for (at, micro_batch) in whole.list.iter().enumerate() {
                let rest = position(epoch, micro_batch.samples.end, 3).micro_batches(&schedule, batch_size);
                assert_eq!(rest.list, whole.list[at + 1..], "{batch_size}");
                assert_eq!(rest.units_left, whole.units_left);
            }
        }
    }

    #[test]
    fn another_batch_size_in_the_middle_of_a_step_takes_an_odd_batch_and_then_its_own() {
        let found = position(5, 24, 0).micro_batches(&schedule(0.0, 12), 12);
        assert_eq!(sizes(&found.list)[..4], [12, 12, 8, 8]);
        let found = position(5, 27, 0).micro_batches(&schedule(0.0, 12), 12);
        assert_eq!(sizes(&found.list)[..4], [1, 12, 12, 12]);
        assert_eq!(steps(&found.list)[0], (64, 68));
    }
}
