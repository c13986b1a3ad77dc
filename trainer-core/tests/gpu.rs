//! What only an NVIDIA GPU can show: the model computes there as it does on the CPU, 16-bit training
//! learns, and a GPU whose memory really runs out gets a smaller batch.
//!
//! Built with the feature `gpu-tests`. Without a GPU every test fails and says so: a test that did not
//! run must not look like one that passed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "the tests without a GPU use the rest")]
#[path = "trainer/golden/mod.rs"]
mod golden;
#[allow(dead_code, reason = "the tests without a GPU use the rest")]
#[path = "trainer/shapes/mod.rs"]
mod shapes;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use golden::{CPU, alone, assert_relative, open};
use tch::{Device, Kind, Tensor};
use trainyard_trainer::libtorch::Precision;
use trainyard_trainer::libtorch::copies::{Copier, pinned};
use trainyard_trainer::loss::Gains;
use trainyard_trainer::loss::assign::{Object, Targets};
use trainyard_trainer::model::{Layout, Model};
use trainyard_trainer::optim::{Rule, Schedule};
use trainyard_trainer::train::bn_state::BnState;
use trainyard_trainer::train::state::TrainState;
use trainyard_trainer::{libtorch, weights};
use trainyard_types::trainer::{Epoch, Phase, Phases, TrainerEvent, TrainerLine, exit_code};
use trainyard_types::{Batch, ModelScale, TrainSpec};

/// Outputs of some 60 layers, computed by other kernels: TF32, which cuDNN uses for convolutions, keeps
/// ten bits of a factor.
const OTHER_KERNELS: f64 = 5e-3;
/// What the GPU may have in the test of running out: enough for one image, far too little for 64.
const SMALL_GPU_MIB: f64 = 3072.0;

/// The first GPU; panics with the reason where there is none.
fn gpu() -> Device {
    static FOUND: OnceLock<Result<Device, String>> = OnceLock::new();
    let find = || libtorch::device("cuda:0", &libtorch::load_cuda()).map_err(|error| error.to_string());
    match FOUND.get_or_init(find) {
        Ok(device) => *device,
        Err(reason) => panic!("these tests need an NVIDIA GPU, and there is none here: {reason}"),
    }
}

/// Trains with the real program on the GPU; returns its exit code and all events.
fn train(spec: &TrainSpec, run_dir: &Path, environment: &[(&str, String)]) -> (i32, Vec<TrainerEvent>) {
    let file = run_dir.with_extension("json");
    std::fs::write(&file, serde_json::to_vec(spec).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-trainer"));
    command.args(["train", "--device", "cuda:0", "--events-fd", "1", "--spec"]).arg(file);
    command.arg("--run-dir").arg(run_dir).envs(environment.iter().map(|(name, value)| (name, value)));
    let output = command.stdin(Stdio::null()).stdout(Stdio::piped()).output().unwrap();
    let event = |line: &str| serde_json::from_str::<TrainerLine>(line).unwrap().event;
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text.lines().map(event).collect())
}

fn epochs(events: &[TrainerEvent]) -> Vec<&Epoch> {
    events
        .iter()
        .filter_map(|event| match event {
            TrainerEvent::Epoch(epoch) => Some(epoch),
            _ => None,
        })
        .collect()
}

/// The GPU's memory in MiB, as its driver says.
fn memory() -> f64 {
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=memory.total", "--format=csv,noheader,nounits", "--id=0"]);
    let text = String::from_utf8(command.output().expect("the driver comes with nvidia-smi").stdout).unwrap();
    text.trim().parse().unwrap()
}

#[test]
fn the_gpu_computes_what_the_cpu_computes() {
    let _alone = alone();
    let gpu = gpu();
    let golden = open("weights.safetensors");
    let on = |device| Model::from_tensors(golden.tensors(), Layout::default(), device).unwrap();
    tch::manual_seed(0);
    let images = Tensor::rand([2, 3, 320, 320], (Kind::Float, CPU));
    let expected = on(CPU).detect(&images);
    let found = on(gpu).detect(&images.to_device(gpu)).to_device(CPU);
    let boxes = |of: &Tensor| of.narrow(1, 0, 4);
    assert_relative("boxes", &boxes(&found), &boxes(&expected), OTHER_KERNELS);
    let scores = |of: &Tensor| of.narrow(1, 4, of.size()[1] - 4).logit(1e-7);
    assert_relative("logits", &scores(&found), &scores(&expected), OTHER_KERNELS);
}

/// One step on the GPU in this precision; returns the trainer.
fn step_in(precision: Precision, images: &Tensor) -> TrainState {
    tch::manual_seed(0);
    let gpu = gpu();
    let spec = TrainSpec { nbs: 2, warmup_epochs: 0.0, ..TrainSpec::new(ModelScale::N, "/data.yaml") };
    let model = Model::new(spec.model, 3, 0, gpu);
    let schedule = Schedule::new(&spec, 2, 2);
    let mut trainer = TrainState::new(model, Rule::Sgd, schedule, Gains::default(), precision);
    let object = |image| Object { image, class: 1, cxcywh: [0.5, 0.4, 0.3, 0.3] };
    let targets = Targets::new(&[object(0), object(1)], 2, [160, 160], gpu);
    trainer.forward_backward(&images.to_device(gpu), &targets);
    trainer
}

