//! The whole run: check, build, train, validate, save, until done, stopped, or out of memory at batch 1.

pub mod artifacts;
pub mod budget;
pub mod console;
pub mod control;
pub mod data_roots;
pub mod drawing;
pub mod error;
pub mod gauge;
pub mod guard;
pub mod measure;
pub mod meter;
pub mod multi_scale;
pub mod oom;
pub mod phases;
pub mod pieces;
pub mod precision;
pub mod resume;
pub mod saver;
pub mod session;
pub mod setup;
pub mod statistics;
pub mod step;
pub mod tables;
pub mod transfer;
pub mod unfit;
pub mod upload;
pub mod validate;
pub mod watch;

use std::sync::atomic::AtomicBool;

use trainyard_types::fit::Shortage;
use trainyard_types::oom::next_smaller;
use trainyard_types::trainer::{Activity, BatchSizeChanged, Finished, LogLevel, Started, TrainerEvent};

use self::error::TrainError;
use self::oom::{Ladder, Next};
use self::saver::Saver;
use self::session::{End, Outside, Session};
use self::setup::{Options, Setup};
use self::watch::Watch;
use crate::checkpoint::{self, Loaded};
use crate::events::Events;
use crate::libtorch::{self, Precision, TorchError, device_name};
use crate::pulse;

/// Trains as `options` say, and tells `events` about it. Raising `stop` ends it at the next batch, with a
/// checkpoint.
///
/// # Errors
/// See [`TrainError`]. A checkpoint that was complete before stays.
pub fn train(options: Options, events: &mut Events, stop: &AtomicBool) -> Result<End, TrainError> {
    train_watched(options, events, stop, &Watch::from_env())
}

/// [`train`], followed by `watch`, which may have faults to test with.
///
/// # Errors
/// As [`train`].
pub fn train_watched(
    options: Options,
    events: &mut Events,
    stop: &AtomicBool,
    watch: &Watch,
) -> Result<End, TrainError> {
    let mut batch_size = options.first_batch_size()?;
    let mut resume = options.resume;
    let mut amp_off = false;
    let mut told = false;
    let setup = Setup::new(options, events)?;
    pulse::at(Activity::Start);
    let mut ladder = Ladder::new(setup.spec().bn_group);
    let minutes = setup.spec().checkpoint_minutes;
    let mut saver = Saver::new(&setup.options.run_dir, setup.options.checkpoints(), minutes);
    loop {
        let loaded = if resume { newest(&setup, events)? } else { None };
        // Until the session says more: a checkpoint or its check may have given 16 bits up already.
        let mut precision = Precision::Single;
        watch.session_begins();
        let result = libtorch::catch(|| {
            let outside = Outside { events, saver: &mut saver, stop, watch };
            let mut session = Session::new(&setup, outside, loaded.as_ref(), (batch_size, amp_off))?;
            precision = session.precision();
            // As large as the model and its optimiser, several times.
            drop(loaded);
            if !told {
                tell_started(&setup, &mut session);
                told = true;
            }
            session.tell_memory();
            let end = session.run()?;
            if end == End::Finished {
                tell_finished(&setup, &mut session);
            }
            Ok(end)
        });
        // Whatever happened, the next try goes on from what this run has saved.
        saver.settle(events);
        resume = true;
        match result {
            Err(error) if error.is_out_of_memory() => {
                // The session is gone, and with it all that it held.
                libtorch::memory::release(setup.options.device)?;
                batch_size = go_on_with(&setup, batch_size, (watch, &mut ladder), error, events)?;
            }
            Err(error) => return Err(error.into()),
            Ok(Err(error @ TrainError::NotFinite { .. })) if precision != Precision::Single => {
                let message = format!("{error}; going on in 32 bits from the newest checkpoint");
                events.log(LogLevel::Warning, message);
                amp_off = true;
            }
            Ok(end) => return end,
        }
    }
}

