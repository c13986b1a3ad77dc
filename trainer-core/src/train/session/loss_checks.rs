//! Losses of a session: how they come to the host, and that they are numbers and have not collapsed to nothing.

use super::Session;
use crate::checkpoint::Row;
use crate::libtorch::{Precision, rethrow};
use crate::report::results_csv::METRICS;
use crate::train::error::TrainError;
use crate::train::monitoring::divergence::{Cause, LEAST_SCALE, is_dead};
use crate::train::monitoring::loss_reading::{LossReading, Losses};
use crate::train::validate::ValidationResult;

impl Session<'_> {
    /// Begins to bring the losses of the epoch so far to the host, for the report of a step soon after: by then they are
    /// there. Not on a CPU, which need not be waited for.
    pub(in crate::train) fn read_losses_ahead(&mut self) {
        if self.reading.is_none() && self.setup.options.device.is_cuda() {
            self.reading = Some(self.begin_reading());
        }
    }

    /// The epoch's mean losses when they were read ahead, or else so far: box, class, distribution. Waits for the device
    /// in the latter case.
    ///
    /// # Errors
    /// As [`Session::current_losses`].
    pub(in crate::train) fn recent_mean_losses(&mut self) -> Result<[f64; 3], TrainError> {
        let reading = self.reading.take().unwrap_or_else(|| self.begin_reading());
        Ok(self.finish_reading(reading)?.means())
    }

    /// The epoch's losses so far. Waits for the device.
    ///
    /// # Errors
    /// They are not finite, or batches with objects have had no loss.
    pub(in crate::train) fn current_losses(&self) -> Result<Losses, TrainError> {
        self.finish_reading(self.begin_reading())
    }

    fn begin_reading(&self) -> LossReading {
        LossReading::begin(&self.state, &self.divergence, self.progress.images_done)
            .unwrap_or_else(|error| rethrow(&error))
    }

    fn finish_reading(&self, reading: LossReading) -> Result<Losses, TrainError> {
        let losses = reading.finish().unwrap_or_else(|error| rethrow(&error));
        let divergence = losses.divergence;
        if let Some(batch) = divergence.not_finite_since {
            return Err(self.not_finite(batch));
        }
        if losses.scale < LEAST_SCALE {
            return Err(self.not_finite(self.progress.batches));
        }
        self.check_finite(losses.sums)?;
        match divergence.collapsed_since {
            Some(batch) => Err(self.collapsed(batch)),
            None => Ok(losses),
        }
    }

    /// # Errors
    /// One of `losses` is not finite.
    pub(in crate::train) fn check_finite(&self, losses: [f64; 3]) -> Result<(), TrainError> {
        if losses.iter().all(|loss| loss.is_finite()) {
            Ok(())
        } else {
            Err(self.not_finite(self.progress.batches))
        }
    }

    fn not_finite(&self, batch: u64) -> TrainError {
        let progress = &self.progress;
        let half = self.state.precision() == Precision::Fp16;
        let cause = Cause::find(&self.setup.resolved, half, &progress.rows);
        TrainError::NotFinite { batch, epoch: progress.epoch + 1, cause }
    }

    fn collapsed(&self, batch: u64) -> TrainError {
        let progress = &self.progress;
        let cause = Cause::find(&self.setup.resolved, false, &progress.rows);
        TrainError::Collapsed { batch, epoch: progress.epoch + 1, cause }
    }

    /// Refuses to go on with a model that a validation has shown to be dead: for the second time, as one may
    /// recover from too large a step, or at the end of all epochs.
    ///
    /// # Errors
    /// [`TrainError::Collapsed`].
    pub(in crate::train) fn check_alive(&self, found: &ValidationResult) -> Result<(), TrainError> {
        let progress = &self.progress;
        let was_dead = |row: &Row| {
            let loss = |at: usize| row.metrics.get(METRICS[at]).copied().unwrap_or(f64::NAN);
            is_dead([loss(7), loss(8), loss(9)])
        };
        let last = progress.epoch + 1 >= self.epochs();
        if found.metrics.instances > 0
            && is_dead(found.losses)
            && (last || progress.rows.last().is_some_and(was_dead))
        {
            return Err(self.collapsed(progress.batches));
        }
        Ok(())
    }
}