#[test]
fn gradients_in_16_bits_are_those_in_32_to_their_precision_and_a_step_moves_finite_weights() {
    let _alone = alone();
    let images = Tensor::rand([2, 3, 160, 160], (Kind::Float, CPU));
    let norm = |trainer: &TrainState| {
        let scale = trainer.scaler.as_ref().map_or(1.0, |scaler| scaler.state().0);
        trainer.optimizer.gradient_norm().double_value(&[]) / scale
    };
    let expected = norm(&step_in(Precision::Fp32, &images));
    for precision in [Precision::Fp16, Precision::Bf16] {
        let mut trainer = step_in(precision, &images);
        let found = norm(&trainer);
        assert!((found / expected - 1.0).abs() < 0.1, "{precision:?}: {found}, not {expected}");
        trainer.step(0);
        assert_eq!(trainer.skipped.double_value(&[]), 0.0);
        for entry in trainer.model.weights().iter() {
            assert_eq!(entry.tensor.isfinite().all().int64_value(&[]), 1, "{precision:?}: {}", entry.name);
        }
    }
}

#[test]
fn page_locked_copies_aside_bring_the_same_bytes_and_the_allocator_tells_its_peak() {
    let _alone = alone();
    let gpu = gpu();
    libtorch::memory::reset_peak(gpu).unwrap();
    let bytes = 64 << 20;
    let mut locked = pinned(bytes).unwrap();
    locked.copy_(&Tensor::arange(bytes as i64, (Kind::Int64, CPU)).remainder(251));
    let copier = Copier::new(gpu).unwrap();
    for _ in 0..3 {
        let sent = copier.send(&[&locked]).unwrap();
        // The GPU has something to do meanwhile.
        let _ = Tensor::rand([1024, 1024], (Kind::Float, gpu))
            .matmul(&Tensor::rand([1024, 1024], (Kind::Float, gpu)));
        let there = copier.receive(sent).unwrap().remove(0);
        assert!(there.to_device(CPU).equal(&locked));
    }
    let stats = libtorch::memory_stats(gpu).unwrap();
    assert!(stats.peak_allocated_bytes >= bytes as u64 && stats.total_bytes > stats.free_bytes, "{stats:?}");
}

#[test]
fn an_epoch_in_16_bits_learns_and_its_weights_are_finite() {
    let _alone = alone();
    gpu();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), 64);
    let run_dir = folder.path().join("run");
    let spec = TrainSpec { nbs: 4, warmup_epochs: 0.0, ..shapes::spec(&data, 2) };
    assert!(spec.amp);
    let (code, events) = train(&spec, &run_dir, &[]);
    assert_eq!(code, exit_code::DONE, "{events:?}");
    let given_up =
        |event: &TrainerEvent| matches!(event, TrainerEvent::Log(log) if log.message.contains("32 bits"));
    assert!(!events.iter().any(given_up), "{events:?}");
    let losses: Vec<f64> = epochs(&events).iter().map(|epoch| epoch.metrics["train/cls_loss"]).collect();
    assert!(losses.len() == 2 && losses[1] < losses[0], "{losses:?}");
    let weights = weights::read(&run_dir.join("weights/last.safetensors")).unwrap().tensors;
    for (name, tensor) in &weights {
        assert_eq!(tensor.isfinite().all().int64_value(&[]), 1, "{name} is not finite");
    }
}

#[test]
fn a_gpu_whose_memory_really_runs_out_gets_a_smaller_batch_and_the_run_ends_well() {
    let _alone = alone();
    gpu();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), 64);
    let spec = TrainSpec { imgsz: 640, batch: Batch::Size(64), ..shapes::spec(&data, 1) };
    let share = format!("per_process_memory_fraction:{:.4}", (SMALL_GPU_MIB / memory()).min(1.0));
    let environment = [("PYTORCH_CUDA_ALLOC_CONF", share.clone()), ("PYTORCH_ALLOC_CONF", share)];
    let (code, events) = train(&spec, &folder.path().join("run"), &environment);
    assert_eq!(code, exit_code::DONE, "{events:?}");
    let sizes: Vec<(u32, u32)> = events
        .iter()
        .filter_map(|event| match event {
            TrainerEvent::BatchSize(change) => Some((change.from, change.to)),
            _ => None,
        })
        .collect();
    assert!(sizes.first().is_some_and(|first| first.0 == 64), "{events:?}");
    assert!(sizes.iter().all(|(from, to)| to < from), "{sizes:?}");
    assert_eq!(epochs(&events).len(), 1);
}

