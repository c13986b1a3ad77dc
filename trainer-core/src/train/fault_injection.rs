//! Faults for tests on machines without a GPU: memory that runs out, values that do not fit in 16 bits.
//!
//! `TRAINYARD_TEST_OOM_AT_BATCH` names them; without it nothing here does anything.

use std::cell::{Cell, RefCell};

use trainyard_types::trainer::Phase;

use crate::libtorch::{self, Precision, TorchError};

/// The variable that names faults.
const VARIABLE: &str = "TRAINYARD_TEST_OOM_AT_BATCH";
/// The variable that has other words for libtorch to fail with.
const WORDS: &str = "TRAINYARD_TEST_OOM_WORDS";

/// The faults of one training.
#[derive(Debug, Default)]
pub struct Faults {
    oom: RefCell<Vec<OomFault>>,
    /// The batches in 16 bits that do not fit in them, counted from 1.
    overflows: Vec<u64>,
    /// Batches in 16 bits so far.
    half_batches: Cell<u64>,
}

impl Faults {
    /// The faults that the environment names.
    pub fn from_env() -> Self {
        Self::parse(&std::env::var(VARIABLE).unwrap_or_default())
    }

    /// Faults between commas. `16` fails every batch of 16 images or more, and `16@2` does so from
    /// epoch 2. `16@backward` fails in the backward pass (or in any other [`Phase`]), `16@backward:5` from
    /// the fifth such on, and `16@backward:5!` only there. `overflow:5`: the values of the fifth batch in 16 bits do
    /// not fit in them. Other words are left out.
    pub fn parse(text: &str) -> Self {
        let parts = || text.split(',');
        let overflow = |part: &str| part.trim().strip_prefix("overflow:")?.parse().ok();
        let oom = parts().filter_map(OomFault::parse).collect();
        Self {
            oom: RefCell::new(oom),
            overflows: parts().filter_map(overflow).collect(),
            half_batches: Cell::new(0),
        }
    }

    /// Panics as tch does when libtorch throws, if memory is to run out in this phase of a batch.
    pub fn check_memory(&self, phase: Phase, images: usize, epoch: u32) {
        for fault in self.oom.borrow_mut().iter_mut() {
            fault.check(phase, images, epoch);
        }
    }

    /// Whether the values of the batch that begins are to be too large for `precision`.
    pub fn overflows(&self, precision: Precision) -> bool {
        if precision == Precision::Fp32 {
            return false;
        }
        self.half_batches.set(self.half_batches.get() + 1);
        self.overflows.contains(&self.half_batches.get())
    }
}

/// Memory that runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OomFault {
    /// Fails batches of so many images or more.
    images: usize,
    /// The phase that fails; `None`: wherever a batch goes forward.
    phase: Option<Phase>,
    /// The first epoch that fails.
    epoch: u32,
    /// The first time that the phase fails, counted from 1.
    from: u32,
    /// Whether it fails only that time.
    once: bool,
    /// How often the phase was entered so far.
    seen: u32,
}

impl OomFault {
    /// See [`Faults::parse`].
    fn parse(text: &str) -> Option<Self> {
        let (images, place) = text.trim().split_once('@').unwrap_or((text.trim(), "0"));
        let every =
            Self { images: images.parse().ok()?, phase: None, epoch: 0, from: 1, once: false, seen: 0 };
        if let Ok(epoch) = place.parse() {
            return Some(Self { epoch, ..every });
        }
        let (phase, count) = place.split_once(':').unwrap_or((place, "1"));
        let (from, once) = count.strip_suffix('!').map_or((count, false), |from| (from, true));
        Some(Self { phase: Some(Phase::parse(phase)?), from: from.parse().ok()?, once, ..every })
    }

    fn check(&mut self, phase: Phase, images: usize, epoch: u32) {
        let there = match self.phase {
            Some(wanted) => phase == wanted,
            None => matches!(phase, Phase::Forward | Phase::Measurement),
        };
        if !there || images < self.images || epoch < self.epoch {
            return;
        }
        self.seen += 1;
        if self.seen == self.from || (self.seen > self.from && !self.once) {
            let usual = || "CUDA out of memory. Tried to allocate 2.00 GiB. (a test says so)".to_owned();
            let message = std::env::var(WORDS).ok().filter(|words| !words.is_empty()).unwrap_or_else(usual);
            libtorch::rethrow(&TorchError { message });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::catch;
    use crate::train::memory::PhaseTracker;

    /// Whether memory runs out.
    fn fails(tracker: &PhaseTracker, phase: Phase, images: usize) -> bool {
        let result = catch(|| tracker.enter(phase, images));
        assert!(result.as_ref().err().is_none_or(TorchError::is_out_of_memory));
        assert_eq!(tracker.phase(), phase);
        result.is_err()
    }

    #[test]
    fn the_test_hook_fails_as_libtorch_does_from_an_epoch_on() {
        let tracker = PhaseTracker::with_faults("16@2");
        tracker.begin_epoch(1);
        assert!(!fails(&tracker, Phase::Forward, 64));
        tracker.begin_epoch(2);
        assert!(fails(&tracker, Phase::Forward, 16) && !fails(&tracker, Phase::Forward, 15));
        assert!(!fails(&tracker, Phase::Backward, 16));
        assert!(!fails(&PhaseTracker::with_faults("no,3@nowhere,@,2@copy:x"), Phase::Copy, 64));
    }

    #[test]
    fn the_test_hook_fails_in_the_phase_that_it_is_told_and_as_often() {
        let tracker = PhaseTracker::with_faults("4@backward:3,8@validation:2!");
        let backward = [4, 3, 8, 5, 4].map(|images| fails(&tracker, Phase::Backward, images));
        assert_eq!(backward, [false, false, false, true, true]);
        let validation = [8, 8, 8].map(|images| fails(&tracker, Phase::Validation, images));
        assert_eq!(validation, [false, true, false]);
        assert!(!fails(&tracker, Phase::Forward, 64));
    }
}
