//! What a training does now, as far as it takes memory: so that, when memory runs out, it is known where. For
//! tests, it runs out where they say.

use std::cell::{Cell, RefCell};

use trainyard_types::oom::next_smaller;
use trainyard_types::trainer::Phase;

use crate::libtorch::{self, Precision, TorchError};

/// Follows one training, however many sessions it takes.
#[derive(Debug, Default)]
pub struct Watch {
    phase: Cell<Phase>,
    epoch: Cell<u32>,
    /// Optimiser steps of this session.
    steps: Cell<u64>,
    /// Images that validation may look at at once, if it is less than a batch has.
    at_once: Cell<Option<usize>>,
    /// What it was before and is now, until it is told.
    untold: Cell<Option<(usize, usize)>>,
    faults: RefCell<Vec<TestOom>>,
    /// Batches in 16 bits until one does not fit in them, counting it; 0: all fit.
    overflow: Cell<u64>,
}

impl Watch {
    /// With the faults that a test wants, as the environment says.
    pub fn from_env() -> Self {
        let text = std::env::var("TRAINYARD_TEST_OOM_AT_BATCH").unwrap_or_default();
        Self::with_faults(&text)
    }

    /// With these faults, between commas. `16` fails every batch of 16 images or more, and `16@2` does so from
    /// epoch 2. `16@backward` fails in the backward pass (or in any other [`Phase`]), `16@backward:5` from the
    /// fifth such on, and `16@backward:5!` only there. `overflow:5`: the values of the fifth batch do not fit in 16
    /// bits. What is none of these is left out.
    pub fn with_faults(text: &str) -> Self {
        let parts = || text.split(',');
        let overflow = parts().find_map(|part| part.trim().strip_prefix("overflow:")?.parse().ok());
        let faults = parts().filter_map(TestOom::parse).collect();
        Self { faults: RefCell::new(faults), overflow: Cell::new(overflow.unwrap_or(0)), ..Self::default() }
    }

    /// A session begins.
    pub fn session_begins(&self) {
        self.steps.set(0);
        self.phase.set(Phase::Start);
    }

    /// An epoch begins, from 1.
    pub fn epoch_begins(&self, epoch: u32) {
        self.epoch.set(epoch);
    }

    /// From now on it does this, with so many images at once.
    pub fn enter(&self, phase: Phase, images: usize) {
        self.phase.set(phase);
        for fault in self.faults.borrow_mut().iter_mut() {
            fault.check(phase, images, self.epoch.get());
        }
    }

    /// [`Watch::enter`], with what hardly takes memory: no test wants it to run out there.
    pub fn stay_at(&self, phase: Phase) {
        self.phase.set(phase);
    }

    /// What it does now.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// An optimiser step is done.
    pub fn stepped(&self) {
        self.steps.set(self.steps.get() + 1);
    }

    /// Optimiser steps of this session.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Whether the values of the batch that begins are, for a test, too large for `precision`.
    pub fn overflows(&self, precision: Precision) -> bool {
        let left = self.overflow.get();
        if left == 0 || precision == Precision::Single {
            return false;
        }
        self.overflow.set(left - 1);
        left == 1
    }

    /// How many of a validation's `images` may be looked at at once.
    pub fn at_once(&self, images: usize) -> usize {
        self.at_once.get().map_or(images, |most| most.min(images)).max(1)
    }

    /// So many images at once were too many. `None` below one image.
    pub fn fewer_than(&self, images: usize) -> Option<usize> {
        let smaller = next_smaller(u32::try_from(images).unwrap_or(u32::MAX))?;
        let smaller = usize::try_from(smaller).unwrap_or(1);
        self.at_once.set(Some(smaller));
        let from = self.untold.get().map_or(images, |(from, _)| from);
        self.untold.set(Some((from, smaller)));
        Some(smaller)
    }

    /// How many images validation looked at at once before, and looks at now, if that has changed since the last
    /// call.
    pub fn take_untold(&self) -> Option<(usize, usize)> {
        self.untold.take()
    }
}

/// Memory that runs out, for tests on machines without a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TestOom {
    /// Batches of so many images or more.
    images: usize,
    /// Where; `None`: wherever a batch goes forward.
    phase: Option<Phase>,
    /// From this epoch on.
    epoch: u32,
    /// From so many such places on, counted from 1.
    from: u32,
    /// Only then.
    once: bool,
    /// Such places so far.
    seen: u32,
}

impl TestOom {
    /// As [`Watch::with_faults`] says.
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

    /// Panics as tch does when libtorch throws, if this is where memory runs out.
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
            let message = "CUDA out of memory. Tried to allocate 2.00 GiB. (a test says so)".to_owned();
            libtorch::rethrow(&TorchError { message });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::catch;

    /// Whether memory runs out.
    fn fails(watch: &Watch, phase: Phase, images: usize) -> bool {
        let result = catch(|| watch.enter(phase, images));
        assert!(result.as_ref().err().is_none_or(TorchError::is_out_of_memory));
        assert_eq!(watch.phase(), phase);
        result.is_err()
    }

    #[test]
    fn the_test_hook_fails_as_libtorch_does_from_an_epoch_on() {
        let watch = Watch::with_faults("16@2");
        watch.epoch_begins(1);
        assert!(!fails(&watch, Phase::Forward, 64));
        watch.epoch_begins(2);
        assert!(fails(&watch, Phase::Forward, 16) && !fails(&watch, Phase::Forward, 15));
        assert!(!fails(&watch, Phase::Backward, 16));
        assert!(!fails(&Watch::with_faults("no,3@nowhere,@,2@copy:x"), Phase::Copy, 64));
    }

    #[test]
    fn the_test_hook_fails_in_the_phase_that_it_is_told_and_as_often() {
        let watch = Watch::with_faults("4@backward:3,8@validation:2!");
        let backward = [4, 3, 8, 5, 4].map(|images| fails(&watch, Phase::Backward, images));
        assert_eq!(backward, [false, false, false, true, true]);
        let validation = [8, 8, 8].map(|images| fails(&watch, Phase::Validation, images));
        assert_eq!(validation, [false, true, false]);
        assert!(!fails(&watch, Phase::Forward, 64));
    }

    #[test]
    fn validation_looks_at_fewer_images_at_once_down_to_one() {
        let watch = Watch::default();
        assert_eq!((watch.at_once(128), watch.fewer_than(128), watch.at_once(128)), (128, Some(64), 64));
        assert_eq!((watch.at_once(5), watch.fewer_than(5), watch.at_once(5)), (5, Some(4), 4));
        assert_eq!((watch.fewer_than(1), watch.at_once(5)), (None, 4));
        assert_eq!((watch.take_untold(), watch.take_untold()), (Some((128, 4)), None));
    }
}