/// The batch size to go on with after memory ran out, which the user is told.
///
/// # Errors
/// None fits, or no longer in this process.
fn go_on_with(
    setup: &Setup,
    from: u32,
    (watch, ladder): (&Watch, &mut Ladder),
    error: TorchError,
    events: &mut Events,
) -> Result<u32, TrainError> {
    let (spec, phase) = (setup.spec(), watch.phase());
    let next = ladder.after(from, watch.steps() > 0);
    let to = match next {
        Next::With(to) | Next::Elsewhere(to) => to,
        Next::Nowhere => {
            let bn_group = spec.bn_group;
            return Err(match next_smaller(from) {
                Some(batch_size) if batch_size < bn_group => TrainError::BnGroup { bn_group, batch_size },
                _ => {
                    let stats = libtorch::memory_stats(setup.options.device);
                    let available = stats.map(|stats| (stats.free_bytes + stats.reserved_bytes) >> 20);
                    let shortage = Shortage {
                        model: spec.model,
                        imgsz: spec.imgsz,
                        multi_scale: spec.multi_scale,
                        single: setup.candidates(false).is_empty(),
                        available_mib: available,
                    };
                    TrainError::OutOfMemory { error, advice: shortage.advice() }
                }
            });
        }
    };
    let message = oom::message(from, to, phase, setup.options.checkpoints().exists(), &error);
    events.print(&format!("warning: {message}"));
    events.emit(TrainerEvent::BatchSize(BatchSizeChanged { from, to, message, phase }));
    match next {
        Next::Elsewhere(_) => Err(TrainError::OutOfMemoryAgain { error, doing: oom::doing(phase) }),
        Next::With(_) | Next::Nowhere => Ok(to),
    }
}

/// The newest checkpoint of this very run. Damaged ones are set aside.
fn newest(setup: &Setup, events: &mut Events) -> Result<Option<Loaded>, TrainError> {
    let root = setup.options.checkpoints();
    let found = checkpoint::newest(&root).map_err(TrainError::io(&root))?;
    if let Some(skipped) = found.of_another_version() {
        // To begin anew would be to lose a run for an upgrade.
        let (place, reason) = (skipped.place.clone(), skipped.reason.to_string());
        return Err(TrainError::OtherVersion { place, reason });
    }
    if let Some(loaded) = &found.checkpoint {
        belongs(loaded, setup)?;
    }
    for skipped in &found.skipped {
        let aside = skipped.set_aside().map_err(TrainError::io(&skipped.place))?;
        let message = format!("checkpoint {skipped}; it is set aside as {}", aside.display());
        events.log(LogLevel::Warning, message);
    }
    let Some(loaded) = found.checkpoint else {
        if !found.skipped.is_empty() {
            let message = "no checkpoint of the run is whole: it begins anew";
            events.log(LogLevel::Warning, message);
        }
        return Ok(None);
    };
    if let Some(images) = setup.identity.with_other_labels(&loaded.progress.identity) {
        let message = format!("the labels of the {images} have changed since the checkpoint was made");
        events.log(LogLevel::Warning, message);
    }
    let progress = &loaded.progress;
    let message = format!(
        "going on from step {} in epoch {} ({})",
        progress.step,
        progress.epoch + 1,
        loaded.place.display()
    );
    events.log(LogLevel::Info, message);
    Ok(Some(loaded))
}

/// Refuses a checkpoint of another run.
fn belongs(loaded: &Loaded, setup: &Setup) -> Result<(), TrainError> {
    match setup.identity.difference(&loaded.progress.identity) {
        Some(difference) => Err(TrainError::Foreign { place: loaded.place.clone(), difference }),
        None => Ok(()),
    }
}

fn tell_started(setup: &Setup, session: &mut Session<'_>) {
    let spec = setup.spec();
    let started = Started {
        parameters: session.model().weights().parameters(),
        train_images: setup.train.len() as u64,
        val_images: setup.val.len() as u64,
        classes: setup.names.clone(),
        epochs: session.epochs(),
        batch_size: session.progress().batch_size,
        first_epoch: (session.progress().epoch + 1).min(session.epochs()),
        device: device_name(setup.options.device),
        precision: session.precision().name().to_owned(),
        libtorch: libtorch::build::build(&Ok(())).version,
        workers: u32::try_from(setup.workers()).unwrap_or(u32::MAX),
        gflops: session.model().plan().gflops(i64::from(spec.imgsz)),
    };
    let optimizer = session.optimizer();
    console::started(&started, &optimizer, setup, session.events());
    session.events().emit(TrainerEvent::Started(started));
}

fn tell_finished(setup: &Setup, session: &mut Session<'_>) {
    let (best_epoch, metrics) =
        session.progress().best.as_ref().map(|best| (best.epoch, best.metrics.clone())).unwrap_or_default();
    let artifacts = artifacts::all(&setup.options.run_dir);
    session.events().emit(TrainerEvent::Finished(Finished { best_epoch, metrics, artifacts }));
}
