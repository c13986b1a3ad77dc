//! What a session reports to the agent and to a person: its start and its end, steps, epochs, changes.

use std::collections::BTreeMap;

use trainyard_types::trainer::{
    BatchSizeChanged, Finished, LogLevel, MemoryMeasured, Phase, Started, Step, TrainerEvent,
};

use super::Session;
use crate::events::Events;
use crate::libtorch::{self, Precision, device_name};
use crate::report::results_csv::METRICS;
use crate::train::bn_state;
use crate::train::error::TrainError;
use crate::train::monitoring::throughput::Throughput;
use crate::train::output::{artifacts, console};
use crate::train::precision::PrecisionChoice;
use crate::train::setup::Setup;
use crate::train::validate::ValidationResult;

/// Reports what was chosen for the user, and what it costs.
pub(super) fn report_choices(setup: &Setup, batch_size: u32, choice: &PrecisionChoice, events: &mut Events) {
    let (resolved, spec) = (&setup.resolved, setup.spec());
    let single_value = bn_state::single_value_warning(spec, setup.train.len(), batch_size);
    for warning in choice.warnings.iter().cloned().chain(single_value) {
        events.log(LogLevel::Warning, warning);
    }
    if choice.precision != Precision::Fp32 {
        events.log(LogLevel::Info, format!("AMP: layers compute in {}", choice.precision.name()));
    }
    if resolved.optimizer != spec.optimizer {
        let (name, lr0, momentum) = (resolved.optimizer.name(), resolved.lr0, resolved.momentum);
        let message =
            format!("optimizer auto: {name} with lr0 {lr0} and momentum {momentum}; the spec's are not used");
        events.log(LogLevel::Info, message);
    }
}

