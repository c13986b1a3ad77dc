//! The trainer's program where there is no job: self-tests, and checks of data sets.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use trainyard_types::environment::Child;

use super::{command, leftovers};
use crate::device::Device;
use crate::identity::Identity;

/// A command that knows of the machine what a trainer on this device does, is marked as this agent's for `purpose`, and
/// whose process ends with it.
pub fn without_job(program: &Path, device: &Device, identity: &Identity, purpose: &str) -> Command {
    let mut made = Command::new(program);
    made.env_clear()
        .envs(Child::Trainer.environment(std::env::vars_os()))
        .envs(command::environment(device))
        .env(leftovers::VARIABLE, format!("{}/{purpose}", identity.owner()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    made
}
