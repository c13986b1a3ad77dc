//! Which phase a training is in, so that it is known where memory ran out, and how many images fit in a
//! validation's forward pass.

use std::cell::Cell;

use trainyard_types::batch_ladder::next_smaller;
use trainyard_types::trainer::Phase;

use crate::libtorch::Precision;
use crate::train::fault_injection::Faults;

/// Follows one training, however many sessions it takes.
#[derive(Debug, Default)]
pub struct PhaseTracker {
    phase: Cell<Phase>,
    epoch: Cell<u32>,
    /// Optimiser steps of this session.
    steps: Cell<u64>,
    /// Images that fit in a forward pass of validation, where a whole batch does not.
    validation_limit: Cell<Option<usize>>,
    /// The limit before and after it was lowered, until that is reported.
    unreported: Cell<Option<(usize, usize)>>,
    faults: Faults,
}

impl PhaseTracker {
    /// A tracker with the faults that the environment names.
    pub fn from_env() -> Self {
        Self { faults: Faults::from_env(), ..Self::default() }
    }

    /// A tracker with these faults: see [`Faults::parse`].
    pub fn with_faults(text: &str) -> Self {
        Self { faults: Faults::parse(text), ..Self::default() }
    }

    /// A session begins.
    pub fn begin_session(&self) {
        self.steps.set(0);
        self.phase.set(Phase::Start);
    }

    /// An epoch begins, counted from 1.
    pub fn begin_epoch(&self, epoch: u32) {
        self.epoch.set(epoch);
    }

    /// Enters `phase` with so many images on the device. A fault may end it at once.
    pub fn enter(&self, phase: Phase, images: usize) {
        self.phase.set(phase);
        self.faults.check_memory(phase, images, self.epoch.get());
    }

    /// [`PhaseTracker::enter`], for what hardly takes memory: no fault ends it.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
    }

    /// The phase that was entered last.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Counts an optimiser step.
    pub fn count_step(&self) {
        self.steps.set(self.steps.get() + 1);
    }

    /// Optimiser steps of this session.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// See [`Faults::overflows`].
    pub fn overflows(&self, precision: Precision) -> bool {
        self.faults.overflows(precision)
    }

    /// How many of `images` go through a validation's forward pass at once.
    pub fn validation_images(&self, images: usize) -> usize {
        self.validation_limit.get().map_or(images, |limit| limit.min(images)).max(1)
    }

    /// Lowers that number, as so many images did not fit. Returns the new one; `None` below one image.
    pub fn validate_fewer_than(&self, images: usize) -> Option<usize> {
        let smaller = next_smaller(u32::try_from(images).unwrap_or(u32::MAX))?;
        let smaller = usize::try_from(smaller).unwrap_or(1);
        self.validation_limit.set(Some(smaller));
        let from = self.unreported.get().map_or(images, |(from, _)| from);
        self.unreported.set(Some((from, smaller)));
        Some(smaller)
    }

    /// The number before and now, if it was lowered since the last call.
    pub fn take_lowered_validation(&self) -> Option<(usize, usize)> {
        self.unreported.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validation_looks_at_fewer_images_at_once_down_to_one() {
        let tracker = PhaseTracker::default();
        let (now, fewer) = (|of| tracker.validation_images(of), |than| tracker.validate_fewer_than(than));
        assert_eq!((now(128), fewer(128), now(128)), (128, Some(64), 64));
        assert_eq!((now(5), fewer(5), now(5)), (5, Some(4), 4));
        assert_eq!((fewer(1), now(5)), (None, 4));
        let lowered = || tracker.take_lowered_validation();
        assert_eq!((lowered(), lowered()), (Some((128, 4)), None));
    }
}
