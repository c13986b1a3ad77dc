//! What is done when a GPU's memory runs out: how a training goes on.

use trainyard_types::oom::next_smaller;
use trainyard_types::trainer::Phase;

use crate::libtorch::TorchError;

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
    format!("batch {from} does not fit in the GPU's memory ({doing}); going on {on} from {place} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
