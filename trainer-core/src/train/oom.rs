//! What is done when a card's memory runs out: how a training goes on, and when it cannot, what would fit.

use trainyard_types::fit::{Estimate, estimate};
use trainyard_types::trainer::Phase;
use trainyard_types::{ModelScale, TrainSpec};

use crate::libtorch::TorchError;

/// Batch sizes that are tried, one after the other.
const LADDER: [u32; 12] = [64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1];

/// The batch size after `current`, or `None` below 1.
pub fn next_smaller(current: u32) -> Option<u32> {
    LADDER.into_iter().find(|&size| size < current)
}

/// How to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// With batches of so many images; as many as before where fewer may not be, and these have fitted.
    With(u32),
    /// In another process, with so many: what fitted before has failed twice in this one.
    Elsewhere(u32),
    /// Not at all: not even this fits.
    Nowhere,
}

/// The way down from batch to batch, with what was seen on it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ladder {
    /// The smallest batch there may be, but 0 is any: `bn_group`.
    least: u32,
    /// Failures of batches that had fitted.
    relapses: u32,
}

impl Ladder {
    /// `bn_group`: as in the spec; smaller batches may not be.
    pub const fn new(bn_group: u32) -> Self {
        Self { least: bn_group, relapses: 0 }
    }

    /// Memory ran out with batches of `batch_size`; `fitted`: some of that size were trained in this session.
    pub fn after(&mut self, batch_size: u32, fitted: bool) -> Next {
        self.relapses += u32::from(fitted);
        let smaller = next_smaller(batch_size).filter(|&size| size >= self.least);
        match smaller {
            _ if self.relapses >= 2 => Next::Elsewhere(smaller.unwrap_or(batch_size)),
            Some(size) => Next::With(size),
            // It is not the size, then: somebody else's memory, or pieces that are too small to be used.
            None if fitted => Next::With(batch_size),
            None if self.relapses > 0 => Next::Elsewhere(batch_size),
            None => Next::Nowhere,
        }
    }
}

/// What a training does in `phase`, after "while".
pub const fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Start => "building the model",
        Phase::Measurement => "measuring before the first step",
        Phase::Copy => "copying a batch to the device",
        Phase::Forward => "in a forward pass",
        Phase::Loss => "computing the loss",
        Phase::Backward => "in a backward pass",
        Phase::Optimizer => "in an optimiser step",
        Phase::Validation => "validating",
        Phase::Checkpoint => "making a checkpoint",
    }
}

/// A sentence on what is done about `error`.
pub fn message(from: u32, to: u32, phase: Phase, resumed: bool, error: &TorchError) -> String {
    let place = if resumed { "the newest checkpoint" } else { "the start" };
    let doing = doing(phase);
    let on = if to == from { format!("once more with {to}") } else { format!("with {to}") };
    format!("batch {from} does not fit in the card's memory ({doing}); going on {on} from {place} ({error})")
}

/// Usual sizes of cards, in GiB.
const CARDS: [u64; 12] = [4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 80, 141];
/// At least so much more than what was too little is needed.
const AT_LEAST: f64 = 1.1;
/// Share of a card that a run can have; the rest is the driver's, and small pieces.
const USABLE: f64 = 0.9;

