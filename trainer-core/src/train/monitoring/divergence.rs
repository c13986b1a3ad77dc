//! Divergence: a loss that is no longer a number, or that has collapsed to nothing; since when, and most likely why.
//!
//! Each batch costs a few small operations on the device, and no wait for it: what they found is read when
//! the losses are read anyway (`loss_reading.rs`), once a second, before a checkpoint, and at an epoch's end.

use std::fmt;

use tch::{Device, Kind, Tensor};
use trainyard_types::{Optimizer, TrainSpec};

use crate::checkpoint::Row;

/// Box and class loss together below which a model is dead where there are objects. The class loss alone is some
/// hundredths before anything is learnt, and of a model that knows its images by heart the box loss is.
const DEAD_LOSS: f64 = 1e-6;
/// A class loss above this says that a validation's scores are beyond all measure. The largest healthy ones, of
/// large images without objects, are some thousands.
const RUNAWAY_LOSS: f64 = 1e6;
/// So many batches with objects and without a loss in a row are a collapse.
const DEAD_BATCHES: f64 = 3.0;

/// So many batches in a row without a number as their loss are forgiven where layers compute in 16-bit floats of little
/// range. A value that is too large for once passes; weights that make one in every batch do not.
pub const FORGIVEN_BATCHES: u64 = 2;
/// Below this loss scale 16-bit floats of little range are given up: it halves with each step that is skipped, and the
/// gradients do not fit in them as they are.
pub const LEAST_SCALE: f64 = 1.0;

/// Counts the batches whose losses are not numbers, and those whose loss is nothing.
#[derive(Debug)]
pub struct DivergenceDetector {
    /// Batches in a row that may be without a number.
    forgiven: i64,
    /// Scalar on the device: the newest batches in a row whose losses are not numbers.
    broken_in_a_row: Tensor,
    /// Scalar on the device: the number, from 1, of the first batch of more than are forgiven; 0 if there is none.
    broken_since: Tensor,
    /// Scalar on the device: of the batches with objects, how many up to the newest had no loss.
    dead_in_a_row: Tensor,
    /// Scalar on the device: the number of the last batch, from 1, that had objects and a loss.
    last_alive: Tensor,
}

impl DivergenceDetector {
    /// Watches what comes after so many `batches`; as many in a row as are `forgiven` may be without a number.
    pub fn new(device: Device, batches: u64, forgiven: u64) -> Self {
        let count = |from: u64| Tensor::full([0; 0], number(from), (Kind::Int64, device));
        Self {
            forgiven: number(forgiven),
            broken_in_a_row: count(0),
            broken_since: count(0),
            dead_in_a_row: count(0),
            last_alive: count(batches),
        }
    }

    /// Counts batch number `batch`, from 1. `finite`: a bool scalar, whether its losses are numbers.
    pub fn record_finite(&mut self, finite: &Tensor, batch: u64) {
        self.broken_in_a_row = (&self.broken_in_a_row + 1) * finite.logical_not();
        let too_many = self.broken_in_a_row.gt(self.forgiven).logical_and(&self.broken_since.eq(0));
        let since = self.broken_since.full_like(number(batch) - self.forgiven);
        self.broken_since = since.where_self(&too_many, &self.broken_since);
    }

    /// Counts the losses, `[3]`, of batch number `batch`, from 1, if it has objects.
    pub fn record_losses(&mut self, losses: &Tensor, objects: usize, batch: u64) {
        if objects == 0 {
            return;
        }
        let dead = (losses.narrow(0, 0, 2).sum(Kind::Float)).lt(DEAD_LOSS);
        self.dead_in_a_row = (&self.dead_in_a_row + 1) * &dead;
        let batch = self.last_alive.full_like(number(batch));
        self.last_alive = self.last_alive.where_self(&dead, &batch);
    }

    /// `[3]` on the device, what [`DivergenceDetector::found`] reads.
    pub fn counts(&self) -> Tensor {
        Tensor::stack(&[&self.broken_since, &self.dead_in_a_row, &self.last_alive], 0)
    }

