//! A session: training with one batch size, from a checkpoint or from nothing. Its loop is in `training_loop.rs`.

mod checkpointing;
mod conclusion;
mod loss_checks;
mod preview;
mod reporting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tch::Device;
use trainyard_data::Batches;
use trainyard_data::EpochPlan;
use trainyard_types::trainer::{Activity, LogLevel, MemoryMeasured};

pub(super) use self::checkpointing::StepState;
use super::error::TrainError;
use super::memory::PhaseTracker;
use super::memory::alloc_retries::AllocRetries;
use super::memory::memory_probe::MemoryProbe;
use super::micro_batches::{EpochPosition, MicroBatch, MicroBatches};
use super::monitoring::divergence::{self, DivergenceDetector};
use super::monitoring::loss_reading::LossReading;
use super::monitoring::phase_timer::PhaseTimer;
use super::monitoring::time_limit;
use super::output::artifacts::{self, EpochWeights};
use super::output::console::{self, NewestBatch};
use super::output::drawing::Drawing;
use super::output::saver::{Saver, WeightsFiles};
use super::output::tables::Tables;
use super::precision::GivenUp;
use super::setup::Setup;
use super::state::TrainState;
use super::upload::Uploader;
use super::validate::ValidationConfig;
use super::{precision, pretrained, resume};
use crate::activity;
use crate::checkpoint::{Loaded, Progress};
use crate::events::Events;
use crate::libtorch::{self, Precision};
use crate::model::Model;
use crate::optim::{Schedule, auto};

/// How a training ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// All epochs are done, or patience or time ran out.
    Finished,
    /// Somebody asked to stop; there is a checkpoint.
    Stopped,
}

/// What a session shares with those before and after it.
#[derive(Debug)]
pub struct RunContext<'a> {
    /// Where events go.
    pub events: &'a mut Events,
    /// Writes checkpoints.
    pub saver: &'a mut Saver,
    /// Raised by whoever wants training to end.
    pub stop: &'a AtomicBool,
    /// Follows the phases of training.
    pub tracker: &'a PhaseTracker,
}

/// What may change from session to session.
#[derive(Debug, Clone, Copy)]
pub struct SessionConfig {
    /// Images per batch.
    pub batch_size: u32,
    /// Precisions that are not tried again.
    pub given_up: GivenUp,
}

/// A training in progress.
#[derive(Debug)]
pub struct Session<'a> {
    pub(super) setup: &'a Setup,
    pub(super) context: RunContext<'a>,
    pub(super) state: TrainState,
    pub(super) progress: Progress,
    pub(super) weights_files: WeightsFiles,
    pub(super) divergence: DivergenceDetector,
    /// Losses on their way to the host, for the next report of a step.
    reading: Option<LossReading>,
    /// Whether memory is so short that training is slower for it.
    alloc_retries: AllocRetries,
    pub(super) tables: Tables,
    pub(super) uploader: Uploader,
    /// The same, in the precision that images are validated in.
    val_uploader: Uploader,
    pub(super) phase_timer: PhaseTimer,
    /// The end of the last optimiser step of this epoch in this session.
    pub(super) last_step: Option<StepState>,
    pub(super) drawing: Drawing,
    pub(super) newest_batch: NewestBatch,
    /// Batches of the epoch that is trained now.
    pub(super) epoch_batches: u64,
    /// What was measured before the first step, until it is reported.
    memory: Option<MemoryMeasured>,
    clock: TrainingClock,
}

/// The time of a training, pauses left out.
#[derive(Debug, Clone, Copy)]
struct TrainingClock {
    /// When this session began.
    began: Instant,
    /// Seconds of training before it.
    seconds_before: f64,
}

