//! A whole run: check, build, train, validate, save, until done, stopped, or out of memory at batch 1.
//!
//! A run is one session after the other: memory that runs out, or values that 16 bits cannot hold, end one, and
//! the next goes on from the newest checkpoint. The loop over epochs and batches is in `training_loop.rs`.

pub mod batch_tensors;
pub mod bn_state;
pub mod data_roots;
pub mod error;
pub mod fault_injection;
pub mod locked_pixels;
pub mod memory;
pub mod micro_batches;
pub mod monitoring;
pub mod multi_scale;
pub mod output;
pub mod precision;
pub mod pretrained;
pub mod resume;
pub mod session;
pub mod setup;
pub mod state;
pub mod stored;
mod training_loop;
pub mod unfit;
pub mod upload;
pub mod validate;

use std::sync::atomic::AtomicBool;

use trainyard_types::trainer::{Activity, LogLevel};

use self::error::TrainError;
use self::memory::PhaseTracker;
use self::memory::oom_retry::OomRetry;
use self::output::saver::Saver;
use self::precision::GivenUp;
use self::session::{RunContext, RunEnd, Session, SessionConfig};
use self::setup::{Options, Setup};
use crate::activity;
use crate::events::Events;
use crate::libtorch::{self, Precision};

/// Trains as `options` say, and reports to `events`. Raising `stop` ends it at the next batch, with a
/// checkpoint.
///
/// # Errors
/// See [`TrainError`]. A checkpoint that was complete before stays.
pub fn train(options: Options, events: &mut Events, stop: &AtomicBool) -> Result<RunEnd, TrainError> {
    train_tracked(options, events, stop, &PhaseTracker::from_env())
}

/// [`train`], followed by `tracker`, which may have faults to test with.
///
/// # Errors
/// As [`train`].
pub fn train_tracked(
    options: Options,
    events: &mut Events,
    stop: &AtomicBool,
    tracker: &PhaseTracker,
) -> Result<RunEnd, TrainError> {
    let mut config = SessionConfig { batch_size: options.first_batch_size()?, given_up: GivenUp::default() };
    let mut resume = options.resume;
    let mut started = false;
    let setup = Setup::new(options, events)?;
    activity::at(Activity::Start);
    let mut oom_retry = OomRetry::new(setup.spec().bn_group);
    let minutes = setup.spec().checkpoint_minutes;
    let mut saver = Saver::new(&setup.options.run_dir, setup.options.checkpoints(), minutes);
    loop {
        let loaded = if resume { resume::newest(&setup, events)? } else { None };
        // Until the session says more: a checkpoint or its check may have given 16 bits up already.
        let mut precision = Precision::Fp32;
        tracker.begin_session();
        let result = libtorch::catch_on(setup.options.device, || {
            let context = RunContext { events, saver: &mut saver, stop, tracker };
            let mut session = Session::new(&setup, context, loaded.as_ref(), config)?;
            precision = session.precision();
            // As large as the model and its optimiser, several times.
            drop(loaded);
            if !started {
                session.report_started();
                started = true;
            }
            session.report_memory();
            let end = session.run()?;
            if end == RunEnd::Finished {
                session.report_finished();
            }
            Ok(end)
        });
        // Whatever happened, the next session goes on from what this run has saved.
        saver.flush(events);
        resume = true;
        match result {
            Err(error) if error.is_out_of_memory() => {
                // The session is gone, and with it all that it held.
                libtorch::memory::release(setup.options.device)?;
                config.batch_size =
                    oom_retry.next_batch_size(config.batch_size, error, &setup, tracker, events)?;
            }
            Err(error) => return Err(error.into()),
            Ok(Err(error @ TrainError::NotFinite { .. })) if precision != Precision::Fp32 => {
                config.given_up.give_up(precision);
                let next = setup.candidates(config.given_up).first().copied().unwrap_or_default();
                let message = format!("{error}; going on in {} from the newest checkpoint", next.name());
                events.log(LogLevel::Warning, message);
            }
            Ok(end) => return end,
        }
    }
}
