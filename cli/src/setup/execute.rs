//! Does what was planned, and says it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use trainyard_files::write_atomically;

use super::plan::Step;
use crate::failure::Failure;

/// Does all steps in order, and says each; a dry run only says them.
///
/// # Errors
/// A step fails; those before it stay done, and repeating all of them is harmless.
pub fn all(steps: &[Step], dry_run: bool) -> Result<(), Failure> {
    for step in steps {
        say(step, dry_run)?;
        if !dry_run {
            one(step)?;
        }
    }
    Ok(())
}

fn say(step: &Step, dry_run: bool) -> Result<(), Failure> {
    match step {
        Step::Write { path, text, .. } => {
            trainyard_console::line(format_args!("writes {}", path.display()))?;
            if dry_run {
                let lines = text.lines().map(|line| format!("    {line}\n").replace("    \n", "\n"));
                trainyard_console::print(lines.collect::<String>())?;
            }
        }
        Step::Run(words) => trainyard_console::line(format_args!("runs   {}", words.join(" ")))?,
        Step::Say(text) => trainyard_console::line(text)?,
    }
    Ok(())
}

fn one(step: &Step) -> Result<(), Failure> {
    match step {
        Step::Write { path, text, mode } => {
            let cannot =
                |error: std::io::Error| Failure::local(format!("cannot write {}: {error}", path.display()));
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(cannot)?;
            }
            write_atomically(path, text.as_bytes()).map_err(cannot)?;
            fs::set_permissions(path, Permissions::from_mode(*mode)).map_err(cannot)
        }
        Step::Run(words) => {
            let command = words.join(" ");
            let cannot = |text: String| Failure::local(format!("`{command}` failed: {text}"));
            let (program, arguments) = words.split_first().ok_or_else(|| cannot("it is empty".into()))?;
            let output = Command::new(program).args(arguments).output();
            let output = output.map_err(|error| cannot(error.to_string()))?;
            if output.status.success() {
                return Ok(());
            }
            Err(cannot(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
        Step::Say(_) => Ok(()),
    }
}