impl<'a> Session<'a> {
    /// Builds the model, and takes over what `loaded` holds.
    ///
    /// # Errors
    /// See [`TrainError`]. An exception of libtorch comes as a panic.
    pub fn new(
        setup: &'a Setup,
        context: RunContext<'a>,
        loaded: Option<&Loaded>,
        SessionConfig { batch_size, mut given_up }: SessionConfig,
    ) -> Result<Self, TrainError> {
        let (spec, run_dir, device) = (setup.spec(), &setup.options.run_dir, setup.options.device);
        let progress = match loaded {
            Some(loaded) => resume::with_batch_size(&loaded.progress, batch_size, spec.nbs),
            None => Progress::start(setup.identity.clone(), batch_size),
        };
        given_up.fp16 |= progress.fp16_off;
        given_up.all |= progress.amp_off;
        // At most 2^53, as the spec's check says.
        tch::manual_seed(spec.seed as i64);
        let classes = i64::try_from(setup.names.len()).unwrap_or(i64::MAX);
        let model = Model::new(spec.model, classes, spec.freeze as usize, device);
        if loaded.is_none() {
            pretrained::load_into(&model, setup, context.events)?;
        }
        // Before a checkpoint is taken over, so that one that goes on computes as it did.
        let choice = precision::choose(&model, spec.imgsz, &setup.candidates(given_up));
        reporting::report_choices(setup, batch_size, &choice, context.events);
        if device == Device::Cpu {
            libtorch::bind_threads();
        }
        let (amp_off, fp16_off) = (given_up.all || choice.is_given_up(), given_up.fp16);
        let progress = Progress { amp_off, fp16_off, identity: setup.identity.clone(), ..progress };
        let mut state = build_state(setup, model, batch_size, choice.precision);
        state.set_epochs(progress.epochs.unwrap_or(spec.epochs));
        // Images of another size are computed from all bits of theirs.
        let of_images = if spec.multi_scale { Precision::Fp32 } else { state.precision() };
        let uploader = Uploader::new(device, of_images);
        let val_uploader = uploader.in_precision(state.precision());
        let memory = setup.options.probe_memory.wants(device).then(|| {
            activity::at(Activity::Search);
            let validation = &validation_config(setup, state.precision(), &val_uploader, context.tracker);
            MemoryProbe { setup, batch_size, uploader: &uploader, validation }.run(&mut state)
        });
        let weights_files = match loaded {
            Some(loaded) => restore(&mut state, loaded, &progress, setup)?,
            None => WeightsFiles::default(),
        };
        let forgiven = if state.forgives() { divergence::FORGIVEN_BATCHES } else { 0 };
        artifacts::write_args(run_dir, setup, batch_size)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |span| span.as_secs_f64());
        let tables = Tables::start(run_dir, now - progress.seconds, &progress.rows)?;
        Ok(Self {
            setup,
            context,
            state,
            weights_files,
            divergence: DivergenceDetector::new(device, progress.batches, forgiven),
            reading: None,
            alloc_retries: AllocRetries::start(device),
            tables,
            uploader,
            val_uploader,
            phase_timer: PhaseTimer::new(device),
            last_step: None,
            drawing: Drawing::start(run_dir),
            newest_batch: NewestBatch { objects: 0, side: 0, device },
            epoch_batches: 0,
            memory,
            clock: TrainingClock { began: Instant::now(), seconds_before: progress.seconds },
            progress,
        })
    }

    /// Epochs in all: the spec's, or those that its `time` is enough for.
    pub(super) fn epochs(&self) -> u32 {
        self.progress.epochs.unwrap_or(self.setup.spec().epochs)
    }

    /// Seconds since training began, pauses left out.
    pub(super) fn seconds(&self) -> f64 {
        self.clock.seconds_before + self.clock.began.elapsed().as_secs_f64()
    }

    pub(super) fn is_out_of_patience(&self) -> bool {
        let best = self.progress.best.as_ref().map_or(0, |best| best.epoch);
        is_patience_over(self.progress.epoch, best, self.setup.spec().patience)
    }

    pub(super) fn is_out_of_time(&self) -> bool {
        time_limit::is_over(self.setup.spec().time, self.seconds())
    }

    pub(super) fn is_asked_to_stop(&self) -> bool {
        self.context.stop.load(Ordering::Relaxed)
    }

    /// Whether this fitness (mAP50-95) is the best so far. While nothing is found at all, the newest is.
    pub(super) fn is_best(&self, fitness: f64) -> bool {
        self.progress.best.as_ref().is_none_or(|best| fitness > best.fitness || best.fitness == 0.0)
    }

    /// What is left to train of the epoch.
    pub(super) fn micro_batches(&self) -> MicroBatches {
        let progress = &self.progress;
        let position = EpochPosition {
            epoch: progress.epoch,
            images: self.setup.train.len() as u64,
            images_done: progress.images_done,
            units_accumulated: progress.units_accumulated,
        };
        position.micro_batches(self.state.schedule(), progress.batch_size)
    }

    /// Before the batches of an epoch, of which so many are left.
    pub(super) fn begin_epoch(&mut self, batches_left: usize) {
        let (spec, epoch) = (self.setup.spec(), self.progress.epoch);
        self.context.tracker.begin_epoch(epoch + 1);
        // In the first step libraries are loaded, and prepare each convolution.
        activity::at(if self.context.tracker.steps() == 0 { Activity::Search } else { Activity::Train });
        self.phase_timer.begin_epoch();
        self.reading = None;
        self.last_step = None;
        self.epoch_batches = self.progress.batches_done + batches_left as u64;
        if epoch == self.first_epoch_without_mosaic()
            && epoch > 0
            && self.progress.batches_done == 0
            && spec.mosaic > 0.0
        {
            console::mosaic_ends(epoch + 1, self.context.events);
            self.drawing.show_more();
        }
        console::epoch_begins(self.context.events);
    }

    /// Begins to load these batches of the epoch.
    pub(super) fn load_epoch(&self, micro_batches: &[MicroBatch]) -> Batches {
        let position = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let plan = EpochPlan {
            epoch: self.progress.epoch,
            batch_size: self.progress.batch_size as usize,
            first_sample: position(self.progress.images_done),
            mosaic: self.progress.epoch < self.first_epoch_without_mosaic(),
        };
        let ranges = micro_batches
            .iter()
            .map(|MicroBatch { samples, .. }| position(samples.start)..position(samples.end));
        self.setup.train_loader().epoch_with_ranges(&plan, ranges.collect())
    }

    /// The first epoch without mosaic, counted from 0.
    fn first_epoch_without_mosaic(&self) -> u32 {
        self.epochs().saturating_sub(self.setup.spec().close_mosaic)
    }

    /// With `time`, the number of epochs follows from how long they take.
    pub(super) fn plan_epochs(&mut self) {
        let (hours, done) = (self.setup.spec().time, self.progress.epoch);
        if hours <= 0.0 {
            return;
        }
        let epochs = time_limit::epochs_within(hours, self.seconds(), done);
        if self.progress.epochs.is_none() {
            let message = format!("`time` is {hours} hours, which is enough for about {epochs} epochs");
            self.context.events.log(LogLevel::Info, message);
        }
        self.progress.epochs = Some(epochs);
        self.state.set_epochs(epochs);
    }

    /// How this session validates.
    pub(super) fn validation(&self) -> ValidationConfig<'_> {
        validation_config(self.setup, self.state.precision(), &self.val_uploader, self.context.tracker)
    }
}

