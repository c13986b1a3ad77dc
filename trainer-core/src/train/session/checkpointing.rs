//! When and of what a session makes checkpoints: of where it stands, and after memory ran out of where it stood.

use tch::Tensor;
use trainyard_types::trainer::{LogLevel, Phase};

use super::Session;
use crate::checkpoint::Progress;
use crate::libtorch::{self, rethrow};
use crate::optim::Scaler;
use crate::train::bn_state::BnState;
use crate::train::error::TrainError;
use crate::train::output::saver::Snapshot;
use crate::train::resume;
use crate::train::state::TrainState;

/// What forward and backward passes change before the next optimiser step, as it was after the last one.
#[derive(Debug)]
pub struct StepState {
    bn_state: BnState,
    loss_sums: Tensor,
    batches: u64,
    batches_done: u64,
    images_done: u64,
}

impl StepState {
    /// Copies what is there right after an optimiser step. Nothing waits for the device.
    pub fn save(state: &TrainState, progress: &Progress) -> Self {
        Self {
            bn_state: BnState::save(&state.model),
            loss_sums: state.loss_sums.copy(),
            batches: progress.batches,
            batches_done: progress.batches_done,
            images_done: progress.images_done,
        }
    }

    /// Goes back there, before the next optimiser step is begun.
    fn restore(&self, state: &mut TrainState, progress: &mut Progress) {
        self.bn_state.restore(&state.model);
        state.loss_sums.copy_(&self.loss_sums);
        state.zero_grad();
        progress.batches = self.batches;
        progress.batches_done = self.batches_done;
        progress.images_done = self.images_done;
    }
}

impl Session<'_> {
    /// Hands over a checkpoint of where training stands, unless the newest one is of there.
    pub(in crate::train) fn checkpoint(&mut self) -> Result<(), TrainError> {
        if self.context.saver.is_durable(self.progress.batches, self.progress.epoch) {
            return Ok(());
        }
        self.progress.seconds = self.seconds();
        let snapshot = match libtorch::catch_on(self.setup.options.device, || self.snapshot()) {
            Ok(snapshot) => snapshot?,
            Err(error) if error.is_out_of_memory() => {
                // Nothing is lost yet, and much of the memory is only kept for the next step.
                libtorch::memory::release(self.setup.options.device)?;
                let snapshot = self.snapshot()?;
                let message = format!(
                    "the GPU's memory ran out making a checkpoint; it was made after unused memory was given \
                     back, and training goes on as before ({error})"
                );
                self.report_same_batch_size(Phase::Checkpoint, message);
                snapshot
            }
            Err(error) => rethrow(&error),
        };
        self.context.saver.submit(snapshot, self.context.events);
        Ok(())
    }

    /// Copies where training stands to the host.
    fn snapshot(&mut self) -> Result<Snapshot, TrainError> {
        self.context.tracker.enter(Phase::Checkpoint, self.progress.batch_size as usize);
        let progress = &mut self.progress;
        progress.updates = self.state.updates;
        progress.images_accumulated = self.state.accumulated.images;
        progress.scores_accumulated = self.state.accumulated.scores.double_value(&[]);
        progress.ema_updates = self.state.ema.updates;
        progress.scaler = self.state.scaler.as_ref().map(Scaler::state);
        self.progress.loss_sums = self.current_losses()?.sums;
        Ok(resume::snapshot(&self.state, &self.progress, &self.weights_files))
    }

    /// After memory ran out in the middle of an optimiser step: goes back to the end of the one before, and
    /// hands over a checkpoint of there; in a validation, one of where training stands. Where that is not
    /// possible the newest one must do.
    pub(in crate::train) fn checkpoint_after_oom(&mut self) {
        let phase = self.context.tracker.phase();
        let last_step = self.last_step.take();
        match phase {
            Phase::Copy | Phase::Forward | Phase::Loss | Phase::Backward if last_step.is_some() => {}
            Phase::Validation => {}
            _ => return,
        }
        let handed_over = libtorch::catch(|| {
            libtorch::memory::release(self.setup.options.device).unwrap_or_else(|error| rethrow(&error));
            if let Some(last_step) = last_step.filter(|_| phase != Phase::Validation) {
                last_step.restore(&mut self.state, &mut self.progress);
            }
            self.checkpoint()
        });
        // What is looked at after this is where memory ran out first.
        self.context.tracker.set_phase(phase);
        let error = match handed_over {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let message = format!("what was learnt since the newest checkpoint is trained again: {error}");
        self.context.events.log(LogLevel::Warning, message);
    }
}
