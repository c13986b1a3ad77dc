//! Errors of cuDNN, cuBLAS and the driver in the middle of a training: which mean memory, and which end the process.

use simulated_gpu::{Machine, OperatorFault};
use trainyard_trainer::libtorch;
use trainyard_trainer::train::error::TrainError;
use trainyard_trainer::train::memory::ProbeWhen;
use trainyard_trainer::train::session::RunEnd;
use trainyard_trainer::train::setup::Options;
use trainyard_types::TrainSpec;
use trainyard_types::trainer::{TrainerEvent, exit_code};

use super::programs::{Bench, fault, finish, trainer};
use super::runs::events::batch_sizes;
use super::runs::{options, run};
use super::{GPU, MEMORY_MIB, alone, shapes};

/// Means memory wherever it is said.
const CERTAIN: [&str; 4] = [
    "CUDA out of memory. Tried to allocate 20.00 MiB",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
];
/// Means memory where little is free.
const AMBIGUOUS: [&str; 6] = [
    "FIND was unable to find an engine to execute this computation",
    "GET was unable to find an engine to execute this computation",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate(handle)`",
];
/// CUDA's error 700.
const BROKEN: &str = "an illegal memory access was encountered";
/// Means something else.
const OTHER: [&str; 2] = [
    "cuDNN error: CUDNN_STATUS_BAD_PARAM",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
];

/// Trains two steps, in the second of which a convolution's backward pass fails with `words`. `free_mib`: of the GPU.
fn train(words: &str, free_mib: u64) -> (Result<RunEnd, TrainError>, Vec<TrainerEvent>) {
    let (gpu, _alone) = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), 8);
    let spec = TrainSpec { nbs: 4, amp: false, ..shapes::spec(&data, 1) };
    let options = options(&spec, &folder.path().join("run"));
    libtorch::memory::release(GPU).unwrap();
    let reserved = libtorch::memory_stats(GPU).unwrap().reserved_bytes;
    gpu.set_capacity(0, reserved + (free_mib << 20));
    gpu.set_fault(&fault("aten::convolution_backward", 100, words));
    let found = run(Options { device: GPU, probe_memory: ProbeWhen::Never, ..options }, false);
    gpu.set_fault(&OperatorFault::default());
    gpu.set_capacity(0, MEMORY_MIB << 20);
    found
}

#[test]
fn what_means_memory_leads_to_a_smaller_batch_and_what_does_not_ends_the_run_with_its_words() {
    // On a GPU that is nearly full, and on one with room.
    for (words, [is_memory_in_want, is_memory_with_room]) in CERTAIN
        .map(|words| (words, [true, true]))
        .into_iter()
        .chain(AMBIGUOUS.map(|words| (words, [true, false])))
        .chain(OTHER.map(|words| (words, [false, false])))
    {
        for (free_mib, is_memory) in [(400, is_memory_in_want), (4000, is_memory_with_room)] {
            let (end, events) = train(words, free_mib);
            let what = format!("{words}, {free_mib} MiB free: {end:?}");
            assert_eq!(batch_sizes(&events).len(), usize::from(is_memory), "{what}");
            match end {
                Ok(RunEnd::Finished) => assert!(is_memory, "{what}"),
                Err(error) => {
                    assert!(!is_memory && error.to_string().contains(words), "{what}");
                    assert_eq!(error.exit_code(), exit_code::INTERNAL);
                }
                Ok(RunEnd::Stopped) => panic!("{what}"),
            }
        }
    }
}

#[test]
fn cudnn_that_finds_no_engine_for_want_of_memory_gets_a_smaller_batch() {
    let bench = Bench::new(16);
    // In the first epoch: what fails while a picture is made costs the picture alone.
    let fault = fault("aten::convolution", 400, AMBIGUOUS[0]);
    // Nearly full: what is free is less than a workspace.
    let ended = bench.train(&Machine { fault, ..Machine::with_memory(400) });
    assert_eq!(ended.code, Some(exit_code::DONE), "{ended:?}");
    assert_eq!(batch_sizes(&ended.events).len(), 1, "{ended:?}");
}

/// An error after which the GPU answers nothing else.
fn broken(operator: &str, nth: i64, code: i32) -> Machine {
    let fault = OperatorFault { operator: operator.into(), nth, sticky: code, message: String::new() };
    Machine { fault, ..Machine::with_memory(2048) }
}

#[test]
fn a_gpu_whose_context_breaks_is_told_with_the_cause_and_ends_the_trainer_at_once() {
    let bench = Bench::new(8);
    // In a step; in the thread of a backward pass; in an optimiser step; as a number comes to the host; before it all.
    for (operator, nth, code, words) in [
        ("aten::convolution", 150, 700, BROKEN),
        ("aten::convolution_backward", 80, 719, "unspecified launch failure"),
        ("aten::_fused_sgd_", 5, 214, "uncorrectable ECC error encountered"),
        ("aten::_local_scalar_dense", 3, 710, "device-side assert triggered"),
        ("", 1, 700, BROKEN),
    ] {
        let ended = bench.train_with(&broken(operator, nth, code), &format!("run-{code}-{nth}"), &[], &[]);
        let what = format!("{operator}, {code}: {ended:?}");
        assert_eq!(ended.code, Some(exit_code::INTERNAL), "{what}");
        assert!(ended.failed().message.contains(words), "{what}");
        assert!(batch_sizes(&ended.events).is_empty(), "nothing is tried again: {what}");
    }
}

#[test]
fn other_commands_on_a_gpu_that_is_full_or_whose_context_breaks_say_so_too() {
    let bench = Bench::new(4);
    let ended = bench.train(&Machine::with_memory(2048));
    assert_eq!(ended.code, Some(exit_code::DONE), "{ended:?}");
    let (weights, data) = (bench.path("run/weights/best.safetensors"), bench.spec.data.clone());
    let (source, out) = (bench.path("data/images"), bench.path("seen"));
    let [weights, data, source, out] = [&weights, &data, &source, &out].map(|path| path.to_str().unwrap());
    let run = |machine: &Machine, words: &str, arguments: &[&str]| {
        let mut command = trainer();
        command.args(arguments).args(["--device", "cuda:0"]);
        let output = finish(machine.preload(&mut command));
        let text =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(text.contains(words), "{arguments:?}: {text}");
        assert_eq!(output.status.code(), Some(exit_code::INTERNAL), "{arguments:?}: {text}");
    };
    // The first weights, and the first layer.
    let full = Machine { fault: fault("aten::copy_", 1, CERTAIN[0]), ..Machine::with_memory(2048) };
    let broken = broken("aten::convolution", 1, 700);
    for (machine, words) in [(&full, CERTAIN[0]), (&broken, BROKEN)] {
        run(machine, words, &["val", "--weights", weights, "--data", data]);
        run(machine, words, &["predict", "--weights", weights, "--source", source, "--out", out]);
    }
    run(&broken, BROKEN, &["self-test"]);
}