fn build_state(setup: &Setup, model: Model, batch_size: u32, precision: Precision) -> TrainState {
    let spec = &setup.resolved;
    let schedule = Schedule::for_any_gpu(spec, setup.train.len() as u64, batch_size);
    TrainState::new(model, auto::rule(spec), schedule, setup.gains(), precision)
}

/// How a run of `setup` validates.
fn validation_config<'a>(
    setup: &Setup,
    precision: Precision,
    uploader: &'a Uploader,
    tracker: &'a PhaseTracker,
) -> ValidationConfig<'a> {
    let most_objects = setup.val.dataset().most_objects();
    ValidationConfig { gains: setup.gains(), precision, uploader, most_objects, tracker, show: |_, _| {} }
}

/// Brings `state` to where `loaded` was made; returns the weights files of then.
fn restore(
    state: &mut TrainState,
    loaded: &Loaded,
    progress: &Progress,
    setup: &Setup,
) -> Result<WeightsFiles, TrainError> {
    let best = resume::restore(state, loaded, progress)?.map(Arc::new);
    // Inside of an epoch the average has moved on.
    let at_end = progress.epoch > 0 && progress.images_done == 0;
    let last = at_end.then(|| Arc::new(EpochWeights::copy(state.ema.model(), setup, progress.epoch)));
    Ok(WeightsFiles { last, best })
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
