//! The whole run: check, build, train, validate, save, until done, stopped, or out of memory at batch 1.

pub mod artifacts;
pub mod budget;
pub mod console;
pub mod data_roots;
pub mod drawing;
pub mod error;
pub mod guard;
pub mod meter;
pub mod multi_scale;
pub mod oom;
pub mod pieces;
pub mod precision;
pub mod resume;
pub mod saver;
pub mod session;
pub mod setup;
pub mod step;
pub mod tables;
pub mod transfer;
pub mod upload;
pub mod validate;

use std::sync::atomic::AtomicBool;

use trainyard_types::trainer::{BatchSizeChanged, Finished, LogLevel, Phase, Started, TrainerEvent};

use self::error::TrainError;
use self::saver::Saver;
use self::session::{End, Outside, Session};
use self::setup::{Options, Setup};
use crate::checkpoint::{self, Loaded};
use crate::events::Events;
use crate::libtorch::{self, device_name};

/// Trains as `options` say, and tells `events` about it. Raising `stop` ends it at the next batch, with a
/// checkpoint.
///
/// # Errors
/// See [`TrainError`]. A checkpoint that was complete before stays.
pub fn train(options: Options, events: &mut Events, stop: &AtomicBool) -> Result<End, TrainError> {
    let mut batch_size = options.first_batch_size()?;
    let mut resume = options.resume;
    let mut amp_off = false;
    let mut told = false;
    let setup = Setup::new(options, events)?;
    let minutes = setup.spec().checkpoint_minutes;
    let mut saver = Saver::new(&setup.options.run_dir, setup.options.checkpoints(), minutes);
    loop {
        let loaded = if resume { newest(&setup, events)? } else { None };
        // Only fp16 has a range that a healthy training may leave.
        let amp = setup.candidates(amp_off).contains(&libtorch::Precision::Half);
        let result = libtorch::catch(|| {
            let outside = Outside { events, saver: &mut saver, stop };
            let mut session = Session::new(&setup, outside, loaded.as_ref(), (batch_size, amp_off))?;
            // As large as the model and its optimiser, several times.
            drop(loaded);
            if !told {
                tell_started(&setup, &mut session);
                told = true;
            }
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
                let Some(smaller) = oom::next_smaller(batch_size) else {
                    return Err(TrainError::OutOfMemory(error));
                };
                let bn_group = setup.spec().bn_group;
                if smaller < bn_group {
                    return Err(TrainError::BnGroup { bn_group, batch_size: smaller });
                }
                let resumed = setup.options.checkpoints().exists();
                let message = oom::message(batch_size, smaller, resumed, &error);
                events.print(&format!("warning: {message}"));
                events.emit(TrainerEvent::BatchSize(BatchSizeChanged {
                    from: batch_size,
                    to: smaller,
                    message,
                    phase: Phase::default(),
                }));
                batch_size = smaller;
            }
            Err(error) => return Err(error.into()),
            Ok(Err(error @ TrainError::NotFinite { .. })) if amp => {
                let message = format!("{error}; going on in 32 bits from the newest checkpoint");
                events.log(LogLevel::Warning, message);
                amp_off = true;
            }
            Ok(end) => return end,
        }
    }
}

/// The newest checkpoint of this very run.
fn newest(setup: &Setup, events: &mut Events) -> Result<Option<Loaded>, TrainError> {
    let root = setup.options.checkpoints();
    let found = checkpoint::newest(&root).map_err(TrainError::io(root))?;
    for warning in found.warnings {
        events.log(LogLevel::Warning, format!("checkpoint {warning}"));
    }
    let Some(loaded) = found.checkpoint else { return Ok(None) };
    let (ours, theirs) = (&setup.identity, &loaded.progress.identity);
    if let Some(difference) = ours.difference(theirs) {
        return Err(TrainError::Foreign { place: loaded.place, difference });
    }
    if ours.has_other_labels(theirs) {
        let message = "the labels of the training images have changed since the checkpoint was made";
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
        ..Started::default()
    };
    let gflops = session.model().plan().gflops(i64::from(spec.imgsz));
    console::started(&started, gflops, setup, session.events());
    session.events().emit(TrainerEvent::Started(started));
}

fn tell_finished(setup: &Setup, session: &mut Session<'_>) {
    let (best_epoch, metrics) =
        session.progress().best.as_ref().map(|best| (best.epoch, best.metrics.clone())).unwrap_or_default();
    let artifacts = artifacts::all(&setup.options.run_dir);
    session.events().emit(TrainerEvent::Finished(Finished { best_epoch, metrics, artifacts }));
}
