//! The real program as an agent starts it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use trainyard_types::TrainSpec;
use trainyard_types::trainer::{TrainerEvent, TrainerLine, VERSION};

/// Programs share the cores, so they run one after the other.
pub fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program, whose standard error nobody reads.
pub fn trainer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-trainer"));
    command.stdin(Stdio::null()).stderr(Stdio::null());
    // Threads that wait for each other must not turn on cores that other work wants.
    command.env("OMP_WAIT_POLICY", "passive");
    command
}

/// `train` on the CPU with its events on standard output; more arguments may follow.
pub fn train(spec: &TrainSpec, run_dir: &Path) -> Command {
    let mut command = trainer();
    command.args(train_arguments(spec, run_dir)).stdout(Stdio::piped());
    command
}

/// The arguments of [`train`]; the spec is written beside the run directory.
pub fn train_arguments(spec: &TrainSpec, run_dir: &Path) -> Vec<String> {
    let file = run_dir.with_extension("json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, serde_json::to_vec(spec).unwrap()).unwrap();
    let (file, run_dir) = (file.to_str().unwrap(), run_dir.to_str().unwrap());
    ["train", "--device", "cpu", "--events-fd", "1", "--spec", file, "--run-dir", run_dir]
        .map(str::to_owned)
        .into()
}

/// The event of a line.
pub fn event(line: &str) -> TrainerEvent {
    let line: TrainerLine = serde_json::from_str(line).unwrap();
    assert_eq!(line.v, VERSION);
    line.event
}

/// Runs to the end; returns the exit code and all events but beats, which come between any others and
/// after the last.
pub fn finish(child: Child) -> (i32, Vec<TrainerEvent>) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let is_beat = |event: &TrainerEvent| matches!(event, TrainerEvent::Beat(_));
    (output.status.code().unwrap(), text.lines().map(event).filter(|event| !is_beat(event)).collect())
}