    /// What [`DivergenceDetector::counts`] say, once they are on the host.
    pub fn found([broken_since, dead_in_a_row, last_alive]: [f64; 3]) -> Divergence {
        Divergence {
            not_finite_since: (broken_since > 0.0).then_some(broken_since as u64),
            collapsed_since: (dead_in_a_row >= DEAD_BATCHES).then_some(last_alive as u64 + 1),
        }
    }
}

/// What is wrong with a training's losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Divergence {
    /// The number, from 1, of the first batch of those whose losses are not numbers, if there are more than forgiven.
    pub not_finite_since: Option<u64>,
    /// The number of the first batch since which objects make no loss, if they make none any more.
    pub collapsed_since: Option<u64>,
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(0)
}

/// Whether a model whose validation, of images with objects, had these losses (box, class, distribution) says
/// nothing of them, or everything.
pub fn is_dead([boxes, classes, _]: [f64; 3]) -> bool {
    boxes < DEAD_LOSS && !(DEAD_LOSS..RUNAWAY_LOSS).contains(&classes)
}

/// Why a loss is no longer a number, most likely.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cause {
    /// A value did not fit in 16 bits.
    HalfPrecision,
    /// The rate is far above what works, or the loss grew before.
    LearningRate {
        /// The value in the spec.
        lr0: f64,
        /// Whether the loss was seen to grow.
        growing: bool,
    },
    /// Each step makes weights larger than they were.
    WeightDecay {
        /// The value in the spec.
        weight_decay: f64,
    },
    /// None of the usual causes shows.
    Unknown {
        /// The value in the spec.
        lr0: f64,
    },
}

/// The learning rate above which training mostly diverges.
const fn high_lr(optimizer: Optimizer) -> f64 {
    match optimizer {
        Optimizer::Sgd | Optimizer::Auto => 0.1,
        Optimizer::AdamW => 0.01,
    }
}

impl Cause {
    /// What speaks for which cause; `rows` are those of the epochs so far. `spec`: with its optimiser chosen.
    pub fn find(spec: &TrainSpec, half: bool, rows: &[Row]) -> Self {
        let lr0 = spec.lr0;
        if half {
            Self::HalfPrecision
        } else if lr0 * spec.weight_decay >= 1.0 {
            Self::WeightDecay { weight_decay: spec.weight_decay }
        } else if lr0 > high_lr(spec.optimizer) || is_growing(rows) {
            Self::LearningRate { lr0, growing: is_growing(rows) }
        } else {
            Self::Unknown { lr0 }
        }
    }

    /// The field of the spec to look at.
    pub const fn field(self) -> &'static str {
        match self {
            Self::HalfPrecision => "amp",
            Self::LearningRate { .. } | Self::Unknown { .. } => "lr0",
            Self::WeightDecay { .. } => "weight_decay",
        }
    }
}

