//! What follows when a GPU's memory runs out: which batch size a training goes on with, and in which process.

use trainyard_types::batch_ladder::next_smaller;
use trainyard_types::fit::Shortage;
use trainyard_types::trainer::{BatchSizeChanged, Phase, TrainerEvent};

use super::PhaseTracker;
use crate::events::Events;
use crate::libtorch::{self, MemoryStats, TorchError};
use crate::train::error::TrainError;
use crate::train::precision::GivenUp;
use crate::train::setup::Setup;

/// Whoever holds more of a GPU than one part of so many is named where memory runs out.
const OTHERS_PART: u64 = 4;

/// How a training goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// With batches of so many images; as many as before where fewer may not be, and these have fitted.
    InProcess(u32),
    /// In another process, with so many: batches that had fitted have failed twice in this one.
    NewProcess(u32),
    /// Not at all: no batch size fits.
    GiveUp,
}

/// The OOM retries of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct OomRetry {
    /// The smallest batch there may be, `bn_group`; 0 allows any.
    smallest: u32,
    /// Failures of batches that had fitted.
    repeated_failures: u32,
}

impl OomRetry {
    /// `bn_group`: as in the spec; smaller batches may not be.
    pub const fn new(bn_group: u32) -> Self {
        Self { smallest: bn_group, repeated_failures: 0 }
    }

    /// Memory ran out with batches of `batch_size`; `fitted`: some of that size were trained in this session.
    pub fn after(&mut self, batch_size: u32, fitted: bool) -> Retry {
        self.repeated_failures += u32::from(fitted);
        let smaller = next_smaller(batch_size).filter(|&size| size >= self.smallest);
        match smaller {
            _ if self.repeated_failures >= 2 => Retry::NewProcess(smaller.unwrap_or(batch_size)),
            Some(size) => Retry::InProcess(size),
            // It is not the size, then: another process's memory, or fragments that are too small to be used.
            None if fitted => Retry::InProcess(batch_size),
            None if self.repeated_failures > 0 => Retry::NewProcess(batch_size),
            None => Retry::GiveUp,
        }
    }

    /// The batch size to go on with after memory ran out with `from`, which the user is told.
    ///
    /// # Errors
    /// None fits, or no longer in this process.
    pub fn next_batch_size(
        &mut self,
        from: u32,
        error: TorchError,
        setup: &Setup,
        tracker: &PhaseTracker,
        events: &mut Events,
    ) -> Result<u32, TrainError> {
        let phase = tracker.phase();
        let next = self.after(from, tracker.steps() > 0);
        let to = match next {
            Retry::InProcess(to) | Retry::NewProcess(to) => to,
            Retry::GiveUp => return Err(too_small(setup, from, error)),
        };
        let message = message(from, to, phase, setup.options.checkpoints().exists(), &error);
        events.print(&format!("warning: {message}"));
        events.emit(TrainerEvent::BatchSize(BatchSizeChanged { from, to, message, phase }));
        match next {
            Retry::NewProcess(_) => Err(TrainError::OutOfMemoryAgain { error, doing: doing(phase) }),
            Retry::InProcess(_) | Retry::GiveUp => Ok(to),
        }
    }
}

/// Why batches of `from` images, the smallest that may be, do not fit, and what would.
fn too_small(setup: &Setup, from: u32, error: TorchError) -> TrainError {
    let spec = setup.spec();
    let bn_group = spec.bn_group;
    if let Some(batch_size) = next_smaller(from).filter(|&size| size < bn_group) {
        return TrainError::BnGroup { bn_group, batch_size };
    }
    let stats = libtorch::memory_stats(setup.options.device);
    let shortage = Shortage {
        model: spec.model,
        imgsz: spec.imgsz,
        multi_scale: spec.multi_scale,
        single: setup.candidates(GivenUp::default()).is_empty(),
        available_mib: stats.map(|stats| (stats.free_bytes + stats.reserved_bytes) >> 20),
    };
    let held = stats.and_then(|stats| held_by_others(&stats)).unwrap_or_default();
    TrainError::OutOfMemory { error, advice: shortage.advice() + &held }
}

/// What a user should know first where it is not the GPU that is small.
fn held_by_others(stats: &MemoryStats) -> Option<String> {
    let others = stats.total_bytes.saturating_sub(stats.free_bytes + stats.reserved_bytes);
    let gib = |bytes: u64| (bytes >> 20) as f64 / 1024.0;
    (others > stats.total_bytes / OTHERS_PART).then(|| {
        format!(
            "; other programs and the driver hold {:.1} of this GPU's {:.1} GiB, which `nvidia-smi` lists",
            gib(others),
            gib(stats.total_bytes)
        )
    })
}

/// What a training does in `phase`, after "while".
const fn doing(phase: Phase) -> &'static str {
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

/// A sentence on what follows `error`.
fn message(from: u32, to: u32, phase: Phase, resumed: bool, error: &TorchError) -> String {
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
        let mut oom_retry = OomRetry::default();
        let found: Vec<Retry> = [4, 3, 2, 1].map(|size| oom_retry.after(size, false)).into();
        assert_eq!(found, [Retry::InProcess(3), Retry::InProcess(2), Retry::InProcess(1), Retry::GiveUp]);
    }

    #[test]
    fn what_fitted_and_fails_twice_needs_a_new_process() {
        let mut oom_retry = OomRetry::default();
        assert_eq!(oom_retry.after(16, true), Retry::InProcess(12));
        assert_eq!(oom_retry.after(12, false), Retry::InProcess(8));
        assert_eq!(oom_retry.after(8, true), Retry::NewProcess(6));
        let mut oom_retry = OomRetry::default();
        assert_eq!(oom_retry.after(2, true), Retry::InProcess(1));
        assert_eq!(oom_retry.after(1, false), Retry::NewProcess(1), "larger ones fitted before");
        let mut oom_retry = OomRetry::default();
        assert_eq!(
            (oom_retry.after(1, true), oom_retry.after(1, true)),
            (Retry::InProcess(1), Retry::NewProcess(1))
        );
    }

    #[test]
    fn with_bn_group_batches_that_fitted_are_tried_once_more() {
        assert_eq!(OomRetry::new(4).after(4, false), Retry::GiveUp);
        let mut oom_retry = OomRetry::new(4);
        assert_eq!(
            (oom_retry.after(4, true), oom_retry.after(4, true)),
            (Retry::InProcess(4), Retry::NewProcess(4))
        );
    }
}
