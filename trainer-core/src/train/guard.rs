//! Notices that the loss is no longer a number, and says since when and most likely why.
//!
//! Each batch costs a few small operations on the device, and no wait for it: what they found is read when
//! the losses are read anyway, once a second, before a checkpoint, and at an epoch's end.

use std::fmt;

use tch::{Device, Kind, Tensor};
use trainyard_types::TrainSpec;

use crate::checkpoint::Row;

/// Counts the batches up to the first one whose loss is not a number.
#[derive(Debug)]
pub struct Guard {
    /// Scalar on the device.
    finite: Tensor,
    first: u64,
}

impl Guard {
    /// Begins after `step` batches.
    pub fn new(device: Device, step: u64) -> Self {
        Self { finite: Tensor::zeros([0; 0], (Kind::Int64, device)), first: step }
    }

    /// Takes note of a batch. `loss_sums`: the epoch's sums with this batch's losses; what is no number
    /// in them stays so.
    pub fn note(&mut self, loss_sums: &Tensor) {
        self.finite += loss_sums.isfinite().all().to_kind(Kind::Int64);
    }

    /// The number, from 1, of the first batch whose loss is no number, if there is one. Waits for the device.
    pub fn broken(&self) -> u64 {
        self.first + u64::try_from(self.finite.int64_value(&[])).unwrap_or(0) + 1
    }
}

/// Why a loss is no longer a number, most likely.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cause {
    /// A value did not fit in 16 bits.
    HalfPrecision,
    /// The rate is far above what works, or the loss grew before.
    LearningRate {
        /// As in the spec.
        lr0: f64,
        /// Whether the loss was seen to grow.
        growing: bool,
    },
    /// Each step makes weights larger than they were.
    WeightDecay {
        /// As in the spec.
        weight_decay: f64,
    },
    /// Nothing is conspicuous.
    Unknown {
        /// As in the spec.
        lr0: f64,
    },
}

/// A learning rate above this seldom ends well, whatever the optimiser.
const HIGH: f64 = 0.1;

impl Cause {
    /// What speaks for which cause; `rows` are those of the epochs so far.
    pub fn find(spec: &TrainSpec, half: bool, rows: &[Row]) -> Self {
        let lr0 = spec.lr0;
        if half {
            Self::HalfPrecision
        } else if lr0 * spec.weight_decay >= 1.0 {
            Self::WeightDecay { weight_decay: spec.weight_decay }
        } else if lr0 > HIGH || is_growing(rows) {
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
                write!(f, "most likely the learning rate is too high{seen}; lower `lr0` (it is {lr0})")
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

    #[test]
    fn the_first_broken_batch_is_named_however_late_one_looks() {
        let mut guard = Guard::new(Device::Cpu, 100);
        let sums = |value: f32| Tensor::from_slice(&[1.0, value, 2.0]);
        guard.note(&sums(1.0));
        guard.note(&sums(2.0));
        assert_eq!(guard.broken(), 103);
        for _ in 0..5 {
            guard.note(&sums(f32::NAN));
        }
        assert_eq!(guard.broken(), 103);
        let mut guard = Guard::new(Device::Cpu, 0);
        guard.note(&sums(f32::INFINITY));
        assert_eq!(guard.broken(), 1);
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
    }
}
