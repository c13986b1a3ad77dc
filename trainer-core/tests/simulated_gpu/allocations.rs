//! Memory that runs out at an allocation of a step, of a validation's batch and of the measurement before the first
//! step, in this process. A few allocations by chance; `TRAINYARD_EVERY_ALLOCATION=1` tries every one, in some minutes.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use simulated_gpu::SimulatedGpu;
use tch::Tensor;
use trainyard_trainer::checkpoint::{Identity, Progress};
use trainyard_trainer::events::Events;
use trainyard_trainer::libtorch::{self, Precision, catch_on, foreach};
use trainyard_trainer::loss::Gains;
use trainyard_trainer::model::Model;
use trainyard_trainer::optim::{Rule, Scaler, Schedule};
use trainyard_trainer::train::memory::PhaseTracker;
use trainyard_trainer::train::memory::memory_probe::MemoryProbe;
use trainyard_trainer::train::output::saver::WeightsFiles;
use trainyard_trainer::train::resume::snapshot;
use trainyard_trainer::train::setup::{Options, Setup};
use trainyard_trainer::train::state::TrainState;
use trainyard_trainer::train::upload::Uploader;
use trainyard_trainer::train::validate::{BatchInFlight, ValidationConfig};
use trainyard_trainer::weights::Metadata;
use trainyard_types::ModelScale;
use trainyard_types::trainer::MemoryMeasured;

use super::runs::options;
use super::steps::{batch, state, train};
use super::tries::chosen;
use super::{GPU, alone, on_host, shapes};

/// How long the thread of the backward pass may hold the last of its tensors.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of all tensors on the GPU.
pub fn allocated() -> u64 {
    libtorch::memory_stats(GPU).unwrap().allocated_bytes
}

/// Waits until there are no more bytes in tensors than `before`.
pub fn wait_until_free(before: u64, what: &str) {
    let began = Instant::now();
    if allocated() > before {
        // A copy whose batch was given up is made as late as may be, and holds its memory until then.
        tch::Cuda::synchronize(0);
    }
    while allocated() > before {
        assert!(began.elapsed() < PATIENCE, "{what}: {} bytes are never freed", allocated() - before);
        std::thread::yield_now();
    }
}

/// Does `work` once undisturbed, and then so that an allocation fails, each followed by `undo`. What fails must be told
/// as memory that ran out, leave nothing, and change no bit of what `work` does then. Returns how often nothing failed
/// after all, as `work` itself went on with less.
fn try_allocations(
    gpu: &SimulatedGpu,
    what: &str,
    few: i64,
    work: &mut dyn FnMut() -> Vec<Tensor>,
    undo: &mut dyn FnMut(),
) -> usize {
    // The first time makes what is made once.
    work();
    undo();
    gpu.reset();
    let expected = work();
    let total = gpu.counts().allocations;
    undo();
    let before = allocated();
    let mut survived = 0;
    for nth in chosen(what, total, few) {
        let what = format!("{what}, allocation {nth} of {total}");
        gpu.fail_at(nth);
        let done = catch_on(GPU, &mut *work).map(drop);
        gpu.fail_at(0);
        match done {
            Ok(()) => survived += 1,
            Err(error) => assert!(error.is_out_of_memory(), "{what}: {error}"),
        }
        undo();
        wait_until_free(before, &what);
        for (at, (expected, found)) in expected.iter().zip(&work()).enumerate() {
            assert!(expected.equal(found), "{what}: tensor {at} differs");
        }
        undo();
    }
    survived
}

/// A state as it was at some moment, to go back to as after a checkpoint.
struct Before {
    tensors: Vec<Tensor>,
    losses: [Tensor; 2],
    updates: [u64; 2],
    scaler: Option<(f64, i64)>,
}

/// Weights, average and optimiser of a state.
fn tensors(state: &TrainState) -> Vec<Tensor> {
    let weights = state.model.weights().iter().chain(state.ema.model().weights().iter());
    let weights = weights.map(|entry| entry.tensor.detach());
    let optimizer = state.optimizer.state().into_iter().map(|(_, tensor)| tensor);
    let scalars = [&state.loss_sums, &state.skipped, &state.accumulated.scores].map(Tensor::shallow_clone);
    weights.chain(optimizer).chain(scalars).collect()
}

impl Before {
    fn of(state: &TrainState) -> Self {
        Self {
            tensors: tensors(state).iter().map(Tensor::copy).collect(),
            losses: [state.losses.copy(), state.finite.copy()],
            updates: [state.updates, state.ema.updates],
            scaler: state.scaler.as_ref().map(Scaler::state),
        }
    }

    fn restore(&self, state: &mut TrainState) {
        let _no_grad = tch::no_grad_guard();
        let is_there = |pair: &(Tensor, &Tensor)| pair.0.device() == GPU;
        let (there, here): (Vec<_>, Vec<_>) =
            tensors(state).into_iter().zip(&self.tensors).partition(is_there);
        let (to, from): (Vec<_>, Vec<_>) = there.iter().map(|(to, from)| (to, *from)).unzip();
        foreach::copy(&to, &from).unwrap();
        for (mut to, from) in here {
            to.copy_(from);
        }
        state.zero_grad();
        [state.losses, state.finite] = self.losses.each_ref().map(Tensor::copy);
        [state.updates, state.ema.updates] = self.updates;
        state.scaler = self.scaler.map(|(scale, growth)| Scaler::restore(scale, growth, GPU));
    }
}

