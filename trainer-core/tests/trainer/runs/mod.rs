//! Trainings inside a test's process, on the CPU; and, beside it, what they leave and say.

pub mod checkpoints;
pub mod events;
pub mod process;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::Device;
use trainyard_data::cache::disk::Limits;
use trainyard_trainer::events::Events;
use trainyard_trainer::libtorch;
use trainyard_trainer::train::error::TrainError;
use trainyard_trainer::train::memory::PhaseTracker;
use trainyard_trainer::train::memory::ProbeWhen;
use trainyard_trainer::train::session::RunEnd;
use trainyard_trainer::train::setup::Options;
use trainyard_trainer::train::train_tracked;
use trainyard_types::TrainSpec;
use trainyard_types::trainer::TrainerEvent;

/// libtorch's generator is one for the process, so runs take turns. One thread: sums in one order.
pub fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = libtorch::load_cuda();
    tch::set_num_threads(1);
    guard
}

/// As an agent would ask for a new run.
pub fn options(spec: &TrainSpec, run_dir: &Path) -> Options {
    Options {
        spec: spec.clone(),
        run_dir: run_dir.to_owned(),
        cache_dir: None,
        cache_limits: Limits::DEFAULT,
        cache_ram_bytes: None,
        device: Device::Cpu,
        batch_size: None,
        resume: false,
        data_roots: Vec::new(),
        is_stored: false,
        amp: None,
        probe_memory: ProbeWhen::Auto,
        control: None,
    }
}

/// Trains; `stop`: somebody has asked to stop already. Returns the end and all events.
pub fn run(options: Options, stop: bool) -> (Result<RunEnd, TrainError>, Vec<TrainerEvent>) {
    run_with(options, stop, "")
}

/// [`run`] with memory that runs out, as `PhaseTracker::with_faults` has it.
pub fn run_with(
    options: Options,
    stop: bool,
    faults: &str,
) -> (Result<RunEnd, TrainError>, Vec<TrainerEvent>) {
    let mut events = Events::recording();
    let watch = PhaseTracker::with_faults(faults);
    let end = train_tracked(options, &mut events, &AtomicBool::new(stop), &watch);
    (end, events.recorded().to_vec())
}
