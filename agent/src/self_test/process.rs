//! The process of one self-test: the trainer's, and what its end means.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;
use trainyard_types::faults::{self, Place};
use trainyard_types::trainer::exit_code;
use trainyard_types::{Unfit, UnfitKind};

use super::folder_unfit;
use crate::config::Config;
use crate::device::Device;
use crate::identity::Identity;
use crate::trainer::command;
use crate::trainer::confinement::{self, Work};
use crate::trainer::without_job::without_job;

/// So many of the last lines of standard error are told.
const LINES: usize = 3;

/// clap's exit code for a command that it does not know.
const USAGE: i32 = 2;

/// What a trainer tells of its self-test.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct SelfTestReport {
    /// The trainer's version; empty where it does not tell.
    #[serde(default)]
    pub trainer: String,
    /// libtorch's version; empty where the trainer does not tell.
    #[serde(default)]
    pub libtorch: String,
    /// How long the test took, in seconds.
    #[serde(default)]
    pub seconds: f64,
    /// What the machine lacks, if it has failed.
    #[serde(default)]
    unfit: Option<Unfit>,
}

/// Tests `device`, and whether the agent's folders can be written. The error is why the device takes no jobs.
pub async fn run_test(
    config: &Config,
    identity: &Identity,
    device: &Device,
) -> Result<SelfTestReport, Unfit> {
    let folders = [config.data_dir.join("jobs"), config.cache_dir()];
    let checked = tokio::task::spawn_blocking(move || folders.iter().find_map(|folder| folder_unfit(folder)));
    if let Ok(Ok(Some(unfit))) = timeout(config.self_test_limit, checked).await {
        return Err(unfit);
    }
    let program = config.trainer();
    // As a job's trainer is, so that what this machine does not allow it shows before there is one.
    let confinement = confinement::ready(config, device, Work::default()).await.map_err(|error| {
        Unfit::of_machine(UnfitKind::SelfTest, format!("the trainer cannot be confined: {error}"))
    })?;
    let mut command = without_job(&program, device, identity, "self-test");
    command.args(["self-test", "--device", command::device_name(device)]);
    if let Some(confinement) = confinement {
        // SAFETY: between fork and exec it makes system calls only.
        unsafe { command.pre_exec(move || confinement.apply()) };
    }
    let run = async {
        let child = command.spawn()?;
        let _own_folder = child.id().and_then(trainyard_confinement::own_folder);
        child.wait_with_output().await
    };
    let output = match timeout(config.self_test_limit, run).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(program_unfit(&program, &error)),
        Err(_) => return Err(hangs(device, config.self_test_limit)),
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    parse_result(output.status, &stdout, &stderr)
}

/// What the machine lacks when the trainer's program does not start.
pub fn program_unfit(program: &Path, error: &std::io::Error) -> Unfit {
    let known = faults::of_error(Place::Program, error);
    let kind = known.and_then(|row| row.lack()).unwrap_or(UnfitKind::TrainerMissing);
    let advice = if kind == UnfitKind::TrainerMissing {
        "; install it there or set the agent's configuration key `trainer`"
    } else {
        ""
    };
    let message = format!("this agent cannot start its trainer {}: {error}{advice}", program.display());
    Unfit::of_machine(kind, message)
}

fn hangs(device: &Device, limit: Duration) -> Unfit {
    let kind = match device {
        Device::Cpu => UnfitKind::SelfTest,
        Device::Gpu(_) => UnfitKind::DriverUnusable,
    };
    let message = format!("the trainer does one step in no less than {} s, or hangs", limit.as_secs());
    Unfit::of_machine(kind, message)
}

/// What the end of the trainer's process means.
fn parse_result(status: ExitStatus, stdout: &str, stderr: &str) -> Result<SelfTestReport, Unfit> {
    let told = stdout.lines().rev().find_map(|line| serde_json::from_str::<SelfTestReport>(line).ok());
    match (status.code(), told) {
        (_, Some(SelfTestReport { unfit: Some(unfit), .. })) => return Err(unfit),
        (Some(exit_code::DONE), Some(passed)) => return Ok(passed),
        // An older trainer does not know the command, which is no reason against a device.
        (Some(USAGE | exit_code::BAD_SPEC), None) => return Ok(SelfTestReport::default()),
        _ => {}
    }
    let by_end = || match (status.code(), status.signal()) {
        (Some(code), _) => faults::of_code(code),
        (None, signal) => faults::of_signal(signal?),
    };
    let row = faults::of_words(stderr).or_else(by_end);
    let kind = row.and_then(|row| row.lack()).unwrap_or(UnfitKind::SelfTest);
    let meaning = row.map_or("the trainer cannot do one step", |row| row.meaning);
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join(" | ");
    // Its trainer is linked against it, so the dynamic loader says this first.
    let names_it = ["libtorch", "libc10"].iter().any(|library| stderr.contains(library));
    let way_out = if kind == UnfitKind::LibtorchUnusable && names_it {
        "; install libtorch: `sudo trainyard-setup-libtorch`, or `make setup` in a clone"
    } else {
        ""
    };
    let message = format!("{meaning} ({status}): {last}{way_out}");
    Err(Unfit::of_machine(kind, message.trim_end_matches([':', ' '])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, stdout: &str, stderr: &str) -> Result<SelfTestReport, UnfitKind> {
        parse_result(ExitStatus::from_raw(code << 8), stdout, stderr).map_err(|unfit| unfit.kind)
    }

    #[test]
    fn a_test_is_passed_by_what_the_trainer_says_and_failed_by_how_it_ends() {
        let passed = ended(0, "noise\n{\"trainer\":\"0.1.0\",\"libtorch\":\"2.13.0\",\"seconds\":0.5}\n", "");
        assert_eq!(passed.map(|passed| passed.libtorch).as_deref(), Ok("2.13.0"));
        let loader =
            "trainer: error while loading shared libraries: libtorch.so: cannot open shared object file";
        assert_eq!(ended(127, "", loader), Err(UnfitKind::LibtorchUnusable));
        let told = parse_result(ExitStatus::from_raw(127 << 8), "", loader).unwrap_err().message;
        assert!(told.contains("`sudo trainyard-setup-libtorch`"), "{told}");
        assert_eq!(ended(101, "", "thread panicked"), Err(UnfitKind::SelfTest));
        assert_eq!(ended(0, "", ""), Err(UnfitKind::SelfTest), "it must say so");
        let unfit = r#"{"unfit":{"kind":"gpu_unsupported","path":"","message":"no code"}}"#;
        assert_eq!(ended(70, unfit, ""), Err(UnfitKind::GpuUnsupported));
        assert_eq!(ended(64, "", "unknown"), Ok(SelfTestReport::default()));
        let signal = parse_result(ExitStatus::from_raw(4), "", "").map_err(|unfit| unfit.kind);
        assert_eq!(signal, Err(UnfitKind::LibtorchUnusable));
    }
}
