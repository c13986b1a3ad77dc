//! What steps and runs cost a GPU: operators, copies, and waits of the host.

use std::collections::BTreeMap;
use std::process::Command;

use simulated_gpu::{Counts, Machine};
use tch::{Kind, Tensor};
use trainyard_trainer::libtorch::{self, Precision};
use trainyard_trainer::loss::Gains;
use trainyard_trainer::optim::Rule;
use trainyard_trainer::train::memory::alloc_retries::AllocRetries;
use trainyard_trainer::train::memory::{PhaseTracker, ProbeWhen};
use trainyard_trainer::train::precision::forward;
use trainyard_trainer::train::session::RunEnd;
use trainyard_trainer::train::setup::Options;
use trainyard_trainer::train::upload::Uploader;
use trainyard_trainer::train::validate::{BatchInFlight, ValidationConfig};
use trainyard_types::TrainSpec;

use super::runs::checkpoints::newest;
use super::runs::events::logs;
use super::runs::{options, run_with};
use super::steps::{batch, state, train};
use super::{GPU, MEMORY_MIB, alone, shapes};

/// Convolutions of yolov8n's forward pass.
const CONVOLUTIONS: i64 = 63;
/// Their weights, and their biases.
const CASTS: i64 = CONVOLUTIONS + 6;

fn count(counts: &Counts, operator: &str) -> i64 {
    counts.operators_by_name.get(operator).copied().unwrap_or(0)
}

#[test]
fn in_16_bits_a_forward_pass_casts_weights_and_nothing_else() {
    let (gpu, _alone) = alone();
    for precision in [Precision::Fp16, Precision::Bf16] {
        let mut state = state(GPU, Rule::Sgd, precision);
        let uploader = Uploader::new(GPU, precision);
        train(&mut state, &uploader, 1);
        let images = uploader.upload(&batch()).images;
        gpu.reset();
        let _ = forward(&state.model, &images, true, precision);
        let counts = gpu.counts();
        assert_eq!(count(&counts, "aten::copy_"), CASTS, "{precision:?}: {counts:?}");
    }
}

#[test]
fn a_step_copies_no_gradient() {
    let (gpu, _alone) = alone();
    let mut state = state(GPU, Rule::Sgd, Precision::Fp32);
    let uploader = Uploader::new(GPU, Precision::Fp32);
    train(&mut state, &uploader, 1);
    let tensors = uploader.upload(&batch());
    state.forward_backward(&tensors.images, &tensors.targets);
    gpu.reset();
    state.step(1);
    let counts = gpu.counts();
    // The one that is left is of a scalar.
    assert!(count(&counts, "aten::copy_") <= 1 && counts.moved_bytes <= 8, "{counts:?}");
}

#[test]
fn a_batch_of_the_same_shape_makes_no_anchors() {
    let (gpu, _alone) = alone();
    let mut state = state(GPU, Rule::Sgd, Precision::Fp32);
    let uploader = Uploader::new(GPU, Precision::Fp32);
    train(&mut state, &uploader, 1);
    gpu.reset();
    train(&mut state, &uploader, 1);
    let counts = gpu.counts();
    // The assigner numbers its pairs.
    assert_eq!(count(&counts, "aten::arange.start_out"), 1, "{counts:?}");
}

/// What a run of so many images, in 32 bits and with a second's reports, did to the GPU.
fn run_of(images: u32) -> Counts {
    let (gpu, _alone) = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), images);
    let spec = TrainSpec { nbs: 4, amp: false, warmup_epochs: 0.0, ..shapes::spec(&data, 1) };
    let options = options(&spec, &folder.path().join("run"));
    gpu.reset();
    let (end, _) = run_with(Options { device: GPU, probe_memory: ProbeWhen::Never, ..options }, false, "");
    assert_eq!(end.unwrap(), RunEnd::Finished);
    gpu.counts()
}

#[test]
fn however_long_an_epoch_takes_the_host_asks_for_as_few_numbers_and_measures_one_step() {
    let (short, long) = (run_of(24), run_of(120));
    assert!(long.operators > 2 * short.operators);
    for cause in ["aten::_local_scalar_dense", "cudaDeviceSynchronize"] {
        assert_eq!(long.waits_by_cause[cause], short.waits_by_cause[cause], "{cause}");
    }
    assert_eq!((long.staged, long.hazards, long.searches), (0, 0, 0));
}

