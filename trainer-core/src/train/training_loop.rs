//! The training loop, from the first line to the last: epochs, their batches, and what follows each of them.
//!
//! batch → forward and backward → optimiser step and average → report; after the last batch of an epoch
//! → validate → record → checkpoint; after the last epoch → conclude. A run that is asked to stop leaves the loop
//! by [`ControlFlow::Break`], and ends with a checkpoint.

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::time::{Duration, Instant};

use trainyard_data::Batch;
use trainyard_data::LoadError;
use trainyard_types::trainer::{Activity, Epoch, LogLevel, Phase, TrainerEvent};

use super::error::TrainError;
use super::micro_batches::MicroBatch;
use super::monitoring::throughput::{Throughput, ThroughputMeter};
use super::multi_scale;
use super::output::artifacts::{self, EpochWeights};
use super::output::console::{self, EpochTable, NewestBatch};
use super::session::{RunEnd, Session, StepState};
use super::validate::{ValidationConfig, ValidationResult, validate};
use crate::activity;
use crate::checkpoint::{Best, Row};
use crate::libtorch::{self, rethrow};

impl Session<'_> {
    /// Trains to the end. An exception of libtorch comes as a panic, for the caller to catch; where memory
    /// ran out, the state after the last optimiser step is handed over as a checkpoint first.
    ///
    /// # Errors
    /// See [`TrainError`].
    pub fn run(&mut self) -> Result<RunEnd, TrainError> {
        match libtorch::catch_on(self.setup.options.device, || self.run_epochs()) {
            Ok(end) => end,
            Err(error) => {
                if error.is_out_of_memory() {
                    self.checkpoint_after_oom();
                }
                rethrow(&error)
            }
        }
    }

    fn run_epochs(&mut self) -> Result<RunEnd, TrainError> {
        while self.progress.epoch < self.epochs() && !self.is_out_of_patience() && !self.is_out_of_time() {
            if self.train_epoch()?.is_break() || self.finish_epoch()?.is_break() {
                return self.stop();
            }
        }
        if self.conclude()?.is_break() { self.stop() } else { Ok(RunEnd::Finished) }
    }

    /// Trains the batches of an epoch that are left.
    fn train_epoch(&mut self) -> Result<ControlFlow<()>, TrainError> {
        let micro_batches = self.micro_batches().list;
        if micro_batches.is_empty() {
            return Ok(Continue(()));
        }
        self.begin_epoch(micro_batches.len());
        let mut loader = self.load_epoch(&micro_batches);
        let (began, before) =
            (Instant::now(), (self.progress.epoch_seconds, self.progress.epoch_loader_wait));
        let (mut meter, mut waited_before) = (ThroughputMeter::start(), Duration::ZERO);
        for micro_batch in &micro_batches {
            let batch = loader.next().ok_or(LoadError::WorkerGone)??;
            let waited = loader.waited() - waited_before;
            waited_before = loader.waited();

            self.train_batch(&batch, micro_batch);
            activity::at(Activity::Train);
            activity::tick();

            self.phase_timer.end_batch(waited, micro_batch.step.is_some());
            self.progress.epoch_seconds = before.0 + began.elapsed().as_secs_f64();
            self.progress.epoch_loader_wait = before.1 + loader.waited().as_secs_f64();
            let images = batch.n as u64;
            self.show_batch(batch);
            if meter.is_half_over() {
                self.read_losses_ahead();
            }
            if let Some(throughput) = meter.add(images, loader.waited()) {
                self.report_step(throughput)?;
            }
            self.context.saver.poll(self.context.events);
            self.report_control();

            if self.is_asked_to_stop() {
                return Ok(Break(()));
            }
            if self.is_out_of_time() {
                break;
            }
            if self.context.saver.is_due() {
                self.checkpoint()?;
            }
        }
        Ok(Continue(()))
    }

    /// One micro-batch: forward, loss and backward; and an optimiser step, if it is the last one of its step.
    fn train_batch(&mut self, batch: &Batch, micro_batch: &MicroBatch) {
        let (seed, varied) = (self.setup.spec().seed, self.setup.spec().multi_scale);
        let batch_size = self.progress.batch_size as usize;
        let (tracker, phase_timer) = (self.context.tracker, &mut self.phase_timer);
        let mut begin = |phase| {
            phase_timer.begin(phase);
            tracker.enter(phase, batch_size);
        };

        begin(Phase::Copy);
        let mut tensors = if varied {
            // One size for all batches of a step, so that it does not depend on how many there are.
            let side = multi_scale::draw(batch.height, seed, self.state.updates);
            self.uploader.upload_scaled(batch, side)
        } else {
            self.uploader.upload(batch)
        };
        if tracker.overflows(self.state.precision()) {
            tensors.images *= f64::NAN;
        }
        self.state.forward_backward_timed(&tensors.images, &tensors.targets, &mut begin);
        let number = self.progress.batches + 1;
        self.divergence.record_finite(&self.state.finite, number);
        self.divergence.record_losses(&self.state.losses, batch.targets.len(), number);

        if let Some(unit) = micro_batch.step {
            begin(Phase::Optimizer);
            // The optimiser, then the average.
            self.state.step(unit);
            tracker.count_step();
        }
        self.progress.batches_done += 1;
        self.progress.batches += 1;
        self.progress.images_done += batch.n as u64;
        if micro_batch.step.is_some() {
            self.last_step = Some(StepState::save(&self.state, &self.progress));
        }
    }

    /// Validates the average, and records and reports the epoch.
    fn finish_epoch(&mut self) -> Result<ControlFlow<()>, TrainError> {
        // From here on nothing that was learnt is lost, wherever memory runs out.
        self.context.tracker.set_phase(Phase::Validation);
        let train_losses = self.current_losses()?.means();
        self.report_skipped_steps();
        self.report_alloc_retries();
        let config = ValidationConfig { show: console::validating(self.context.events), ..self.validation() };
        let loader = self.setup.val_loader(self.progress.batch_size);
        let found = validate(self.state.ema.model(), &loader, &config, self.context.stop)?;
        self.report_smaller_validation();
        self.report_control();
        let Some(found) = found else { return Ok(Break(())) };

        self.context.tracker.set_phase(Phase::Checkpoint);
        activity::at(Activity::Write);
        self.check_finite(found.losses)?;
        self.check_alive(&found)?;
        let epoch = self.record_epoch(train_losses, &found);
        let table = EpochTable { last: self.newest_batch, metrics: &found.metrics };
        console::epoch(&epoch, &table, self.context.events);
        self.context.events.emit(TrainerEvent::Epoch(epoch));
        self.setup.report_warnings(self.context.events);
        self.checkpoint()?;
        self.preview();
        Ok(if self.is_asked_to_stop() { Break(()) } else { Continue(()) })
    }

    /// Closes the epoch: its row, its weights, and the progress that the next checkpoint holds. Returns what
    /// is reported of it.
    fn record_epoch(&mut self, train_losses: [f64; 3], found: &ValidationResult) -> Epoch {
        let metrics = self.epoch_metrics(train_losses, found);
        let best = self.is_best(found.metrics.map50_95);
        let seconds = self.seconds();
        let throughput = Throughput::of(
            self.progress.images_done,
            Duration::from_secs_f64(self.progress.epoch_seconds),
            Duration::from_secs_f64(self.progress.epoch_loader_wait),
        );

        let units_left = self.micro_batches().units_left;
        self.progress.begin_next_epoch(units_left, Row { seconds, metrics: metrics.clone() });
        let _ = self.state.loss_sums.zero_();
        let epoch = self.progress.epoch;
        let weights = Arc::new(EpochWeights::copy(self.state.ema.model(), self.setup, epoch));
        if best {
            let metrics = artifacts::final_metrics(&found.metrics, &self.setup.names);
            self.progress.best = Some(Best { epoch, fitness: found.metrics.map50_95, metrics });
            self.weights_files.best = Some(Arc::clone(&weights));
        }
        self.weights_files.last = Some(weights);
        if let Err(error) = self.tables.append(&self.progress.rows) {
            let message = format!("an epoch's row was not written, which is tried again later: {error}");
            self.context.events.log(LogLevel::Warning, message);
        }
        self.plan_epochs();

        Epoch {
            epoch,
            epochs: self.epochs(),
            seconds,
            images_per_second: throughput.images_per_second,
            loader_wait_ratio: throughput.loader_wait_ratio,
            best,
            metrics,
            phases: self.phase_timer.epoch(),
            cached: self.setup.cached_files(),
        }
    }

    /// The checkpoint of a run that was asked to stop. On a full disk the one before must do.
    fn stop(&mut self) -> Result<RunEnd, TrainError> {
        activity::at(Activity::Write);
        self.checkpoint()?;
        self.context.saver.flush(self.context.events);
        let durable = self.context.saver.is_durable(self.progress.batches, self.progress.epoch);
        if durable || self.context.saver.has_any() {
            return Ok(RunEnd::Stopped);
        }
        let root = self.setup.options.checkpoints();
        Err(TrainError::io(root)(std::io::Error::other("no checkpoint could be written")))
    }

    /// Notes what the console and the pictures show of a batch.
    fn show_batch(&mut self, batch: Batch) {
        let device = self.setup.options.device;
        self.newest_batch = NewestBatch { objects: batch.targets.len(), side: batch.height, device };
        // The batch is trained already: its number is one less.
        self.drawing.begin(self.setup, self.progress.batches - 1, batch);
    }
}