impl Session<'_> {
    /// Reports what the run begins with. Once a run, whatever its sessions.
    pub fn report_started(&mut self) {
        let (setup, spec) = (self.setup, self.setup.spec());
        let model = &self.state.model;
        let started = Started {
            parameters: model.weights().parameters(),
            train_images: setup.train.len() as u64,
            val_images: setup.val.len() as u64,
            classes: setup.names.clone(),
            epochs: self.epochs(),
            batch_size: self.progress.batch_size,
            first_epoch: (self.progress.epoch + 1).min(self.epochs()),
            device: device_name(setup.options.device),
            precision: self.precision().name().to_owned(),
            libtorch: libtorch::build::build(&Ok(())).version,
            workers: u32::try_from(setup.workers()).unwrap_or(u32::MAX),
            gflops: model.plan().gflops(i64::from(spec.imgsz)),
        };
        let counts = self.state.optimizer.counts();
        let optimizer = console::optimizer(&setup.resolved, self.state.schedule(), counts);
        console::started(&started, &optimizer, setup, self.context.events);
        self.context.events.emit(TrainerEvent::Started(started));
    }

    /// Reports the best epoch and the artifacts.
    pub fn report_finished(&mut self) {
        let best = self.progress.best.as_ref();
        let (best_epoch, metrics) = best.map(|best| (best.epoch, best.metrics.clone())).unwrap_or_default();
        let artifacts = artifacts::all(&self.setup.options.run_dir);
        self.context.events.emit(TrainerEvent::Finished(Finished { best_epoch, metrics, artifacts }));
    }

    /// The precision that layers are trained in.
    pub const fn precision(&self) -> Precision {
        self.state.precision()
    }

    /// Reports the memory that was measured before the first step, if it was.
    pub fn report_memory(&mut self) {
        self.report_smaller_validation();
        let Some(measured) = self.memory.take() else { return };
        let MemoryMeasured {
            batch_size, fixed_mib, step_peak_mib, densest_objects, validation_peak_mib, ..
        } = &measured;
        self.context.events.print(&format!(
            "Memory: {fixed_mib} MiB before the first step; at most {step_peak_mib} MiB in a step of {batch_size} \
             images with {densest_objects} objects, {validation_peak_mib} MiB in validation"
        ));
        self.context.events.emit(TrainerEvent::Memory(measured));
    }

    /// Reports the losses of the epoch a moment ago, and how fast it goes.
    pub(in crate::train) fn report_step(&mut self, throughput: Throughput) -> Result<(), TrainError> {
        let losses = self.recent_mean_losses()?;
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let step = Step {
            epoch: self.progress.epoch + 1,
            batch: count(self.progress.batches_done),
            batches: count(self.epoch_batches),
            images_per_second: throughput.images_per_second,
            loader_wait_ratio: throughput.loader_wait_ratio,
            metrics: METRICS.iter().zip(losses).map(|(name, loss)| ((*name).to_owned(), loss)).collect(),
            phases: self.phase_timer.recent(),
        };
        console::step(&step, self.epochs(), self.newest_batch, self.context.events);
        self.context.events.emit(TrainerEvent::Step(step));
        self.setup.report_warnings(self.context.events);
        self.report_alloc_retries();
        Ok(())
    }

    /// Warns once that memory is so short that training is slower for it.
    pub(in crate::train) fn report_alloc_retries(&mut self) {
        if self.alloc_retries.have_begun() {
            let message = format!(
                "the GPU's memory is nearly full: to make room, all that is kept for reuse had to be given back, which \
                 slows training down; a smaller `batch` than {} helps, or fewer other programs on the GPU",
                self.progress.batch_size
            );
            self.context.events.log(LogLevel::Warning, message);
        }
    }

    /// Reports how many optimiser steps of the epoch were skipped, if any. Waits for the device.
    pub(in crate::train) fn report_skipped_steps(&mut self) {
        let skipped = self.state.skipped.double_value(&[]);
        let _ = self.state.skipped.zero_();
        if skipped > 0.0 {
            let scale = self.state.scaler.as_ref().map(|scaler| scaler.state().0);
            let scale = scale.map_or(String::new(), |scale| format!("; the loss scale is now {scale}"));
            let epoch = self.progress.epoch + 1;
            let message = format!(
                "epoch {epoch}: {skipped} optimiser steps were skipped, because gradients were not finite{scale}"
            );
            self.context.events.log(LogLevel::Info, message);
        }
    }

    /// The columns of results.csv. `train_losses`: box, class and distribution loss, means of the epoch.
    pub(in crate::train) fn epoch_metrics(
        &self,
        train_losses: [f64; 3],
        found: &ValidationResult,
    ) -> BTreeMap<String, f64> {
        let schedule = self.state.schedule();
        let last = u64::from(self.progress.epoch + 1) * schedule.units_per_epoch - 1;
        let rates = schedule.at(last).lr;
        let mut metrics = artifacts::mean_metrics(&found.metrics);
        let numbers = train_losses.into_iter().chain(found.losses).chain(rates);
        let names = METRICS[..3].iter().chain(&METRICS[7..]);
        metrics.extend(names.zip(numbers).map(|(name, number)| ((*name).to_owned(), number)));
        metrics
    }

    /// Reports that validation takes fewer images at once, if it does since the last call.
    pub(in crate::train) fn report_smaller_validation(&mut self) {
        let Some((from, to)) = self.context.tracker.take_lowered_validation() else { return };
        let batch_size = self.progress.batch_size;
        let message = format!(
            "{from} images at once do not fit in the GPU's memory (validating); validation looks at {to} at once \
             from now on and finds the same; training goes on with batch {batch_size}"
        );
        self.report_same_batch_size(Phase::Validation, message);
    }

    /// Reports that memory ran out, and that training goes on as before.
    pub(super) fn report_same_batch_size(&mut self, phase: Phase, message: String) {
        let batch_size = self.progress.batch_size;
        self.context.events.print(&format!("warning: {message}"));
        let change = BatchSizeChanged { from: batch_size, to: batch_size, message, phase };
        self.context.events.emit(TrainerEvent::BatchSize(change));
    }

    /// Reports what an agent has asked for, and gives memory back that workers had.
    pub(in crate::train) fn report_control(&mut self) {
        if self.setup.control.report(self.context.events) {
            libtorch::memory::trim();
        }
    }
}