/// Whether the newest epoch's training loss is twice the best one's.
fn is_growing(rows: &[Row]) -> bool {
    let total = |row: &Row| {
        ["train/box_loss", "train/cls_loss", "train/dfl_loss"]
            .map(|name| row.metrics.get(name))
            .into_iter()
            .flatten()
            .sum::<f64>()
    };
    let best = rows.iter().map(total).fold(f64::INFINITY, f64::min);
    rows.last().is_some_and(|row| total(row) > 2.0 * best)
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HalfPrecision => f.write_str("most likely a value did not fit in 16 bits"),
            Self::LearningRate { lr0, growing } => {
                let seen = if *growing { ": the loss was growing before" } else { "" };
                write!(
                    f,
                    "most likely the learning rate is too high{seen}; lower `lr0` (it is {lr0}; 0.01 suits SGD, 0.001 AdamW)"
                )
            }
            Self::WeightDecay { weight_decay } => write!(
                f,
                "`weight_decay` ({weight_decay}) times `lr0` is above 1, so that each step makes weights larger; lower one of them"
            ),
            Self::Unknown { lr0 } => write!(
                f,
                "lower `lr0` (it is {lr0}), or look for odd images and labels by `trainyard-trainer check`"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use trainyard_types::ModelScale;

    use super::*;

    fn found(detector: &DivergenceDetector) -> Divergence {
        let counts = Vec::<f64>::try_from(detector.counts().to_kind(Kind::Double)).unwrap();
        DivergenceDetector::found([counts[0], counts[1], counts[2]])
    }

    /// Since when losses are no numbers, after batches from number 101 on of which these have none.
    fn broken_since(forgiven: u64, broken: &[bool]) -> Option<u64> {
        let mut detector = DivergenceDetector::new(Device::Cpu, 100, forgiven);
        for (broken, batch) in broken.iter().zip(101..) {
            detector.record_finite(&Tensor::from(!broken), batch);
        }
        found(&detector).not_finite_since
    }

    #[test]
    fn the_first_broken_batch_is_named_however_late_one_looks() {
        assert_eq!(broken_since(0, &[false; 3]), None);
        assert_eq!(broken_since(0, &[false, false, true, true, true, false, true]), Some(103));
        assert_eq!(broken_since(0, &[true]), Some(101));
    }

    #[test]
    fn broken_batches_are_forgiven_unless_there_are_too_many_in_a_row() {
        assert_eq!(broken_since(2, &[true, true, false, true, false, true, true]), None);
        assert_eq!(broken_since(2, &[false, true, true, true, true, false, false]), Some(102));
    }

    #[test]
    fn a_collapse_is_three_batches_with_objects_and_no_loss_in_a_row() {
        let mut detector = DivergenceDetector::new(Device::Cpu, 10, 0);
        let losses = |boxes: f32, classes: f32| Tensor::from_slice(&[boxes, classes, 0.0]);
        let (alive, dead) = (losses(0.0, 0.02), losses(1e-9, 0.0));
        let seen = [(&alive, 1), (&dead, 2), (&dead, 1), (&alive, 1), (&dead, 1), (&alive, 0), (&dead, 3)];
        for ((losses, objects), step) in seen.into_iter().zip(11..) {
            detector.record_losses(losses, objects, step);
            assert_eq!(found(&detector).collapsed_since, None, "{step}");
        }
        detector.record_losses(&dead, 1, 18);
        assert_eq!(found(&detector).collapsed_since, Some(15));
    }

    #[test]
    fn a_validation_is_dead_without_boxes_and_with_scores_of_nothing_or_beyond_measure() {
        let found = [[0.0; 3], [1e-11, 0.0, 0.0], [0.0, 5e14, 0.0]].map(is_dead);
        assert_eq!(found, [true; 3]);
        // Tiny objects that no box covers yet; an early spike.
        let found =
            [[0.0, 0.02, 0.0], [0.0, 4000.0, 0.0], [5.6, 2.8e8, 1.7e6], [1.0, 1e-9, 0.5]].map(is_dead);
        assert_eq!(found, [false; 4]);
    }

    #[test]
    fn the_cause_is_what_is_conspicuous() {
        let spec = TrainSpec::new(ModelScale::N, "/d.yaml");
        let row = |loss: f64| {
            let metrics = BTreeMap::from([("train/box_loss".to_owned(), loss)]);
            Row { seconds: 0.0, metrics }
        };
        let find = |lr0: f64, weight_decay: f64, losses: &[f64]| {
            let rows: Vec<Row> = losses.iter().map(|loss| row(*loss)).collect();
            Cause::find(&TrainSpec { lr0, weight_decay, ..spec.clone() }, false, &rows)
        };
        assert_eq!(Cause::find(&spec, true, &[]), Cause::HalfPrecision);
        assert_eq!(find(0.01, 0.0005, &[3.0, 2.0]), Cause::Unknown { lr0: 0.01 });
        assert_eq!(find(0.01, 0.0005, &[3.0, 7.0]), Cause::LearningRate { lr0: 0.01, growing: true });
        assert_eq!(find(2.0, 0.0005, &[]), Cause::LearningRate { lr0: 2.0, growing: false });
        assert_eq!(find(10.0, 0.5, &[]), Cause::WeightDecay { weight_decay: 0.5 });
        let adam = TrainSpec { optimizer: Optimizer::AdamW, lr0: 0.05, ..spec };
        assert_eq!(Cause::find(&adam, false, &[]), Cause::LearningRate { lr0: 0.05, growing: false });
    }
}
