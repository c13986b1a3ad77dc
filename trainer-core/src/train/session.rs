//! Training with one batch size, from a checkpoint or from nothing, until the end, a stop, or an error.

mod training;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tch::Device;
use trainyard_types::trainer::{
    Activity, BatchSizeChanged, Epoch, LogLevel, MemoryMeasured, Phase, TrainerEvent,
};

use self::training::Mark;
use super::artifacts::{self, BEST, EpochWeights};
use super::console::{Last, Table};
use super::drawing::Drawing;
use super::error::TrainError;
use super::guard::Guard;
use super::measure::measure;
use super::meter::reading;
use super::phases::Stopwatch;
use super::saver::{Kept, Saver, Snapshot};
use super::setup::{Setup, crowd};
use super::step::Trainer;
use super::tables::Tables;
use super::upload::Uploader;
use super::validate::{Details, Found, Validation, examine, validate};
use super::watch::Watch;
use super::{budget, console, precision, resume, statistics, transfer};
use crate::checkpoint::{Best, Loaded, Progress, Row};
use crate::events::Events;
use crate::libtorch::{self, Precision, rethrow};
use crate::loss::to_host;
use crate::model::{Layout, Model};
use crate::optim::{Schedule, auto};
use crate::pulse;
use crate::report::pictures;
use crate::report::results_csv::METRICS;

/// How a session ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All epochs are done, or patience or time ran out.
    Finished,
    /// Somebody asked to stop; there is a checkpoint.
    Stopped,
}

/// Whom a session tells and asks.
#[derive(Debug)]
pub struct Outside<'a> {
    /// Where events go.
    pub events: &'a mut Events,
    /// Writes checkpoints.
    pub saver: &'a mut Saver,
    /// Raised by who wants it to end.
    pub stop: &'a AtomicBool,
    /// Knows what is done now.
    pub watch: &'a Watch,
}

/// A training that runs.
#[derive(Debug)]
pub struct Session<'a> {
    setup: &'a Setup,
    outside: Outside<'a>,
    trainer: Trainer,
    progress: Progress,
    kept: Kept,
    guard: Guard,
    tables: Tables,
    uploader: Uploader,
    stopwatch: Stopwatch,
    /// What was measured before the first step.
    measured: Option<MemoryMeasured>,
    /// The end of the last optimiser step of this epoch in this session.
    mark: Option<Mark>,
    drawing: Drawing,
    /// What the console shows of the newest batch.
    last: Last,
    /// Batches of the epoch that is trained now.
    epoch_batches: u64,
    /// When this session began, and the seconds of training before it.
    began: (Instant, f64),
}

