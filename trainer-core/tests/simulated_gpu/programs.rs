//! The program, on a machine with simulated GPUs.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use simulated_gpu::{Machine, OperatorFault};
use trainyard_types::Batch;
use trainyard_types::TrainSpec;
use trainyard_types::trainer::{TrainerEvent, TrainerLine, exit_code};

use super::runs::events::batch_sizes;
use super::shapes;

/// A folder with a data set of so many images.
struct Bench {
    folder: tempfile::TempDir,
    spec: TrainSpec,
}

impl Bench {
    fn new(images: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = shapes::write(&folder.path().join("data"), images);
        // The CPU's kernels are slow in 16 bits.
        Self { spec: TrainSpec { nbs: 8, amp: false, ..shapes::spec(&data, 2) }, folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Trains on `cuda:0` of `machine`; returns the exit code and all events.
    fn train(&self, machine: &Machine) -> (Option<i32>, Vec<TrainerEvent>, Output) {
        let spec = self.path().join("spec.json");
        std::fs::write(&spec, serde_json::to_vec(&self.spec).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-trainer"));
        command.args(["train", "--device", "cuda:0", "--events-fd", "1", "--spec"]).arg(spec);
        command.arg("--run-dir").arg(self.path().join("run"));
        let output = machine.preload(&mut command).stdin(Stdio::null()).output().unwrap();
        let event = |line: &str| serde_json::from_str::<TrainerLine>(line).unwrap().event;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text.lines().map(event).collect(), output)
    }
}

#[test]
fn a_small_gpu_gets_a_smaller_batch_and_the_run_ends_well() {
    let mut bench = Bench::new(32);
    bench.spec.batch = Batch::Size(24);
    let (code, events, output) = bench.train(&Machine::with_memory(90));
    assert_eq!(code, Some(exit_code::DONE), "{events:?} {output:?}");
    let sizes = batch_sizes(&events);
    println!("{sizes:?}");
    assert!(!sizes.is_empty() && sizes.iter().all(|change| change.to < change.from), "{sizes:?}");
}

#[test]
fn cudnn_that_finds_no_engine_for_want_of_memory_gets_a_smaller_batch() {
    let bench = Bench::new(16);
    let fault = OperatorFault {
        operator: "aten::convolution".into(),
        nth: 800,
        sticky: 0,
        message: "FIND was unable to find an engine to execute this computation".into(),
    };
    // Nearly full: what is free is less than a workspace.
    let machine = Machine { fault, ..Machine::with_memory(400) };
    let (code, events, output) = bench.train(&machine);
    assert_eq!(code, Some(exit_code::DONE), "{events:?} {output:?}");
    assert_eq!(batch_sizes(&events).len(), 1, "{events:?}");
}
