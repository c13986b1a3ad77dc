//! Confines a process to what it is given: files, devices, and no way to other processes or machines. A trainer
//! reads what strangers made (pictures, YAML, pickles), so a fault in a decoder must not be a way into the machine.
//!
//! # Who applies it
//!
//! The agent's child does, between `fork` and `exec`, and not the trainer in its `main`. So it holds for whatever
//! program the key `trainer` names, of whatever version, from its first instruction on, and no fault of the trainer's
//! leaves it out. The price is that the dynamic loader works inside: what it loads must be in the description.
//! [`Confinement::ready`] does what allocates and opens files, in the parent; [`Ready::apply`] makes system calls
//! only, as a child of a process with threads must.
//!
//! # What it is made of
//!
//! - Landlock, as far as the kernel knows it: files and devices by path, TCP, signals, abstract sockets.
//! - seccomp, on every kernel: calls that a trainer never makes are refused. See [`calls`] for which and why.
//! - `no_new_privs`, and of root's capabilities only those that a trainer on the data of others needs.
//!
//! A program must not be told apart from its data by this crate: it knows paths, not what is in them.

#![cfg(target_os = "linux")]

pub mod calls;
mod files;
pub mod machine;
mod privileges;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use files::own_folder;

/// What a process may use. What cannot be opened when it is made [`Self::ready`] is not allowed, and no error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confinement {
    /// Files, and folders with all that is below, that may be read.
    pub read: Vec<PathBuf>,
    /// The same that may also be executed.
    pub run: Vec<PathBuf>,
    /// The same that may be read, changed, created and removed, but not executed.
    pub write: Vec<PathBuf>,
    /// Devices, and folders of devices, that may be read, written and asked by `ioctl`.
    pub devices: Vec<PathBuf>,
}

/// Why a process cannot be confined.
#[derive(Debug)]
pub enum ConfineError {
    /// Landlock refuses a rule.
    Landlock(landlock::RulesetError),
    /// The list of refused calls makes no filter.
    Seccomp(seccompiler::BackendError),
}

impl std::fmt::Display for ConfineError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Landlock(error) => write!(formatter, "Landlock: {error}"),
            Self::Seccomp(error) => write!(formatter, "seccomp: {error}"),
        }
    }
}

impl std::error::Error for ConfineError {}

impl Confinement {
    /// Opens what is allowed and compiles what is refused. Blocks as long as the paths' disks do.
    ///
    /// # Errors
    /// The kernel refuses a rule that it should know.
    pub fn ready(&self) -> Result<Ready, ConfineError> {
        Ok(Ready {
            ruleset: files::ruleset(self).map_err(ConfineError::Landlock)?,
            filters: calls::are_filtered().then(calls::filters).transpose().map_err(ConfineError::Seccomp)?,
        })
    }
}

/// A confinement that only needs to be applied, once.
#[derive(Debug)]
pub struct Ready {
    /// `None` where the kernel has no Landlock.
    ruleset: Option<OwnedFd>,
    /// `None` where the kernel filters no calls.
    filters: Option<calls::Filters>,
}

impl Ready {
    /// Confines the calling thread, for good, with all that it starts and executes later. Of calls that must come
    /// before, `PR_SET_PDEATHSIG` is one. Whoever starts the process keeps its [`own_folder`] as long as it lives.
    ///
    /// Allocates nothing and takes no lock: it may run between `fork` and `exec`.
    ///
    /// # Errors
    /// The kernel refuses. The thread is then half confined, and should end.
    pub fn apply(&self) -> io::Result<()> {
        privileges::drop_all()?;
        if let Some(ruleset) = &self.ruleset {
            files::enforce(ruleset)?;
        }
        // Last: opening `/proc/self` and Landlock's own calls come before.
        self.filters.as_ref().map_or(Ok(()), calls::Filters::enforce)
    }
}

/// What this kernel can do of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    /// Version of Landlock's interface; 0 where there is none, or it is switched off.
    pub landlock: u32,
    /// Whether system calls can be filtered.
    pub seccomp: bool,
}

impl Support {
    /// The version from which on Landlock refuses all that it refuses here (Linux 6.12).
    pub const WHOLE: u32 = 6;

    /// Asks the kernel.
    pub fn of_kernel() -> Self {
        Self { landlock: files::version(), seccomp: calls::are_filtered() }
    }

    /// What is missing, a sentence for the log; `None` where nothing is that seccomp does not make up for.
    pub fn complaint(self) -> Option<&'static str> {
        match self {
            Self { landlock: _, seccomp: false } => Some(
                "this kernel filters no system calls (CONFIG_SECCOMP_FILTER): trainers cannot be confined",
            ),
            Self { landlock: 0, .. } => Some(
                "this kernel has no Landlock (Linux 5.13 with `landlock` in the parameter `lsm`): trainers can read \
                 and write all files of the agent's user; network, other processes and dangerous calls stay refused",
            ),
            _ => None,
        }
    }
}

/// Marks every descriptor above standard error to be closed by `exec`. Libraries may have opened some without that.
/// Where the kernel does not know the call (before 5.11) they stay as they are. May run between `fork` and `exec`.
pub fn close_inherited_descriptors() {
    // SAFETY: the call takes three numbers.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Output};

    use super::*;

    /// Runs a shell's `script` as on a kernel without Landlock.
    fn without_landlock(script: &str) -> Output {
        let ready = Ready { ruleset: None, ..Confinement::default().ready().unwrap() };
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        // SAFETY: it makes system calls only.
        unsafe { command.pre_exec(move || ready.apply()) };
        command.output().unwrap()
    }

    #[test]
    fn without_landlock_files_are_free_and_the_rest_still_holds() {
        let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
        let status = text(&without_landlock("exec cat /proc/self/status"));
        assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
        let forked = without_landlock("cat /proc/self/status; echo survived");
        assert!(!forked.status.success() && !text(&forked).contains("survived"), "{forked:?}");
    }

    #[test]
    fn a_machine_is_complained_of_where_files_or_calls_cannot_be_held() {
        let complaint = |landlock, seccomp| Support { landlock, seccomp }.complaint();
        assert_eq!(complaint(Support::WHOLE, true), None);
        assert_eq!(complaint(1, true), None, "the list of calls holds what it does not");
        assert!(complaint(0, true).unwrap().contains("no Landlock"));
        assert!(complaint(7, false).unwrap().contains("no system calls"));
    }
}