impl<'a> Session<'a> {
    /// Builds the model, and takes over what `loaded` holds.
    ///
    /// `amp_off` gives up 16-bit training for good.
    pub fn new(
        setup: &'a Setup,
        outside: Outside<'a>,
        loaded: Option<&Loaded>,
        (batch_size, amp_off): (u32, bool),
    ) -> Result<Self, TrainError> {
        let (spec, run_dir, device) = (setup.spec(), &setup.options.run_dir, setup.options.device);
        let progress = match loaded {
            Some(loaded) => resume::with_batch_size(&loaded.progress, batch_size, spec.nbs),
            None => Progress::start(setup.identity.clone(), batch_size),
        };
        let amp_off = amp_off || progress.amp_off;
        #[expect(clippy::cast_possible_wrap, reason = "the seed is at most 2^53, as the spec's check says")]
        tch::manual_seed(spec.seed as i64);
        let classes = i64::try_from(setup.names.len()).unwrap_or(i64::MAX);
        let model = Model::new(spec.model, classes, spec.freeze as usize, device);
        if loaded.is_none() {
            transfer::begin_with(&model, setup, outside.events)?;
        }
        let chosen = &setup.chosen;
        let schedule = Schedule::for_any_card(chosen, setup.train.len() as u64, batch_size);
        // Before a checkpoint is taken over, so that one that goes on computes as it did.
        let choice = precision::choose(&model, spec.imgsz, setup.candidates(amp_off));
        tell_choices(setup, batch_size, &choice, outside.events);
        if device == Device::Cpu {
            libtorch::bind_threads();
        }
        let amp_off = amp_off || choice.is_given_up();
        let progress = Progress { amp_off, identity: setup.identity.clone(), ..progress };
        let mut trainer = Trainer::new(model, auto::rule(chosen), schedule, setup.gains(), choice.precision);
        trainer.set_epochs(progress.epochs.unwrap_or(spec.epochs));
        let uploader = Uploader::new(device);
        let measured = setup.options.measure.wants(device).then(|| {
            pulse::at(Activity::Search);
            let how = validation(setup, trainer.precision(), outside.watch);
            measure(&mut trainer, (setup, batch_size), &uploader, &how)
        });
        let kept = match loaded {
            Some(loaded) => kept(&mut trainer, loaded, &progress, setup)?,
            None => Kept::default(),
        };
        artifacts::write_args(run_dir, setup, batch_size)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |span| span.as_secs_f64());
        let tables = Tables::start(run_dir, now - progress.seconds, &progress.rows)?;
        let seconds = progress.seconds;
        let guard = Guard::new(device, progress.step);
        Ok(Self {
            setup,
            outside,
            trainer,
            progress,
            kept,
            guard,
            tables,
            uploader,
            stopwatch: Stopwatch::new(device),
            measured,
            mark: None,
            drawing: Drawing::start(run_dir),
            last: Last::default(),
            epoch_batches: 0,
            began: (Instant::now(), seconds),
        })
    }

    /// Where training stands.
    pub const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The events, for what is to be said around a session.
    pub const fn events(&mut self) -> &mut Events {
        self.outside.events
    }

    /// Tells what was measured before the first step, if something was.
    pub fn tell_memory(&mut self) {
        self.tell_smaller_validation();
        let Some(measured) = self.measured.take() else { return };
        let MemoryMeasured { batch_size, fixed_mib, step_peak_mib, densest_objects, validation_peak_mib } =
            &measured;
        self.outside.events.print(&format!(
            "Memory: {fixed_mib} MiB before the first step; at most {step_peak_mib} MiB in a step of {batch_size} \
             images with {densest_objects} objects, {validation_peak_mib} MiB in validation"
        ));
        self.outside.events.emit(TrainerEvent::Memory(measured));
    }

    /// What layers learn in.
    pub const fn precision(&self) -> Precision {
        self.trainer.precision()
    }

    /// What learns, and how fast: a line for a person.
    pub fn optimizer(&self) -> String {
        console::optimizer(&self.setup.chosen, self.trainer.schedule(), self.trainer.optimizer.counts())
    }

    /// The model that learns.
    pub const fn model(&self) -> &Model {
        &self.trainer.model
    }

    /// Epochs in all: the spec's, or those that its `time` is enough for.
    pub fn epochs(&self) -> u32 {
        self.progress.epochs.unwrap_or(self.setup.spec().epochs)
    }

    /// Trains to the end. An exception of libtorch comes as a panic, for the caller to catch; where memory ran
    /// out, what was learnt until the last optimiser step is handed over as a checkpoint first.
    pub fn run(&mut self) -> Result<End, TrainError> {
        match libtorch::catch(|| self.train_all()) {
            Ok(end) => end,
            Err(error) => {
                if error.is_out_of_memory() {
                    self.salvage();
                }
                rethrow(&error)
            }
        }
    }

    fn train_all(&mut self) -> Result<End, TrainError> {
        while self.progress.epoch < self.epochs() && !self.is_out_of_patience() && !self.is_out_of_time() {
            if !self.train_epoch()? || !self.finish_epoch()? {
                self.checkpoint_and_wait()?;
                return Ok(End::Stopped);
            }
        }
        if !self.conclude()? {
            self.checkpoint_and_wait()?;
            return Ok(End::Stopped);
        }
        Ok(End::Finished)
    }

    fn is_out_of_patience(&self) -> bool {
        let best = self.progress.best.as_ref().map_or(0, |best| best.epoch);
        is_patience_over(self.progress.epoch, best, self.setup.spec().patience)
    }

    fn is_out_of_time(&self) -> bool {
        budget::is_over(self.setup.spec().time, self.seconds())
    }

    fn is_asked_to_stop(&self) -> bool {
        self.outside.stop.load(Ordering::Relaxed)
    }

    /// Validates, and writes what an epoch leaves. `false` if it was asked to stop during validation.
    fn finish_epoch(&mut self) -> Result<bool, TrainError> {
        let train_losses = self.mean_losses()?;
        self.tell_skipped();
        let how = Validation { show: console::validating(self.outside.events), ..self.validation() };
        let loader = self.setup.val_loader(self.progress.batch_size);
        let found = validate(self.trainer.ema.model(), &loader, &how, self.outside.stop)?;
        self.tell_smaller_validation();
        self.answer_control();
        let Some(found) = found else { return Ok(false) };
        self.outside.watch.stay_at(Phase::Checkpoint);
        pulse::at(Activity::Write);
        self.check_finite(found.losses)?;
        self.check_alive(&found)?;
        let metrics = self.epoch_metrics(train_losses, &found);
        let best = self.is_best(found.metrics.map50_95);
        let seconds = self.seconds();
        let row = Row { seconds, metrics: metrics.clone() };
        let speed = reading(
            self.progress.images_done,
            Duration::from_secs_f64(self.progress.epoch_seconds),
            Duration::from_secs_f64(self.progress.epoch_waited),
        );
        self.close_epoch(row, best, &found);
        self.plan_epochs();
        let epoch = Epoch {
            epoch: self.progress.epoch,
            epochs: self.epochs(),
            seconds,
            images_per_second: speed.images_per_second,
            loader_wait_ratio: speed.loader_wait_ratio,
            best,
            metrics,
            phases: self.stopwatch.epoch(),
            cached: self.setup.cached_files(),
        };
        let table = Table { last: self.last, metrics: &found.metrics, device: self.setup.options.device };
        console::epoch(&epoch, &table, self.outside.events);
        self.outside.events.emit(TrainerEvent::Epoch(epoch));
        self.setup.tell_warnings(self.outside.events);
        self.checkpoint()?;
        Ok(!self.is_asked_to_stop())
    }

    /// Tells how many optimiser steps of the epoch were skipped, if any. Waits for the device.
    fn tell_skipped(&mut self) {
        let skipped = self.trainer.skipped.double_value(&[]);
        let _ = self.trainer.skipped.zero_();
        if skipped > 0.0 {
            let scale = self.trainer.scaler.as_ref().map(|scaler| scaler.state().0);
            let scale = scale.map_or(String::new(), |scale| format!("; the loss scale is now {scale}"));
            let epoch = self.progress.epoch + 1;
            let message = format!(
                "epoch {epoch}: {skipped} optimiser steps were skipped, because gradients were not finite{scale}"
            );
            self.outside.events.log(LogLevel::Info, message);
        }
    }

    fn validation(&self) -> Validation<'a> {
        validation(self.setup, self.trainer.precision(), self.outside.watch)
    }

    /// Tells that validation looks at fewer images at once, if it does since the last call.
    fn tell_smaller_validation(&mut self) {
        let Some((from, to)) = self.outside.watch.take_untold() else { return };
        let batch_size = self.progress.batch_size;
        let message = format!(
            "{from} images at once do not fit in the GPU's memory (validating); validation looks at {to} at once \
             from now on and finds the same; training goes on with batch {batch_size}"
        );
        self.tell_same_batch(Phase::Validation, message);
    }

    /// Tells that memory ran out, and that training goes on as before.
    fn tell_same_batch(&mut self, phase: Phase, message: String) {
        let batch_size = self.progress.batch_size;
        self.outside.events.print(&format!("warning: {message}"));
        let change = BatchSizeChanged { from: batch_size, to: batch_size, message, phase };
        self.outside.events.emit(TrainerEvent::BatchSize(change));
    }

    /// A picture that cannot be drawn is no reason to stop.
    fn tell_undrawn(&mut self, written: Result<(), TrainError>) {
        if let Err(error) = written {
            self.outside.events.log(LogLevel::Warning, format!("a picture is missing: {error}"));
        }
    }

    /// Seconds since training began, pauses left out.
    fn seconds(&self) -> f64 {
        self.began.1 + self.began.0.elapsed().as_secs_f64()
    }

    /// Whether this fitness is the best so far. While nothing is found at all, the newest is.
    fn is_best(&self, fitness: f64) -> bool {
        self.progress.best.as_ref().is_none_or(|best| fitness > best.fitness || best.fitness == 0.0)
    }

    /// The columns of results.csv.
    fn epoch_metrics(&self, train_losses: [f64; 3], found: &Found) -> BTreeMap<String, f64> {
        let schedule = self.trainer.schedule();
        let last = u64::from(self.progress.epoch + 1) * schedule.batches - 1;
        let rates = schedule.at(last).lr;
        let mut metrics = artifacts::mean_metrics(&found.metrics);
        let numbers = train_losses.into_iter().chain(found.losses).chain(rates);
        let names = METRICS[..3].iter().chain(&METRICS[7..]);
        metrics.extend(names.zip(numbers).map(|(name, number)| ((*name).to_owned(), number)));
        metrics
    }

    /// Closes the epoch: its row, its weights, and the progress that the next checkpoint holds.
    fn close_epoch(&mut self, row: Row, best: bool, found: &Found) {
        let units_waiting = self.pieces().waiting;
        let progress = &mut self.progress;
        progress.units_waiting = units_waiting;
        progress.epoch += 1;
        progress.images_done = 0;
        progress.batches_done = 0;
        progress.epoch_seconds = 0.0;
        progress.epoch_waited = 0.0;
        progress.rows.push(row);
        let _ = self.trainer.loss_sums.zero_();
        let weights = Arc::new(EpochWeights::copy(self.trainer.ema.model(), self.setup, progress.epoch));
        if best {
            let metrics = artifacts::final_metrics(&found.metrics, &self.setup.names);
            let fitness = found.metrics.map50_95;
            progress.best = Some(Best { epoch: progress.epoch, fitness, metrics });
            self.kept.best = Some(Arc::clone(&weights));
        }
        self.kept.last = Some(weights);
        if let Err(error) = self.tables.append(&self.progress.rows) {
            let message = format!("an epoch's row was not written, which is tried again later: {error}");
            self.outside.events.log(LogLevel::Warning, message);
        }
    }

    /// With `time`, the number of epochs follows from how long they take.
    fn plan_epochs(&mut self) {
        let (hours, done) = (self.setup.spec().time, self.progress.epoch);
        if hours <= 0.0 {
            return;
        }
        let epochs = budget::epochs(hours, self.seconds(), done);
        if self.progress.epochs.is_none() {
            let message = format!("`time` is {hours} hours, which is enough for about {epochs} epochs");
            self.outside.events.log(LogLevel::Info, message);
        }
        self.progress.epochs = Some(epochs);
        self.trainer.set_epochs(epochs);
    }

    /// Hands over a checkpoint of where training stands, unless the newest one is of there.
    fn checkpoint(&mut self) -> Result<(), TrainError> {
        if self.outside.saver.is_durable(self.progress.step, self.progress.epoch) {
            return Ok(());
        }
        let seconds = self.seconds();
        let progress = &mut self.progress;
        progress.seconds = seconds;
        let snapshot = match libtorch::catch(|| self.snapshot()) {
            Ok(snapshot) => snapshot?,
            Err(error) if error.is_out_of_memory() => {
                // Nothing is lost yet, and much of the memory is only kept for the next step.
                libtorch::memory::release(self.setup.options.device)?;
                let snapshot = self.snapshot()?;
                let message = format!(
                    "the GPU's memory ran out making a checkpoint; it was made after unused memory was given \
                     back, and training goes on as before ({error})"
                );
                self.tell_same_batch(Phase::Checkpoint, message);
                snapshot
            }
            Err(error) => rethrow(&error),
        };
        self.outside.saver.submit(snapshot, self.outside.events);
        Ok(())
    }

    /// Copies where training stands to the host.
    fn snapshot(&mut self) -> Result<Snapshot, TrainError> {
        self.outside.watch.enter(Phase::Checkpoint, self.progress.batch_size as usize);
        let progress = &mut self.progress;
        progress.updates = self.trainer.updates;
        progress.images_waiting = self.trainer.waiting.images;
        progress.scores_waiting = self.trainer.waiting.scores.double_value(&[]);
        progress.ema_updates = self.trainer.ema.updates;
        progress.loss_sums = to_host(&self.trainer.loss_sums);
        progress.scaler = self.trainer.scaler.as_ref().map(crate::optim::Scaler::state);
        self.check_finite(self.progress.loss_sums)?;
        Ok(resume::snapshot(&self.trainer, &self.progress, &self.kept))
    }

    /// The checkpoint of a run that was asked to stop. On a full disk the one before must do.
    fn checkpoint_and_wait(&mut self) -> Result<(), TrainError> {
        pulse::at(Activity::Write);
        self.checkpoint()?;
        self.outside.saver.settle(self.outside.events);
        let there = self.outside.saver.is_durable(self.progress.step, self.progress.epoch);
        if there || self.outside.saver.has_any() {
            return Ok(());
        }
        let root = self.setup.options.checkpoints();
        Err(TrainError::io(root)(std::io::Error::other("no checkpoint could be written")))
    }

    /// After the last epoch: a validation of the best weights in detail, and the pictures. `false` if it was asked to
    /// stop during that validation, which a resume then does again.
    fn conclude(&mut self) -> Result<bool, TrainError> {
        if self.is_out_of_time() {
            let message = format!("the time of {} hours is over", self.setup.spec().time);
            self.outside.events.log(LogLevel::Info, message);
        } else if self.progress.epoch < self.epochs() {
            let epoch = self.progress.best.as_ref().map_or(0, |best| best.epoch);
            let message = format!(
                "no better epoch than {epoch} for {} epochs: stopped early",
                self.setup.spec().patience
            );
            self.outside.events.log(LogLevel::Info, message);
        }
        pulse::at(Activity::Write);
        for error in self.drawing.settle() {
            self.tell_undrawn(Err(error));
        }
        self.outside.saver.settle(self.outside.events);
        self.outside.saver.write_weights(&self.kept)?;
        self.tables.complete(&self.progress.rows)?;
        let best = crate::weights::read(&self.setup.options.run_dir.join(BEST))?;
        let model = Model::from_tensors(&best.tensors, Layout::default(), self.setup.options.device)?;
        let loader = self.setup.val_loader(self.progress.batch_size);
        let how = Validation { show: console::validating(self.outside.events), ..self.validation() };
        let details = examine(&model, &loader, &how, self.outside.stop)?;
        self.tell_smaller_validation();
        let Some(details) = details else { return Ok(false) };
        pulse::at(Activity::Write);
        let drawn = self.draw_results(&model, &details);
        self.tell_undrawn(drawn);
        console::finished(&self.progress, &details, self.setup, self.outside.events);
        Ok(true)
    }

    fn draw_results(&self, model: &Model, details: &Details) -> Result<(), TrainError> {
        let run_dir = &self.setup.options.run_dir;
        let column = |name: &str| {
            let value = |row: &Row| row.metrics.get(name).copied().unwrap_or(f64::NAN);
            self.progress.rows.iter().map(value).collect()
        };
        pictures::write_results(run_dir, column).map_err(TrainError::io(run_dir))?;
        let Details { evaluator, confusion, .. } = details;
        pictures::write_validation(run_dir, &self.setup.names, evaluator, confusion)
            .map_err(TrainError::io(run_dir))?;
        artifacts::write_samples(self.setup, model)
    }
}

