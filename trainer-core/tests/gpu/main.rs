//! What only an NVIDIA GPU can show: it computes what the CPU computes, 16-bit training learns, memory that really runs
//! out gives a smaller batch, and no step waits for it.
//!
//! Run by `make test-gpu`, and part of `make gpu-bundle`. Without a GPU every test fails and says so: a test
//! that did not run must not look like one that passed. With `TRAINYARD_GPU_REHEARSAL` everything is small, for a
//! simulated GPU.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod compute;
#[allow(dead_code, reason = "the tests without a GPU use the rest")]
#[path = "../trainer/golden/mod.rs"]
mod golden;
mod memory;
mod runs;
#[allow(dead_code, reason = "the tests without a GPU use the rest")]
#[path = "../trainer/shapes/mod.rs"]
mod shapes;
mod waits;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};
use trainyard_trainer::libtorch::{self, Precision};
use trainyard_trainer::loss::Gains;
use trainyard_trainer::loss::assign::{Object, Targets};
use trainyard_trainer::model::Model;
use trainyard_trainer::optim::{Rule, Schedule};
use trainyard_trainer::train::state::TrainState;
use trainyard_types::trainer::{Epoch, TrainerEvent, TrainerLine};
use trainyard_types::{ModelScale, TrainSpec};

/// The first GPU; panics with the reason where there is none.
fn gpu() -> Device {
    static FOUND: OnceLock<Result<Device, String>> = OnceLock::new();
    let find = || libtorch::device("cuda:0", &libtorch::load_cuda()).map_err(|error| error.to_string());
    match FOUND.get_or_init(find) {
        Ok(device) => *device,
        Err(reason) => panic!("these tests need an NVIDIA GPU, and there is none here: {reason}"),
    }
}

/// `real`, or what stands for it in a rehearsal on a simulated GPU.
fn sized<T>(real: T, rehearsal: T) -> T {
    if std::env::var_os("TRAINYARD_GPU_REHEARSAL").is_some() { rehearsal } else { real }
}

/// The program; in a bundle it lies elsewhere than where it was built.
fn trainer() -> Command {
    let built = || env!("CARGO_BIN_EXE_trainyard-trainer").into();
    Command::new(std::env::var_os("TRAINYARD_TRAINER").unwrap_or_else(built))
}

/// `train` on the GPU, with its events on standard output.
fn train_command(spec: &TrainSpec, run_dir: &Path, more: &[&str]) -> Command {
    let file = run_dir.with_extension("json");
    std::fs::write(&file, serde_json::to_vec(spec).unwrap()).unwrap();
    let mut command = trainer();
    command.args(["train", "--device", "cuda:0", "--events-fd", "1", "--spec"]).arg(file);
    command.arg("--run-dir").arg(run_dir).args(more).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn event(line: &str) -> TrainerEvent {
    serde_json::from_str::<TrainerLine>(line).unwrap().event
}

/// Trains with the real program on the GPU; returns its exit code and all events.
fn train(spec: &TrainSpec, run_dir: &Path, environment: &[(&str, String)]) -> (i32, Vec<TrainerEvent>) {
    let mut command = train_command(spec, run_dir, &[]);
    let output = command.envs(environment.iter().map(|(name, value)| (name, value))).output().unwrap();
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

/// Two images, the same for every test.
fn images() -> Tensor {
    tch::manual_seed(7);
    Tensor::rand([2, 3, 160, 160], (Kind::Float, Device::Cpu))
}

/// An object in each of two images of 160 pixels.
fn targets(device: Device) -> Targets {
    let object = |image| Object { image, class: 1, cxcywh: [0.5, 0.4, 0.3, 0.3] };
    Targets::new(&[object(0), object(1)], 2, [160, 160], device)
}

/// A model before its first step, the same on every device.
fn state(device: Device, rule: Rule, precision: Precision) -> TrainState {
    tch::manual_seed(0);
    let spec = TrainSpec { nbs: 2, warmup_epochs: 0.0, ..TrainSpec::new(ModelScale::N, "/data.yaml") };
    let model = Model::new(spec.model, 3, 0, device);
    TrainState::new(model, rule, Schedule::new(&spec, 2, 2), Gains::default(), precision)
}

/// The gradients of two images, in a state before its step.
fn learn(device: Device, rule: Rule, precision: Precision) -> TrainState {
    let mut state = state(device, rule, precision);
    state.forward_backward(&images().to_device(device), &targets(device));
    state
}