#[test]
fn memory_that_must_be_given_back_before_there_is_room_is_told_once() {
    let (gpu, _alone) = alone();
    libtorch::memory::release(GPU).unwrap();
    let mut retries = AllocRetries::start(GPU);
    let reserved = libtorch::memory_stats(GPU).unwrap().reserved_bytes;
    gpu.set_capacity(0, reserved + (100 << 20));
    let take = |mib: i64| Tensor::zeros([mib << 20], (Kind::Uint8, GPU));
    drop(take(60));
    assert!(!retries.have_begun());
    drop(take(80));
    gpu.set_capacity(0, MEMORY_MIB << 20);
    assert!(retries.have_begun() && !retries.have_begun());
}

#[test]
fn the_allocator_can_be_asked_before_anything_has_been_done_on_the_gpu() {
    // In a process of its own, where no other test has started CUDA.
    const ALONE: &str = "TRAINYARD_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "costs::the_allocator_can_be_asked_before_anything_has_been_done_on_the_gpu";
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--exact", name]).env(ALONE, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let loaded = libtorch::load_cuda();
    assert_eq!(loaded, Ok(()));
    libtorch::memory::reset_peak(GPU).unwrap();
    assert_eq!(libtorch::memory_stats(GPU).unwrap().allocated_bytes, 0);
}

/// Trains with the program, and returns what that did to its GPU.
fn program(amp: bool) -> Counts {
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), 4);
    let (spec, report) = (folder.path().join("spec.json"), folder.path().join("report.json"));
    std::fs::write(&spec, serde_json::to_vec(&TrainSpec { amp, ..shapes::spec(&data, 1) }).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-trainer"));
    command.args(["train", "--device", "cuda:0", "--spec"]).arg(spec);
    command.arg("--run-dir").arg(folder.path().join("run"));
    let machine = Machine { report: Some(report.clone()), ..Machine::with_memory(2048) };
    let output = machine.preload(&mut command).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let by_phase: BTreeMap<String, Counts> = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    by_phase.into_values().fold(Counts::default(), Counts::plus)
}

#[test]
fn without_amp_nothing_is_in_tf32_and_no_algorithm_is_ever_searched() {
    let (with, without) = (program(true), program(false));
    assert!(with.tf32 > 0 && without.operators > 0);
    assert_eq!((without.tf32, without.searches, with.searches), (0, 0, 0));
}

#[test]
fn a_validation_computes_in_the_precision_that_it_is_told() {
    let (gpu, _alone) = alone();
    let state = state(GPU, Rule::Sgd, Precision::Fp16);
    let tracker = PhaseTracker::default();
    let in_32_bits = |precision| {
        let (gains, show) = (Gains::default(), |_, _| {});
        let uploader = &Uploader::new(GPU, precision);
        let config =
            ValidationConfig { gains, precision, uploader, most_objects: 2, tracker: &tracker, show };
        gpu.reset();
        let _ = BatchInFlight::begin(state.ema.model(), &batch(), &config).finish();
        // Convolutions and products of 32-bit floats: TF32 is allowed.
        gpu.counts().tf32
    };
    let (single, half) = (in_32_bits(Precision::Fp32), in_32_bits(Precision::Fp16));
    assert_eq!(single - half, CONVOLUTIONS, "{single} and {half}");
}

#[test]
fn three_batches_too_large_for_fp16_in_a_row_go_on_in_bf16() {
    let (_gpu, _alone) = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), 8);
    let spec = TrainSpec { nbs: 4, warmup_epochs: 0.0, ..shapes::spec(&data, 2) };
    let run_dir = folder.path().join("run");
    let options = Options { device: GPU, probe_memory: ProbeWhen::Never, ..options(&spec, &run_dir) };
    let (end, events) = run_with(options, false, "overflow:2,overflow:3,overflow:4");
    assert_eq!(end.unwrap(), RunEnd::Finished, "{events:?}");
    let told = logs(&events);
    assert!(
        told.iter().any(|text| text.ends_with("going on in bf16 from the newest checkpoint")),
        "{told:?}"
    );
    assert!(told.contains(&"AMP: layers compute in bf16"), "{told:?}");
    let progress = newest(&run_dir).progress;
    assert_eq!((progress.fp16_off, progress.amp_off, progress.scaler), (true, false, None));
}
