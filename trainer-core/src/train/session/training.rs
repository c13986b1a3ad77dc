//! The batches of an epoch, one after the other: from the loader through the model to what is told of them.

use std::time::{Duration, Instant};

use tch::Tensor;
use trainyard_data::Batch;
use trainyard_data::loader::{EpochPlan, LoadError};
use trainyard_types::trainer::{Activity, LogLevel, Phase, Step, TrainerEvent};

use super::Session;
use crate::checkpoint::{Progress, Row};
use crate::libtorch::{self, rethrow};
use crate::loss::to_host;
use crate::pulse;
use crate::report::results_csv::METRICS;
use crate::train::console::{self, Last};
use crate::train::error::TrainError;
use crate::train::guard::{Cause, is_dead};
use crate::train::meter::{Meter, Reading};
use crate::train::multi_scale::rescale;
use crate::train::pieces::{Piece, Pieces, pieces};
use crate::train::statistics::Statistics;
use crate::train::step::Trainer;
use crate::train::validate::Found;

/// Where training stood at the end of an optimiser step, but what only another one changes.
#[derive(Debug)]
pub(super) struct Mark {
    statistics: Statistics,
    loss_sums: Tensor,
    /// Batches since the start, batches and images of the epoch.
    done: [u64; 3],
}

impl Mark {
    fn at(trainer: &Trainer, progress: &Progress) -> Self {
        Self {
            statistics: Statistics::keep(&trainer.model),
            loss_sums: trainer.loss_sums.copy(),
            done: [progress.step, progress.batches_done, progress.images_done],
        }
    }

    /// Goes back there, before the next optimiser step is begun.
    fn put_back(&self, trainer: &mut Trainer, progress: &mut Progress) {
        self.statistics.put_back(&trainer.model);
        trainer.loss_sums.copy_(&self.loss_sums);
        trainer.forget();
        [progress.step, progress.batches_done, progress.images_done] = self.done;
    }
}