/// What would fit where one image at a time does not, as the end of a sentence.
///
/// `available_mib`: what the run could have had, if the device tells; `single`: it computes in 32 bits.
pub fn advice(spec: &TrainSpec, available_mib: Option<u64>, single: bool) -> String {
    let needed = |model, imgsz: u32| {
        let Estimate { fixed_mib, per_image_mib } = estimate(model, single);
        let side = f64::from(if spec.multi_scale { imgsz + imgsz / 2 } else { imgsz });
        fixed_mib + per_image_mib * side * side / (640.0 * 640.0)
    };
    let here = needed(spec.model, spec.imgsz);
    #[expect(clippy::cast_precision_loss, reason = "MiB of a card are far below 2^52")]
    let available = available_mib.map(|mib| mib as f64);
    // Estimates are too low where they say that it fits.
    let factor = available.map_or(1.0, |available| (available * AT_LEAST / here).max(1.0));
    let fits = |model, imgsz| match available {
        Some(available) => needed(model, imgsz) * factor <= available,
        None => needed(model, imgsz) <= here / 2.0,
    };
    let mut ways = Vec::new();
    let sides = (1..spec.imgsz.div_ceil(32)).rev().map(|side| side * 32);
    if let Some(imgsz) = sides.filter(|&side| side >= 64).find(|&side| fits(spec.model, side)) {
        ways.push(format!("`imgsz` {imgsz} instead of {}", spec.imgsz));
    }
    let smaller = ModelScale::ALL.into_iter().rev().filter(|&model| model < spec.model);
    if let Some(model) = smaller.into_iter().find(|&model| fits(model, spec.imgsz)) {
        ways.push(format!("{model} instead of {}", spec.model));
    }
    let gib = here * factor / 1024.0;
    #[expect(clippy::cast_precision_loss, reason = "at most some hundreds")]
    let card = CARDS.into_iter().find(|&card| card as f64 * USABLE >= gib);
    if let Some(card) = card {
        ways.push(format!("a card with {card} GB"));
    }
    let ways =
        if ways.is_empty() { "a smaller `imgsz` and a smaller model".to_owned() } else { ways.join(", or ") };
    let had = available.map_or(String::new(), |mib| format!(", and {:.1} GiB are there", mib / 1024.0));
    format!("about {gib:.1} GiB are needed{had}; what would fit: {ways}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_steps_down_to_one_and_then_ends() {
        assert_eq!([65, 64, 20, 2, 1].map(next_smaller), [Some(64), Some(48), Some(16), Some(1), None]);
    }

    #[test]
    fn what_never_fitted_steps_down_to_the_end() {
        let mut ladder = Ladder::default();
        let found: Vec<Next> = [4, 3, 2, 1].map(|size| ladder.after(size, false)).into();
        assert_eq!(found, [Next::With(3), Next::With(2), Next::With(1), Next::Nowhere]);
    }

    #[test]
    fn what_fitted_and_fails_twice_needs_a_new_process() {
        let mut ladder = Ladder::default();
        assert_eq!(ladder.after(16, true), Next::With(12));
        assert_eq!(ladder.after(12, false), Next::With(8));
        assert_eq!(ladder.after(8, true), Next::Elsewhere(6));
        let mut ladder = Ladder::default();
        assert_eq!(ladder.after(2, true), Next::With(1));
        assert_eq!(ladder.after(1, false), Next::Elsewhere(1), "larger ones fitted before");
        let mut ladder = Ladder::default();
        assert_eq!((ladder.after(1, true), ladder.after(1, true)), (Next::With(1), Next::Elsewhere(1)));
    }

    #[test]
    fn with_bn_group_batches_that_fitted_are_tried_once_more() {
        assert_eq!(Ladder::new(4).after(4, false), Next::Nowhere);
        let mut ladder = Ladder::new(4);
        assert_eq!((ladder.after(4, true), ladder.after(4, true)), (Next::With(4), Next::Elsewhere(4)));
    }

    #[test]
    fn the_advice_names_what_fits_into_what_is_there() {
        let spec = TrainSpec { imgsz: 1280, ..TrainSpec::new(ModelScale::X, "/d.yaml") };
        let text = advice(&spec, Some(5000), false);
        assert_eq!(
            text,
            "about 5.4 GiB are needed, and 4.9 GiB are there; what would fit: `imgsz` 1152 instead of 1280, \
             or yolov8l instead of yolov8x, or a card with 6 GB"
        );
        let text = advice(&spec, None, true);
        assert!(text.starts_with("about 8.8 GiB are needed; what would fit: `imgsz` 736 "), "{text}");
        assert!(text.ends_with("yolov8s instead of yolov8x, or a card with 10 GB"), "{text}");
        let spec = TrainSpec { imgsz: 32, ..TrainSpec::new(ModelScale::N, "/d.yaml") };
        let text = advice(&spec, Some(100), false);
        assert!(text.ends_with("what would fit: a card with 4 GB"), "{text}");
    }
}