#[test]
fn memory_may_run_out_at_each_allocation_of_a_step_and_the_next_try_does_the_same() {
    let (gpu, _alone) = alone();
    for (rule, precision, few) in [
        (Rule::Sgd, Precision::Fp32, 40),
        (Rule::Sgd, Precision::Fp16, 15),
        (Rule::AdamW { beta1: 0.9 }, Precision::Bf16, 15),
    ] {
        let uploader = Uploader::new(GPU, precision);
        let state = RefCell::new(state(GPU, rule, precision));
        train(&mut state.borrow_mut(), &uploader, 1);
        let before = Before::of(&state.borrow());
        let mut step = || {
            let state = &mut state.borrow_mut();
            train(state, &uploader, 1);
            tensors(state).iter().map(on_host).collect()
        };
        let mut undo = || before.restore(&mut state.borrow_mut());
        let what = format!("a step of {rule:?} in {precision:?}");
        assert_eq!(try_allocations(gpu, &what, few, &mut step, &mut undo), 0);
    }
}

/// How the tests validate.
fn validation<'a>(tracker: &'a PhaseTracker, uploader: &'a Uploader) -> ValidationConfig<'a> {
    let (gains, precision) = (Gains::default(), Precision::Fp32);
    ValidationConfig { gains, precision, uploader, most_objects: 2, tracker, show: |_, _| {} }
}

#[test]
fn memory_may_run_out_at_each_allocation_of_a_validation_and_it_sees_the_same_with_fewer_images_at_once() {
    let (gpu, _alone) = alone();
    let state = state(GPU, Rule::Sgd, Precision::Fp32);
    let tracker = RefCell::new(PhaseTracker::default());
    let uploader = Uploader::new(GPU, Precision::Fp32);
    let lowered = Cell::new(0);
    let mut validate = || {
        let tracker = tracker.borrow();
        let config = validation(&tracker, &uploader);
        let found = BatchInFlight::begin(state.ema.model(), &batch(), &config).finish();
        let counts = found.detections.iter().map(|image| i64::try_from(image.len()).unwrap());
        let counts = Tensor::from_slice(&counts.collect::<Vec<_>>());
        lowered.set(lowered.get() + usize::from(tracker.take_lowered_validation().is_some()));
        vec![on_host(&found.components), counts]
    };
    let mut undo = || drop(tracker.replace(PhaseTracker::default()));
    let survived = try_allocations(gpu, "a validation", 40, &mut validate, &mut undo);
    assert!(survived > 0 && survived == lowered.get(), "{survived}, {}", lowered.get());
}

#[test]
fn memory_may_run_out_at_each_allocation_of_the_measurement_before_the_first_step() {
    let (gpu, _alone) = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), 4);
    let options = options(&shapes::spec(&data, 1), &folder.path().join("run"));
    let setup = Setup::new(Options { device: GPU, ..options }, &mut Events::recording()).unwrap();
    let uploader = Uploader::new(GPU, Precision::Fp32);
    let state = RefCell::new(state_of(&setup));
    let before = Before::of(&state.borrow());
    let mut measure = || {
        let (state, tracker) = (&mut state.borrow_mut(), PhaseTracker::default());
        let validation = &validation(&tracker, &uploader);
        let probe = MemoryProbe { setup: &setup, batch_size: 2, uploader: &uploader, validation };
        let MemoryMeasured { step_peak_mib, validation_peak_mib, .. } = probe.run(state);
        let peaks = [step_peak_mib, validation_peak_mib].map(|mib| i64::try_from(mib).unwrap());
        std::iter::once(Tensor::from_slice(&peaks)).chain(tensors(state).iter().map(on_host)).collect()
    };
    let mut undo = || before.restore(&mut state.borrow_mut());
    let survived = try_allocations(gpu, "the measurement", 40, &mut measure, &mut undo);
    assert!(survived > 0, "its batch of validation is looked at in parts");
}

/// A model for the classes of a run, before its first step.
fn state_of(setup: &Setup) -> TrainState {
    tch::manual_seed(0);
    let classes = i64::try_from(setup.names.len()).unwrap();
    let model = Model::new(setup.spec().model, classes, 0, GPU);
    let schedule = Schedule::new(setup.spec(), 4, 2);
    TrainState::new(model, Rule::Sgd, schedule, Gains::default(), Precision::Fp32)
}

#[test]
fn memory_may_run_out_at_each_allocation_of_a_checkpoint_which_is_copied_without_any_then() {
    let (gpu, _alone) = alone();
    let mut state = state(GPU, Rule::Sgd, Precision::Fp32);
    let tensors = Uploader::new(GPU, Precision::Fp32).upload(&batch());
    // With gradients that wait for a step.
    state.forward_backward(&tensors.images, &tensors.targets);
    let progress = Progress::start(Identity::new(ModelScale::N, Vec::new(), 4, 0), 4);
    let files = |fail_at: i64| {
        gpu.reset();
        gpu.fail_at(fail_at);
        let files = snapshot(&state, &progress, &WeightsFiles::default()).files;
        gpu.fail_at(0);
        let bytes = files.iter().map(|(_, tensors)| tensors.encode(&Metadata::new()).unwrap());
        (bytes.collect::<Vec<_>>(), gpu.counts().allocations)
    };
    let (expected, allocations) = files(0);
    // A piece for each file.
    assert_eq!((expected.len(), allocations), (4, 4));
    for nth in 1..=allocations {
        let (found, allocations) = files(nth);
        assert!(found == expected && allocations == 4, "{nth}: {allocations}");
    }
}
