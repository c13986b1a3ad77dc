//! Losses of a session that must be numbers, and must not have collapsed to nothing.

use super::Session;
use crate::checkpoint::Row;
use crate::loss::to_host;
use crate::report::results_csv::METRICS;
use crate::train::error::TrainError;
use crate::train::monitoring::divergence::{Cause, is_dead};
use crate::train::validate::ValidationResult;

impl Session<'_> {
    /// The epoch's mean losses so far: box, class, distribution. Waits for the device.
    ///
    /// # Errors
    /// As [`Session::check_finite`].
    pub(in crate::train) fn mean_losses(&self) -> Result<[f64; 3], TrainError> {
        let images = self.progress.images_done.max(1) as f64;
        let losses = to_host(&self.state.loss_sums).map(|sum| sum / images);
        self.check_finite(losses)
    }

    /// Returns `losses`. Waits for the device.
    ///
    /// # Errors
    /// They are not finite, or batches with objects have had no loss.
    pub(in crate::train) fn check_finite(&self, losses: [f64; 3]) -> Result<[f64; 3], TrainError> {
        if losses.iter().all(|loss| loss.is_finite()) {
            return match self.divergence.collapsed_since() {
                Some(batch) => Err(self.collapsed(batch)),
                None => Ok(losses),
            };
        }
        let progress = &self.progress;
        let cause = Cause::find(&self.setup.resolved, self.state.scaler.is_some(), &progress.rows);
        // A validation's losses break no batch's.
        let batch = self.divergence.first_not_finite().min(progress.batches);
        Err(TrainError::NotFinite { batch, epoch: progress.epoch + 1, cause })
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