#[test]
fn memory_is_measured_by_the_allocators_peak_and_holds_for_the_run() {
    let _alone = alone();
    gpu();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), 32);
    let measured = |batch: u32| {
        let spec = TrainSpec { imgsz: 320, batch: Batch::Size(batch), mosaic: 1.0, ..shapes::spec(&data, 1) };
        let (code, events) = train(&spec, &folder.path().join(format!("run{batch}")), &[]);
        assert_eq!(code, exit_code::DONE, "{events:?}");
        let found = events.iter().find_map(|event| match event {
            TrainerEvent::Memory(measured) => Some(measured.clone()),
            _ => None,
        });
        found.expect("a GPU is always measured")
    };
    let (small, large) = (measured(4), measured(32));
    println!("{small:?} {large:?}");
    for measured in [&small, &large] {
        assert!(measured.fixed_mib > 0 && measured.step_peak_mib > measured.fixed_mib, "{measured:?}");
        assert!(measured.validation_peak_mib > 0 && measured.densest_objects > 0, "{measured:?}");
    }
    assert!(large.step_peak_mib > small.step_peak_mib, "{large:?}, but {small:?}");

    // What was measured is enough: with it, and what CUDA itself takes, nothing runs out.
    let room = (large.step_peak_mib.max(large.validation_peak_mib) + 512) as f64;
    let share = format!("per_process_memory_fraction:{:.4}", (room / memory()).min(1.0));
    let environment = [("PYTORCH_CUDA_ALLOC_CONF", share.clone()), ("PYTORCH_ALLOC_CONF", share)];
    let spec = TrainSpec { imgsz: 320, batch: Batch::Size(32), mosaic: 1.0, ..shapes::spec(&data, 2) };
    let (code, events) = train(&spec, &folder.path().join("enough"), &environment);
    assert_eq!(code, exit_code::DONE);
    assert!(!events.iter().any(|event| matches!(event, TrainerEvent::BatchSize(_))), "{events:?}");
}

#[test]
fn measuring_on_the_gpu_leaves_model_optimiser_and_statistics_as_they_were() {
    let _alone = alone();
    let images = Tensor::rand([2, 3, 160, 160], (Kind::Float, CPU));
    let mut trainer = step_in(Precision::Fp16, &images);
    trainer.step(0);
    let all = |trainer: &TrainState| {
        let weights = trainer.model.weights().iter().map(|entry| entry.tensor.detach().copy());
        let state = trainer.optimizer.state().into_iter().map(|(_, tensor)| tensor.copy());
        weights.chain(state).collect::<Vec<_>>()
    };
    let before = all(&trainer);
    let kept = BnState::save(&trainer.model);
    let object = |image| Object { image, class: 1, cxcywh: [0.5, 0.4, 0.3, 0.3] };
    let targets = Targets::new(&[object(0), object(1)], 2, [160, 160], gpu());
    trainer.forward_backward(&images.to_device(gpu()), &targets);
    trainer.dry_run();
    kept.restore(&trainer.model);
    let differing = all(&trainer).iter().zip(&before).filter(|(a, b)| !a.equal(b)).count();
    assert_eq!(differing, 0);
}

#[test]
fn a_gpu_that_is_nearly_full_of_somebody_elses_memory_gets_smaller_batches_in_the_same_process() {
    let _alone = alone();
    let device = gpu();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), 64);
    let free = libtorch::memory_stats(device).unwrap().free_bytes;
    // This process takes all but what some images need; the trainer is another one.
    let taken = free.saturating_sub((SMALL_GPU_MIB as u64) << 20);
    let held = Tensor::zeros([taken as i64], (Kind::Uint8, device));
    let spec = TrainSpec { imgsz: 640, batch: Batch::Size(64), ..shapes::spec(&data, 1) };
    let (code, events) = train(&spec, &folder.path().join("run"), &[]);
    drop(held);
    libtorch::memory::release(device).unwrap();
    assert_eq!(code, exit_code::DONE, "{events:?}");
    let sizes: Vec<(u32, u32, Phase)> = events
        .iter()
        .filter_map(|event| match event {
            TrainerEvent::BatchSize(change) => Some((change.from, change.to, change.phase)),
            _ => None,
        })
        .collect();
    assert!(sizes.iter().any(|(from, to, _)| to < from), "{events:?}");
    // Known before the first batch, and not later.
    assert!(sizes.iter().all(|(_, _, phase)| *phase != Phase::Backward), "{sizes:?}");
}

#[test]
fn phases_are_measured_on_some_batches_and_add_up_to_a_step() {
    let _alone = alone();
    gpu();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), 64);
    let spec = TrainSpec { nbs: 8, imgsz: 320, batch: Batch::Size(8), ..shapes::spec(&data, 3) };
    let (code, events) = train(&spec, &folder.path().join("run"), &[]);
    assert_eq!(code, exit_code::DONE);
    for epoch in &epochs(&events)[1..] {
        let Phases { wait, copy, forward, loss, backward, optimizer } = epoch.phases.unwrap();
        let spent = [copy, forward, loss, backward, optimizer];
        assert!(spent.iter().all(|seconds| *seconds > 0.0) && wait >= 0.0, "{:?}", epoch.phases);
    }
}
