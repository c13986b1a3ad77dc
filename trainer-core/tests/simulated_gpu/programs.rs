//! The program on a machine with simulated GPUs: memory that runs out in each phase, and what the GPU and its driver
//! refuse.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use simulated_gpu::{Gpu, Machine, OperatorFault};
use trainyard_types::trainer::{Failed, Phase, TrainerEvent, TrainerLine, exit_code};
use trainyard_types::{Batch, TrainSpec, UnfitKind};

use super::runs::events::{batch_sizes, checkpoints, logs, started};
use super::shapes;

/// No program here takes so long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// A folder with a data set of so many images.
pub struct Bench {
    folder: tempfile::TempDir,
    pub spec: TrainSpec,
}

/// How a training ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub events: Vec<TrainerEvent>,
}

impl Ended {
    /// The failure that it told.
    pub fn failed(&self) -> &Failed {
        let failed = |event: &'_ TrainerEvent| matches!(event, TrainerEvent::Failed(_));
        match self.events.iter().find(|event| failed(event)) {
            Some(TrainerEvent::Failed(failed)) => failed,
            _ => panic!("it did not say `failed`: {self:?}"),
        }
    }
}

impl Bench {
    pub fn new(images: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = shapes::write(&folder.path().join("data"), images);
        // The CPU's kernels are slow in 16 bits.
        Self { spec: TrainSpec { nbs: 8, amp: false, ..shapes::spec(&data, 2) }, folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Trains on `cuda:0` of `machine`.
    pub fn train(&self, machine: &Machine) -> Ended {
        self.train_with(machine, "run", &[], &[])
    }

    /// The same in a run directory of that name, with more arguments and variables.
    pub fn train_with(
        &self,
        machine: &Machine,
        run: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Ended {
        let spec = self.path("spec.json");
        std::fs::write(&spec, serde_json::to_vec(&self.spec).unwrap()).unwrap();
        let mut command = trainer();
        command.args(["train", "--device", "cuda:0", "--events-fd", "1", "--spec"]).arg(spec);
        command.arg("--run-dir").arg(self.path(run)).args(arguments);
        let output = finish(machine.preload(&mut command).envs(variables.iter().copied()));
        let event = |line: &str| serde_json::from_str::<TrainerLine>(line).unwrap().event;
        Ended {
            code: output.status.code(),
            events: String::from_utf8_lossy(&output.stdout).lines().map(event).collect(),
        }
    }
}

/// The program.
pub fn trainer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-trainer"));
    command.env("OMP_WAIT_POLICY", "passive");
    command
}

/// Runs to the end; a program that hangs is ended, and the test with it.
pub fn finish(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = rustix::process::Pid::from_child(&child);
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait_with_output()));
    let output = end.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        panic!("{command:?} hangs");
    });
    output.unwrap()
}

/// The words of libtorch's allocator.
const NO_MEMORY: &str = "CUDA out of memory. Tried to allocate 20.00 MiB";

/// `operator` fails with `words`, and is the nth of its name.
pub fn fault(operator: &str, nth: i64, words: &str) -> OperatorFault {
    OperatorFault { operator: operator.into(), nth, sticky: 0, message: words.into() }
}

#[test]
fn a_small_gpu_gets_a_smaller_batch_and_the_run_ends_well() {
    let mut bench = Bench::new(32);
    bench.spec.batch = Batch::Size(24);
    let ended = bench.train(&Machine::with_memory(90));
    assert_eq!(ended.code, Some(exit_code::DONE), "{ended:?}");
    let sizes = batch_sizes(&ended.events);
    println!("{sizes:?}");
    assert!(!sizes.is_empty() && sizes.iter().all(|change| change.to < change.from), "{sizes:?}");
}

/// Convolutions of yolov8n's forward pass. A run of this bench has in turn: the measurement, two batches of validation,
/// which are on their way together, and one of training; an epoch, two batches and one of validation.
const PASS: i64 = 63;

/// What a run tells of memory where the nth operator of a name runs out of it: the phase, and the batch size before and
/// after. The run itself ends well.
fn told(bench: &Bench, operator: &str, nth: i64) -> (Vec<(Phase, u32, u32)>, Ended) {
    let machine = Machine { fault: fault(operator, nth, NO_MEMORY), ..Machine::with_memory(2048) };
    let ended = bench.train_with(&machine, &format!("run-{operator}-{nth}"), &[], &[]);
    assert_eq!(ended.code, Some(exit_code::DONE), "{operator} {nth}: {ended:?}");
    let sizes = batch_sizes(&ended.events);
    (sizes.iter().map(|told| (told.phase, told.from, told.to)).collect(), ended)
}

#[test]
fn memory_that_runs_out_measuring_validating_or_at_a_checkpoint_is_followed_by_what_is_documented() {
    let mut bench = Bench::new(8);
    bench.spec.epochs = 1;
    let phases = |operator, nth| told(&bench, operator, nth).0;
    let convolution = |pass: i64| phases("aten::convolution", pass * PASS + 30);
    // Fewer images at once, and the batch stays as it is.
    assert_eq!(convolution(1), [(Phase::Validation, 4, 4)], "in the measurement");
    assert_eq!(convolution(5), [(Phase::Validation, 4, 4)], "after an epoch");
    assert_eq!(convolution(6), [(Phase::Validation, 4, 4)], "of the best weights");
    assert_eq!(convolution(2), [(Phase::Measurement, 4, 3)]);
    assert_eq!(convolution(4), [(Phase::Forward, 4, 3)]);
    // The scalar that waits for a checkpoint.
    assert_eq!(phases("aten::_local_scalar_dense", 2), [(Phase::Checkpoint, 4, 4)]);
}

