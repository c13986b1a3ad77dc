//! Starts trainers, each in its own process group, and waits for them. A trainer dies with the agent: the
//! kernel kills it when the thread that started it is gone, and that thread lives as long as the process.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getppid};
use tokio::sync::oneshot;

use super::command::Start;
use crate::core::ExitKind;

/// A trainer that was started.
#[derive(Debug)]
pub struct Trainer {
    /// Its signals.
    pub handle: Handle,
    /// Its event stream.
    pub events: OwnedFd,
    /// How it ended, once it has.
    pub exit: oneshot::Receiver<ExitKind>,
}

/// Sends signals to a trainer, and to nobody else once it is gone.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Mutex<Option<Pid>>>);

impl Handle {
    /// SIGTERM to the trainer: write a checkpoint and exit.
    pub fn terminate(&self) {
        self.with_pid(|pid| nix::sys::signal::kill(pid, Signal::SIGTERM));
    }

    /// SIGKILL to the trainer and whatever it started.
    pub fn kill(&self) {
        self.with_pid(|pid| killpg(pid, Signal::SIGKILL));
    }

    /// Its process id, while it lives.
    pub fn pid(&self) -> Option<u32> {
        let pid = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        u32::try_from(pid?.as_raw()).ok()
    }

    fn with_pid(&self, signal: impl FnOnce(Pid) -> nix::Result<()>) {
        if let Some(pid) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // The only error is that it is gone already.
            let _gone = signal(pid);
        }
    }
}

struct Request {
    start: Start,
    log: PathBuf,
    reply: oneshot::Sender<io::Result<Trainer>>,
}

/// The thread that starts trainers.
#[derive(Debug, Clone)]
pub struct Spawner(mpsc::Sender<Request>);

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start() -> io::Result<Self> {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::Builder::new().name("spawner".into()).spawn(move || {
            for request in requests {
                // Nobody waits any more when the agent is going down.
                let _unwanted = request.reply.send(spawn(&request.start, &request.log));
            }
            // The senders are gone, but ending this thread would kill every trainer.
            loop {
                thread::park();
            }
        })?;
        Ok(Self(sender))
    }

    /// Starts a trainer; its output goes to the end of `log`.
    ///
    /// # Errors
    /// The binary does not start.
    pub async fn spawn(&self, start: Start, log: PathBuf) -> io::Result<Trainer> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spawner thread is gone");
        self.0.send(Request { start, log, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn spawn(start: &Start, log: &PathBuf) -> io::Result<Trainer> {
    let (events, writer) = io::pipe()?;
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let agent = Pid::this();
    let mut command = std::process::Command::new(&start.program);
    command
        .args(start.arguments(writer.as_raw_fd()))
        .envs(start.environment())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let descriptor = writer.as_raw_fd();
    // SAFETY: between fork and exec only async-signal-safe calls are made (fcntl, prctl, getppid) and
    // nothing is allocated; `descriptor` stays open in the parent until the child is started.
    unsafe {
        command.pre_exec(move || {
            // Inherited under its own number: a fixed one might be in use by the standard library.
            let writer = std::os::fd::BorrowedFd::borrow_raw(descriptor);
            fcntl(writer, FcntlArg::F_SETFD(FdFlag::empty()))?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The agent may have died before the line above.
            if getppid() == agent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
        });
    }
    let child = command.spawn()?;
    drop(writer);
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    // When the machine's memory runs out, the trainer goes before the agent. Not being allowed to say so
    // changes nothing else.
    let _unchanged = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "500");
    let handle = Handle(Arc::new(Mutex::new(Some(pid))));
    let (exited, exit) = oneshot::channel();
    let waiter = handle.clone();
    let builder = thread::Builder::new().name(format!("trainer-{pid}"));
    builder
        .spawn(move || {
            // Nobody waits any more when the agent is going down.
            let _unwanted = exited.send(wait(child, pid, &waiter));
        })
        .inspect_err(|_| handle.kill())?;
    Ok(Trainer { handle, events: events.into(), exit })
}

/// Waits for the trainer, ends what it left behind, and only then frees its process id.
fn wait(mut child: Child, pid: Pid, handle: &Handle) -> ExitKind {
    use std::os::unix::process::ExitStatusExt;
    let waited = loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other,
        }
    };
    let mut slot = handle.0.lock().unwrap_or_else(PoisonError::into_inner);
    if waited.is_ok() {
        let _empty = killpg(pid, Signal::SIGKILL);
    }
    *slot = None;
    match child.wait() {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => ExitKind::Code(code),
            (None, signal) => ExitKind::Signal(signal.unwrap_or_default()),
        },
        // Cannot happen: it is our child and nobody else reaps it.
        Err(_) => ExitKind::Signal(0),
    }
}