/// How this run validates.
fn validation<'a>(setup: &Setup, precision: Precision, watch: &'a Watch) -> Validation<'a> {
    let crowd = crowd(setup.val.dataset());
    Validation { gains: setup.gains(), precision, crowd, watch, show: |_, _| {} }
}

/// Brings `trainer` to where `loaded` was made; returns the weights files of then.
fn kept(
    trainer: &mut Trainer,
    loaded: &Loaded,
    progress: &Progress,
    setup: &Setup,
) -> Result<Kept, TrainError> {
    let best = resume::restore(trainer, loaded, progress)?.map(Arc::new);
    // Inside of an epoch the average has moved on.
    let at_end = progress.epoch > 0 && progress.images_done == 0;
    let last = at_end.then(|| Arc::new(EpochWeights::copy(trainer.ema.model(), setup, progress.epoch)));
    Ok(Kept { last, best })
}

/// Says what was chosen for the user, and what it costs.
fn tell_choices(setup: &Setup, batch_size: u32, choice: &precision::Choice, events: &mut Events) {
    let (chosen, spec) = (&setup.chosen, setup.spec());
    let lone = statistics::lone(spec, setup.train.len(), batch_size);
    for warning in choice.warnings.iter().cloned().chain(lone) {
        events.log(LogLevel::Warning, warning);
    }
    if choice.precision != Precision::Single {
        events.log(LogLevel::Info, format!("AMP: layers compute in {}", choice.precision.name()));
    }
    if chosen.optimizer != spec.optimizer {
        let (name, lr0, momentum) = (chosen.optimizer.name(), chosen.lr0, chosen.momentum);
        let message =
            format!("optimizer auto: {name} with lr0 {lr0} and momentum {momentum}; the spec's are not used");
        events.log(LogLevel::Info, message);
    }
}

/// Whether, after `epoch` epochs of which `best` was the best, another one is not worth it.
const fn is_patience_over(epoch: u32, best: u32, patience: u32) -> bool {
    patience > 0 && epoch.saturating_sub(best) >= patience
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_the_epochs_since_the_best_and_zero_never_ends() {
        let found = [(0, 0, 3), (3, 1, 3), (4, 1, 3), (90, 1, 0)]
            .map(|(epoch, best, patience)| is_patience_over(epoch, best, patience));
        assert_eq!(found, [false, false, true, false]);
    }
}