#[test]
fn an_epoch_whose_memory_runs_out_at_its_end_is_not_trained_again_and_pictures_may_be_missing() {
    let mut bench = Bench::new(8);
    bench.spec.epochs = 1;
    // The number of skipped steps, before validation.
    let (phases, ended) = told(&bench, "aten::_local_scalar_dense", 1);
    assert_eq!(phases, [(Phase::Validation, 4, 3)]);
    assert_eq!(checkpoints(&ended.events), [2, 2], "of before and after validation: {ended:?}");
    let (phases, ended) = told(&bench, "aten::convolution", 7 * PASS + 30);
    assert_eq!(phases, []);
    let missing = |text: &&str| text.starts_with("a picture is missing: ") && text.contains(NO_MEMORY);
    assert!(logs(&ended.events).iter().any(missing), "{ended:?}");
}

#[test]
fn memory_that_runs_out_as_a_precision_is_checked_says_nothing_of_the_precision() {
    let mut bench = Bench::new(4);
    (bench.spec.epochs, bench.spec.amp) = (1, true);
    let (phases, ended) = told(&bench, "aten::convolution", PASS + 30);
    assert_eq!(phases, [(Phase::Start, 4, 3)]);
    assert_eq!(started(&ended.events).precision, "fp16");
}

#[test]
fn memory_that_others_hold_is_told_and_what_they_leave_is_used() {
    let bench = Bench::new(8);
    // 200 MiB are left, and CUDA alone takes more.
    let machine = Machine { foreign_mib: 8192 - 200, context_mib: 300, ..Machine::with_memory(8192) };
    let ended = bench.train(&machine);
    assert_eq!(ended.code, Some(exit_code::GPU_OOM), "{ended:?}");
    let message = &ended.failed().message;
    println!("{message}");
    assert!(message.contains("CUDA out of memory") && message.contains("0.2 GiB are there"), "{message}");
    assert!(message.contains("other programs and the driver hold 7.8 of this GPU's 8.0 GiB"), "{message}");
    // Where CUDA needs less they are enough for a few images.
    let ended = bench.train(&Machine { context_mib: 100, ..machine });
    assert_eq!(ended.code, Some(exit_code::DONE), "{ended:?}");
}

/// Two GPUs, of which the program may be shown one.
fn two() -> Machine {
    let gpu = |uuid: &str, memory_mib| Gpu { uuid: uuid.into(), memory_mib, compute_capability: (8, 9) };
    Machine::with_gpus(vec![gpu("GPU-a", 2048), gpu("GPU-b", 4096)])
}

#[test]
fn of_several_gpus_the_program_takes_the_one_that_the_user_leaves_visible() {
    let bench = Bench::new(4);
    for (visible, expected) in [("GPU-b", "GPU-b"), ("1", "GPU-b"), ("1,0", "GPU-b"), ("0", "GPU-a")] {
        let folder = bench.path(&format!("use-{visible}"));
        std::fs::create_dir(&folder).unwrap();
        let machine = Machine { use_folder: Some(folder.clone()), ..two() };
        let mut command = trainer();
        command.args(["self-test", "--device", "cuda:0"]);
        let output = finish(machine.preload(&mut command).env("CUDA_VISIBLE_DEVICES", visible));
        assert!(output.status.success(), "{output:?}");
        let told: String = files(&folder).iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        let taken: Vec<&str> = told.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(taken, [expected], "CUDA_VISIBLE_DEVICES={visible}");
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_gpu_that_is_hidden_or_too_old_for_libtorch_and_a_driver_that_is_too_old_are_named() {
    let bench = Bench::new(4);
    for hidden in ["", "GPU-no-such"] {
        let ended = bench.train_with(&two(), "run", &[], &[("CUDA_VISIBLE_DEVICES", hidden)]);
        let failed = ended.failed();
        let says = format!("`CUDA_VISIBLE_DEVICES` is `{hidden}`, which leaves 0 GPUs");
        assert!(failed.message.contains(&says), "{failed:?}");
        assert_eq!(ended.code, Some(exit_code::INTERNAL));
    }
    let old = Gpu { compute_capability: (6, 1), ..two().gpus[0].clone() };
    for (machine, says, lack) in [
        (
            Machine { driver: 12_040, ..two() },
            [
                "runs CUDA up to 12.4, is too old for libtorch 2.13.0, which needs CUDA 13.0",
                "install driver 580",
            ],
            UnfitKind::DriverUnusable,
        ),
        (
            Machine { driver: 0, ..two() },
            ["there is no NVIDIA driver here", "install driver 580"],
            UnfitKind::DriverUnusable,
        ),
        (
            Machine::with_gpus(vec![old]),
            ["Simulated GPU has compute capability 6.1 (sm_61)", "install libtorch for CUDA 12.6"],
            UnfitKind::GpuUnsupported,
        ),
    ] {
        let ended = bench.train(&machine);
        let failed = ended.failed();
        println!("{}", failed.message);
        assert!(says.iter().all(|says| failed.message.contains(says)), "{failed:?}");
        assert_eq!((ended.code, failed.unfit.as_ref().map(|unfit| unfit.kind)), (Some(70), Some(lack)));
    }
}
