//! After the last epoch: the weights files, a validation of the best weights in detail, and the pictures.

use std::ops::ControlFlow::{self, Break, Continue};

use trainyard_types::trainer::{Activity, LogLevel};

use super::Session;
use crate::activity;
use crate::checkpoint::Row;
use crate::libtorch;
use crate::model::{Layout, Model};
use crate::report::pictures;
use crate::train::error::TrainError;
use crate::train::output::artifacts::{BEST, Sample};
use crate::train::output::console;
use crate::train::validate::{ValidationConfig, ValidationDetails, validate_in_detail};
use crate::weights;

impl Session<'_> {
    /// Completes the run directory. Breaks if it was asked to stop during the validation, which a resume then
    /// does again.
    pub(in crate::train) fn conclude(&mut self) -> Result<ControlFlow<()>, TrainError> {
        self.report_early_end();
        activity::at(Activity::Write);
        for error in self.drawing.finish() {
            self.report_undrawn(Err(error));
        }
        self.context.saver.flush(self.context.events);
        self.context.saver.write_weights(&self.weights_files)?;
        self.tables.complete(&self.progress.rows)?;
        let best = weights::read(&self.setup.options.run_dir.join(BEST))?;
        let model = Model::from_tensors(&best.tensors, Layout::default(), self.setup.options.device)?;
        let loader = self.setup.val_loader(self.progress.batch_size);
        let config = ValidationConfig { show: console::validating(self.context.events), ..self.validation() };
        let details = validate_in_detail(&model, &loader, &config, self.context.stop)?;
        self.report_smaller_validation();
        let Some(details) = details else { return Ok(Break(())) };
        activity::at(Activity::Write);
        let drawn = libtorch::catch_on(self.setup.options.device, || self.draw_results(&model, &details));
        self.report_undrawn(drawn.map_err(TrainError::from).flatten());
        console::finished(&self.progress, &details, self.setup, self.context.events);
        Ok(Continue(()))
    }

    /// Says why there are fewer epochs than the spec has.
    fn report_early_end(&mut self) {
        let spec = self.setup.spec();
        let message = if self.is_out_of_time() {
            format!("the time of {} hours is over", spec.time)
        } else if self.progress.epoch < self.epochs() {
            let epoch = self.progress.best.as_ref().map_or(0, |best| best.epoch);
            format!("no better epoch than {epoch} for {} epochs: stopped early", spec.patience)
        } else {
            return;
        };
        self.context.events.log(LogLevel::Info, message);
    }

    /// A picture that cannot be drawn is no reason to stop.
    pub(super) fn report_undrawn(&mut self, drawn: Result<(), TrainError>) {
        if let Err(error) = drawn {
            self.context.events.log(LogLevel::Warning, format!("a picture is missing: {error}"));
        }
    }

    fn draw_results(&self, model: &Model, details: &ValidationDetails) -> Result<(), TrainError> {
        let run_dir = &self.setup.options.run_dir;
        let column = |name: &str| {
            let value = |row: &Row| row.metrics.get(name).copied().unwrap_or(f64::NAN);
            self.progress.rows.iter().map(value).collect()
        };
        pictures::write_results(run_dir, column).map_err(TrainError::io(run_dir))?;
        let ValidationDetails { evaluator, confusion, .. } = details;
        pictures::write_validation(run_dir, &self.setup.names, evaluator, confusion)
            .map_err(TrainError::io(run_dir))?;
        Sample::of(self.setup, model).try_for_each(|sample| sample?.write(run_dir, &self.setup.names))
    }
}