impl Session<'_> {
    /// Trains what is left of an epoch. `false` if it was asked to stop before the end.
    pub(super) fn train_epoch(&mut self) -> Result<bool, TrainError> {
        let (spec, epoch, epochs) = (self.setup.spec(), self.progress.epoch, self.epochs());
        let pieces = self.pieces().list;
        if pieces.is_empty() {
            return Ok(true);
        }
        self.outside.watch.epoch_begins(epoch + 1);
        // The first steps try which algorithm is fastest for each shape.
        pulse::at(if self.outside.watch.steps() == 0 { Activity::Search } else { Activity::Train });
        self.stopwatch.epoch_begins();
        self.mark = None;
        self.epoch_batches = self.progress.batches_done + pieces.len() as u64;
        let closing = epochs.saturating_sub(spec.close_mosaic);
        let mosaic = epoch < closing;
        if epoch == closing && epoch > 0 && self.progress.batches_done == 0 && spec.mosaic > 0.0 {
            console::mosaic_ends(epoch + 1, self.outside.events);
            self.drawing.show_more();
        }
        console::epoch_begins(self.outside.events);
        let first_sample = usize::try_from(self.progress.images_done).unwrap_or(usize::MAX);
        let batch_size = self.progress.batch_size as usize;
        let plan = EpochPlan { epoch, batch_size, first_sample, mosaic };
        let position = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let cuts = pieces.iter().map(|piece| position(piece.samples.start)..position(piece.samples.end));
        let mut batches = self.setup.train_loader().epoch_in(&plan, cuts.collect());
        let (began, before) = (Instant::now(), (self.progress.epoch_seconds, self.progress.epoch_waited));
        let mut meter = Meter::start();
        let mut waited_before = Duration::ZERO;
        for piece in &pieces {
            let batch = batches.next().ok_or(LoadError::WorkerGone)??;
            let waited = batches.waited() - waited_before;
            waited_before = batches.waited();
            self.train_batch(&batch, piece);
            pulse::at(Activity::Train);
            pulse::tick();
            self.stopwatch.end(waited, piece.step.is_some());
            let (images, last) = (batch.n as u64, Last { objects: batch.targets.len(), side: batch.height });
            self.last = last;
            // The batch is trained already: its number is one less.
            self.drawing.begin(self.setup, self.progress.step - 1, batch);
            self.progress.epoch_seconds = before.0 + began.elapsed().as_secs_f64();
            self.progress.epoch_waited = before.1 + batches.waited().as_secs_f64();
            if let Some(reading) = meter.add(images, batches.waited()) {
                self.tell_step(reading)?;
            }
            self.outside.saver.poll(self.outside.events);
            self.answer_control();
            if self.is_asked_to_stop() {
                return Ok(false);
            }
            if self.is_out_of_time() {
                break;
            }
            if self.outside.saver.is_due() {
                self.checkpoint()?;
            }
        }
        Ok(true)
    }

    /// What is left to train of the epoch.
    pub(super) fn pieces(&self) -> Pieces {
        let progress = &self.progress;
        let epoch = (progress.epoch, self.setup.train.len() as u64);
        let done = (progress.images_done, progress.batch_size);
        pieces(self.trainer.schedule(), epoch, done, progress.units_waiting)
    }

    fn train_batch(&mut self, batch: &Batch, piece: &Piece) {
        let spec = self.setup.spec();
        let (watch, stopwatch) = (self.outside.watch, &mut self.stopwatch);
        let batch_size = self.progress.batch_size as usize;
        let mut begin = |phase| {
            stopwatch.begin(phase);
            watch.enter(phase, batch_size);
        };
        begin(Phase::Copy);
        let (mut images, mut targets) = self.uploader.upload(batch);
        if spec.multi_scale {
            // One size for all batches of a step, so that it does not depend on how many there are.
            (images, targets) = rescale((images, targets), spec.seed, self.trainer.updates);
        }
        if watch.overflows(self.trainer.precision()) {
            images *= f64::NAN;
        }
        self.trainer.learn_watched(&images, &targets, &mut begin);
        self.guard.note(&self.trainer.loss_sums);
        self.guard.note_losses(&self.trainer.losses, batch.targets.len(), self.progress.step + 1);
        if let Some(iteration) = piece.step {
            begin(Phase::Optimizer);
            self.trainer.step(iteration);
            watch.stepped();
        }
        self.progress.batches_done += 1;
        self.progress.step += 1;
        self.progress.images_done += batch.n as u64;
        if piece.step.is_some() {
            self.mark = Some(Mark::at(&self.trainer, &self.progress));
        }
    }

    /// After memory ran out in the middle of an optimiser step: goes back to the end of the one before, and hands
    /// over a checkpoint of there; in a validation, one of where training stands. Where that is not possible
    /// the newest one must do.
    pub(super) fn salvage(&mut self) {
        let phase = self.outside.watch.phase();
        let mark = self.mark.take();
        match phase {
            Phase::Copy | Phase::Forward | Phase::Loss | Phase::Backward if mark.is_some() => {}
            Phase::Validation => {}
            _ => return,
        }
        let handed_over = libtorch::catch(|| {
            libtorch::memory::release(self.setup.options.device).unwrap_or_else(|error| rethrow(&error));
            if let Some(mark) = mark.filter(|_| phase != Phase::Validation) {
                mark.put_back(&mut self.trainer, &mut self.progress);
            }
            self.checkpoint()
        });
        // What is looked at after this is where memory ran out first.
        self.outside.watch.stay_at(phase);
        let error = match handed_over {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let message = format!("what was learnt since the newest checkpoint is trained again: {error}");
        self.outside.events.log(LogLevel::Warning, message);
    }

    /// Tells what an agent has asked for, and gives memory back that workers had.
    pub(super) fn answer_control(&mut self) {
        if self.setup.control.answer(self.outside.events) {
            libtorch::memory::trim();
        }
    }

    /// The epoch's mean losses so far. Waits for the device.
    pub(super) fn mean_losses(&self) -> Result<[f64; 3], TrainError> {
        #[expect(clippy::cast_precision_loss, reason = "images of an epoch are far below 2^52")]
        let images = self.progress.images_done.max(1) as f64;
        let losses = to_host(&self.trainer.loss_sums).map(|sum| sum / images);
        self.check_finite(losses)
    }

    pub(super) fn check_finite(&self, losses: [f64; 3]) -> Result<[f64; 3], TrainError> {
        if losses.iter().all(|loss| loss.is_finite()) {
            return match self.guard.collapsed() {
                Some(step) => Err(self.collapsed(step)),
                None => Ok(losses),
            };
        }
        let progress = &self.progress;
        let cause = Cause::find(&self.setup.chosen, self.trainer.scaler.is_some(), &progress.rows);
        // A validation's losses break no batch's.
        let step = self.guard.broken().min(progress.step);
        Err(TrainError::NotFinite { step, epoch: progress.epoch + 1, cause })
    }

    fn collapsed(&self, step: u64) -> TrainError {
        let progress = &self.progress;
        let cause = Cause::find(&self.setup.chosen, false, &progress.rows);
        TrainError::Collapsed { step, epoch: progress.epoch + 1, cause }
    }

    /// Refuses to go on with a model that a validation has shown to be dead: for the second time, as one may
    /// recover from too large a step, or at the end of all epochs.
    pub(super) fn check_alive(&self, found: &Found) -> Result<(), TrainError> {
        let progress = &self.progress;
        let was = |row: &Row| {
            let loss = |at: usize| row.metrics.get(METRICS[at]).copied().unwrap_or(f64::NAN);
            is_dead([loss(7), loss(8), loss(9)])
        };
        let last = progress.epoch + 1 >= self.epochs();
        if found.metrics.instances > 0
            && is_dead(found.losses)
            && (last || progress.rows.last().is_some_and(was))
        {
            return Err(self.collapsed(progress.step));
        }
        Ok(())
    }

    fn tell_step(&mut self, reading: Reading) -> Result<(), TrainError> {
        let losses = self.mean_losses()?;
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let step = Step {
            epoch: self.progress.epoch + 1,
            batch: count(self.progress.batches_done),
            batches: count(self.epoch_batches),
            images_per_second: reading.images_per_second,
            loader_wait_ratio: reading.loader_wait_ratio,
            metrics: METRICS.iter().zip(losses).map(|(name, loss)| ((*name).to_owned(), loss)).collect(),
            phases: self.stopwatch.recent(),
        };
        let device = self.setup.options.device;
        console::step(&step, self.epochs(), (self.last, device), self.outside.events);
        self.outside.events.emit(TrainerEvent::Step(step));
        self.setup.tell_warnings(self.outside.events);
        Ok(())
    }
}
