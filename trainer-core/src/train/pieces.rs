//! Cuts an epoch's images into optimiser steps, and those into batches that fit. Knows no tensors.
//!
//! Which images make a step is the same on every GPU; only the batches that they go through the model in
//! depend on the GPU.

use std::ops::Range;

use crate::optim::Schedule;
use crate::optim::schedule::Accumulation;

/// A batch of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Positions of its images in the epoch's order.
    pub samples: Range<u64>,
    /// The iteration whose rates the optimiser steps with after it; `None` if more belongs to the step.
    pub step: Option<u64>,
}

/// What is left to train of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// In order; as equal as possible within a step, larger ones first.
    pub list: Vec<Piece>,
    /// Units of images whose gradients wait for a step of the next epoch.
    pub waiting: u64,
}

/// Cuts epoch number `epoch` (from 0), whose first `done` of `images` images are trained already, into
/// batches of at most `batch_size`.
///
/// `waiting`: what [`Pieces::waiting`] was for the epoch before.
///
/// It does not matter what was done before in which batches: going on from a batch's end gives the rest of
/// the batches that there would have been.
pub fn pieces(
    schedule: &Schedule,
    (epoch, images): (u32, u64),
    (done, batch_size): (u64, u32),
    waiting: u64,
) -> Pieces {
    let unit = u64::from(schedule.batch_size.max(1));
    let first = u64::from(epoch) * schedule.batches;
    let mut accumulation = Accumulation { waiting };
    let (mut list, mut start) = (Vec::new(), 0);
    for iteration in first..first + schedule.batches {
        let end = ((iteration - first + 1) * unit).min(images);
        let steps = accumulation.add(schedule.at(iteration).accumulate);
        if steps || end == images {
            let step = steps.then_some(iteration);
            list.extend(cut(start.max(done)..end, u64::from(batch_size.max(1)), step));
            start = end;
        }
    }
    Pieces { list, waiting: accumulation.waiting }
}

/// As few batches as possible, as equal as possible; the last one ends the step, if there is one.
fn cut(samples: Range<u64>, batch_size: u64, step: Option<u64>) -> impl Iterator<Item = Piece> {
    let images = samples.end.saturating_sub(samples.start);
    let count = images.div_ceil(batch_size);
    let mut start = samples.start;
    (0..count).map(move |at| {
        let size = images / count + u64::from(at < images % count);
        let samples = start..start + size;
        start += size;
        Piece { samples, step: step.filter(|_| at + 1 == count) }
    })
}

#[cfg(test)]
mod tests {
    use trainyard_types::{ModelScale, TrainSpec};

    use super::*;

    const IMAGES: u64 = 205;

    fn schedule(warmup_epochs: f64, batch_size: u32) -> Schedule {
        let spec = TrainSpec { epochs: 10, warmup_epochs, ..TrainSpec::new(ModelScale::N, "/d/data.yaml") };
        Schedule::for_any_card(&spec, IMAGES, batch_size)
    }

    fn sizes(list: &[Piece]) -> Vec<u64> {
        list.iter().map(|piece| piece.samples.end - piece.samples.start).collect()
    }

    /// The end of each step and its iteration.
    fn steps(list: &[Piece]) -> Vec<(u64, u64)> {
        list.iter().filter_map(|piece| Some((piece.samples.end, piece.step?))).collect()
    }

    #[test]
    fn a_card_for_24_images_takes_22_and_21_and_21() {
        let found = pieces(&schedule(0.0, 24), (0, IMAGES), (0, 24), 0);
        assert_eq!(sizes(&found.list), [22, 21, 21, 22, 21, 21, 22, 21, 21, 13]);
        assert_eq!(steps(&found.list), [(64, 3), (128, 7), (192, 11)]);
        assert_eq!(found.waiting, 1);
    }

    #[test]
    fn a_batch_above_the_nominal_one_is_its_own() {
        let found = pieces(&schedule(0.0, 96), (0, IMAGES), (0, 96), 0);
        assert_eq!(sizes(&found.list), [96, 96, 13]);
        assert_eq!(steps(&found.list), [(96, 0), (192, 1), (205, 2)]);
    }

    #[test]
    fn steps_are_of_the_same_images_on_every_card_in_and_after_warm_up() {
        let on = |batch_size: u32| {
            let schedule = schedule(3.0, batch_size);
            let mut waiting = 0;
            let epoch = |epoch| {
                let found = pieces(&schedule, (epoch, IMAGES), (0, batch_size), waiting);
                assert!(sizes(&found.list).iter().all(|&size| size <= u64::from(batch_size)));
                assert_eq!(sizes(&found.list).iter().sum::<u64>(), IMAGES);
                waiting = found.waiting;
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
            let whole = pieces(&schedule, (epoch, IMAGES), (0, 24), 3);
            for (at, piece) in whole.list.iter().enumerate() {
                let rest = pieces(&schedule, (epoch, IMAGES), (piece.samples.end, 24), 3);
                assert_eq!(rest.list, whole.list[at + 1..]);
                assert_eq!(rest.waiting, whole.waiting);
            }
        }
    }
}
