//! One check in its process: the program, what it may use, and what it says at its end.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getppid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::task::spawn_blocking;
use trainyard_confinement::{Ready, close_inherited_descriptors};
use trainyard_types::{DataCheck, DataToCheck};

use crate::config::Config;
use crate::device::Device;
use crate::identity::Identity;
use crate::trainer::confinement::{self, Work};
use crate::trainer::without_job::without_job;

/// Bytes that are read of what a check prints: a report within its bounds takes less.
const MOST_BYTES: u64 = 256 * 1024;

/// Bytes that are read of its standard error.
const MOST_COMPLAINTS: u64 = 4096;

/// What is added to the process's niceness: trainings go first.
const NICENESS: libc::c_int = 10;

/// Looks at `data`, images of which may lie in `roots`. Dropping this ends the process and whatever it has started.
///
/// # Errors
/// Why there is no result, a sentence.
pub async fn run(
    config: &Config,
    identity: &Identity,
    roots: Vec<PathBuf>,
    data: &DataToCheck,
) -> Result<DataCheck, String> {
    let work = Work { read: roots.clone(), write: Vec::new() };
    let confinement = confinement::ready(config, &Device::Cpu, work).await;
    let confinement = confinement.map_err(|error| format!("the check cannot be confined: {error}"))?;
    let program = config.trainer();
    let mut command = without_job(&program, &Device::Cpu, identity, "check");
    command.args(arguments(&roots, data)).process_group(0);
    hold(&mut command, confinement);
    let cannot = |error: std::io::Error| format!("{} does not run: {error}", program.display());
    let mut child = command.spawn().map_err(cannot)?;
    let _own_folder = child.id().and_then(trainyard_confinement::own_folder);
    let group = ProcessGroup::of(child.id());
    let (out, complaints) = (child.stdout.take(), child.stderr.take());
    let reading = async { tokio::join!(read(out, MOST_BYTES), read(complaints, MOST_COMPLAINTS)) };
    tokio::pin!(reading);
    let (out, complaints) = tokio::select! {
        both = &mut reading => both,
        () = group.leader_ended() => {
            // What it has started may hold the pipes.
            group.kill();
            reading.await
        }
    };
    // It has closed both, so it has ended or says no more.
    drop(group);
    let status = child.wait().await.map_err(cannot)?;
    result(status, &out, &complaints)
}

fn arguments(roots: &[PathBuf], data: &DataToCheck) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["check", "--summary", "--fraction"].map(OsString::from).into();
    arguments.push(data.fraction.to_string().into());
    if data.single_cls {
        arguments.push("--single-cls".into());
    }
    for root in roots {
        arguments.extend(["--data-root".into(), root.clone().into_os_string()]);
    }
    arguments.extend(["--".into(), data.data.clone().into_os_string()]);
    arguments
}

/// What holds for the process from before its first instruction.
fn hold(command: &mut Command, confinement: Option<Ready>) {
    let agent = Pid::this();
    // SAFETY: between fork and exec only async-signal-safe calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            close_inherited_descriptors();
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The agent may have died before the line above.
            if getppid() != agent {
                return Err(Errno::ESRCH.into());
            }
            // Where that is refused the check is as nice as its agent.
            libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
            confinement.as_ref().map_or(Ok(()), Ready::apply)
        });
    }
}

/// The first bytes of what a process writes. What it writes beyond them ends it.
async fn read(from: Option<impl AsyncRead + Unpin>, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What came until then is all there is.
        let _broken = from.take(most).read_to_end(&mut bytes).await;
    }
    bytes
}

/// A process that was not waited for yet, and whatever it has started. Ends with this.
struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw))
    }
}

impl ProcessGroup {
    fn kill(&self) {
        if let Some(group) = self.0 {
            // The only error is that it is gone already.
            let _gone = killpg(group, Signal::SIGKILL);
        }
    }

    /// Waits until the first process of the group has ended, and leaves it to be waited for.
    async fn leader_ended(&self) {
        let Some(leader) = self.0 else { return std::future::pending().await };
        let wait = move || {
            while let Err(Errno::EINTR) = waitid(Id::Pid(leader), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
            {
            }
        };
        // It ends with the process, which ends with this.
        let _ended = spawn_blocking(wait).await;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the end of the process means.
fn result(status: ExitStatus, out: &[u8], complaints: &[u8]) -> Result<DataCheck, String> {
    let out = String::from_utf8_lossy(out);
    // A script in `trainer` may print lines of its own.
    if let Some(check) = out.lines().rev().find_map(|line| serde_json::from_str::<DataCheck>(line).ok()) {
        return Ok(check);
    }
    let complaints = String::from_utf8_lossy(complaints);
    let last = complaints.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let message = format!("its check ended without a result ({status}): {last}");
    Err(message.trim_end_matches([':', ' ']).to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_check_is_asked_for_what_the_training_would_read() {
        let data = DataToCheck { data: "/data/a.yaml".into(), single_cls: true, fraction: 0.25 };
        let line = arguments(&["/data".into(), "/nas".into()], &data).join(std::ffi::OsStr::new(" "));
        let wanted =
            "check --summary --fraction 0.25 --single-cls --data-root /data --data-root /nas -- /data/a.yaml";
        assert_eq!(line, wanted);
    }

    #[test]
    fn a_result_is_a_line_and_everything_else_is_none() {
        let ended = |code: i32, out: &str, complaints: &str| {
            result(ExitStatus::from_raw(code), out.as_bytes(), complaints.as_bytes())
        };
        let check = DataCheck::new(&["a.txt:1: class 7".to_owned()], &[], None);
        let line = serde_json::to_string(&check).unwrap();
        assert_eq!(ended(0, &format!("hello\n{line}\n"), ""), Ok(check));
        // An older trainer does not know the option.
        let old = ended(2 << 8, "", "error: unexpected argument\n\n").unwrap_err();
        assert!(old.contains("(exit status: 2): error: unexpected argument"), "{old}");
        let killed = ended(9, &line[..20], "").unwrap_err();
        assert!(killed.ends_with("(signal: 9 (SIGKILL))"), "{killed}");
    }
}
