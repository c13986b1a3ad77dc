//! Starts trainers, each in its own process group, and waits for them. A trainer dies with the agent: the
//! kernel kills it when the thread that started it is gone, and that thread lives as long as the process.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getppid};
use tokio::sync::oneshot;
use tracing::warn;
use trainyard_confinement::{Ready, close_inherited_descriptors, own_folder};
use trainyard_types::environment;
use trainyard_types::trainer::TrainerControl;

use super::command::TrainerCommand;
use super::control_groups::{self, ControlGroups};
use super::leftovers;
use crate::host::cgroup::Cgroup;
use crate::identity::Identity;
use crate::message::ExitKind;

/// A trainer that was started.
#[derive(Debug)]
pub struct StartedTrainer {
    /// Sends signals and requests to it.
    pub handle: TrainerHandle,
    /// The reading end of its event stream.
    pub events: OwnedFd,
    /// How it ended, once it has.
    pub exit: oneshot::Receiver<TrainerExit>,
}

/// How a trainer's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainerExit {
    /// The code or the signal.
    pub kind: ExitKind,
    /// Whether the kernel killed in its control group for want of memory; `None` where nobody counts.
    pub out_of_memory_kill: Option<bool>,
}

/// Why a trainer did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The trainer's log cannot be written.
    #[error("{path}: {source}")]
    Log {
        /// The log's path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// What the trainer may use cannot be opened, or the kernel refuses to hold it to that.
    #[error("it cannot be confined (`confine_trainers`): {0}")]
    Confinement(io::Error),
    /// The machine has no pipe or thread left.
    #[error("{0}")]
    System(io::Error),
    /// The program does not start.
    #[error("{0}")]
    Program(io::Error),
}

impl StartError {
    /// The system's error.
    pub const fn source(&self) -> &io::Error {
        match self {
            Self::Log { source, .. }
            | Self::Confinement(source)
            | Self::System(source)
            | Self::Program(source) => source,
        }
    }
}

/// Sends signals and requests to a trainer, and to no other process once it is gone.
#[derive(Debug, Clone)]
pub struct TrainerHandle {
    pid: Arc<Mutex<Option<Pid>>>,
    control: Arc<PipeWriter>,
}

impl TrainerHandle {
    /// Sends SIGTERM: the trainer writes a checkpoint and exits. SIGCONT lets one go on that somebody has stopped.
    pub fn terminate(&self) {
        self.with_pid(|pid| nix::sys::signal::kill(pid, Signal::SIGTERM));
        self.with_pid(|pid| nix::sys::signal::kill(pid, Signal::SIGCONT));
    }

    /// Sends SIGKILL to the trainer and whatever it started.
    pub fn kill(&self) {
        self.with_pid(|pid| killpg(pid, Signal::SIGKILL));
    }

    /// The trainer's process id, while it lives.
    pub fn pid(&self) -> Option<u32> {
        let pid = *self.pid.lock().unwrap_or_else(PoisonError::into_inner);
        u32::try_from(pid?.as_raw()).ok()
    }

    /// Sends a request to the trainer, which tells an event when it has done what was asked.
    pub fn request(&self, asked: TrainerControl) {
        // A control is plain data, and a pipe takes a short line whole or, when nobody reads, not at all.
        let Ok(mut line) = serde_json::to_vec(&asked) else { return };
        line.push(b'\n');
        let _nobody_listens = (&*self.control).write(&line);
    }

    fn with_pid(&self, signal: impl FnOnce(Pid) -> nix::Result<()>) {
        if let Some(pid) = *self.pid.lock().unwrap_or_else(PoisonError::into_inner) {
            // The only error is that it is gone already.
            let _gone = signal(pid);
        }
    }
}

struct Request {
    command: TrainerCommand,
    confinement: Option<Ready>,
    log: PathBuf,
    reply: oneshot::Sender<Result<StartedTrainer, StartError>>,
}

/// Where trainers are started: by a thread of its own.
#[derive(Debug, Clone)]
pub struct Spawner(mpsc::Sender<Request>);

/// The agent whose trainers are started.
#[derive(Debug, Clone)]
struct Owner {
    identity: Identity,
    groups: Option<ControlGroups>,
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(identity: Identity, groups: Option<ControlGroups>) -> io::Result<Self> {
        let owner = Owner { identity, groups };
        let (sender, requests) = mpsc::channel::<Request>();
        thread::Builder::new().name("spawner".into()).spawn(move || {
            for request in requests {
                // Nobody waits any more when the agent is going down.
                let _unwanted =
                    request.reply.send(spawn(&owner, &request.command, request.confinement, &request.log));
            }
            // The senders are gone, but ending this thread would kill every trainer.
            loop {
                thread::park();
            }
        })?;
        Ok(Self(sender))
    }

    /// Starts a trainer, confined if there is a confinement; its output goes to the end of `log`.
    ///
    /// # Errors
    /// The binary does not start.
    pub async fn spawn(
        &self,
        command: TrainerCommand,
        confinement: Option<Ready>,
        log: PathBuf,
    ) -> Result<StartedTrainer, StartError> {
        let (reply, answer) = oneshot::channel();
        let gone = || StartError::System(io::Error::other("the spawner thread is gone"));
        self.0.send(Request { command, confinement, log, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn spawn(
    owner: &Owner,
    trainer: &TrainerCommand,
    confinement: Option<Ready>,
    log: &PathBuf,
) -> Result<StartedTrainer, StartError> {
    let system = StartError::System;
    let (events, writer) = io::pipe().map_err(system)?;
    let (listener, control) = io::pipe().map_err(system)?;
    fcntl(&control, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| system(errno.into()))?;
    let file = OpenOptions::new().create(true).append(true).open(log);
    let log = file.map_err(|source| StartError::Log { path: log.clone(), source })?;
    let agent = Pid::this();
    // What the trainer starts can be found by this.
    let name = format!("{}/{}", owner.identity.owner(), trainer.attempt);
    let group = owner.groups.as_ref().and_then(|groups| groups.make(trainer.attempt));
    // Where the trainer cannot enter the control group, its process group has to do.
    let procs = group.as_ref().and_then(|group| {
        let attempt = trainer.attempt;
        let refused = |error: &io::Error| warn!(%attempt, %error, "a trainer cannot enter its control group");
        group.open_procs().inspect_err(refused).ok()
    });
    let procs_fd = procs.as_ref().map(AsRawFd::as_raw_fd);
    let mut command = std::process::Command::new(&trainer.program);
    command
        .args(trainer.arguments(writer.as_raw_fd(), listener.as_raw_fd()))
        .env_clear()
        // In the user's own folder it could not write what the driver compiles. Where the agent's environment says where to, it
        // is `trainer_writes` that allows it.
        .env("CUDA_CACHE_PATH", trainer.run_dir.join(".gpu-code"))
        .envs(environment::Child::Trainer.environment(env::vars_os()))
        .envs(trainer.environment())
        .env(leftovers::VARIABLE, &name)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(system)?)
        .stderr(log)
        .process_group(0);
    let descriptors = [writer.as_raw_fd(), listener.as_raw_fd()];
    // SAFETY: between fork and exec only async-signal-safe calls are made (fcntl, write, prctl, getppid, and
    // what a confinement is made of) and nothing is allocated; `descriptors` and `procs` stay open in the parent until the child is started.
    unsafe {
        command.pre_exec(move || {
            close_inherited_descriptors();
            // Inherited under their own numbers: a fixed one might be in use by the standard library.
            for descriptor in descriptors {
                let inherited = std::os::fd::BorrowedFd::borrow_raw(descriptor);
                fcntl(inherited, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            if let Some(procs) = procs_fd {
                // Writing 0 takes the writer in.
                nix::unistd::write(std::os::fd::BorrowedFd::borrow_raw(procs), b"0")?;
            }
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The agent may have died before the line above.
            if getppid() != agent {
                return Err(nix::errno::Errno::ESRCH.into());
            }
            confinement.as_ref().map_or(Ok(()), Ready::apply)
        });
    }
    let child = command.spawn().map_err(StartError::Program)?;
    let own_folder = own_folder(child.id());
    drop((writer, listener, procs));
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(|error| system(io::Error::other(error)))?);
    // When the machine's memory runs out, the trainer goes before the agent. Not being allowed to say so
    // changes nothing else.
    let _unchanged = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "500");
    let handle = TrainerHandle { pid: Arc::new(Mutex::new(Some(pid))), control: Arc::new(control) };
    let (exited, exit) = oneshot::channel();
    let waiter = handle.clone();
    let builder = thread::Builder::new().name(format!("trainer-{pid}"));
    builder
        .spawn(move || {
            // Nobody waits any more when the agent is going down.
            let kind = wait(child, pid, &waiter);
            drop(own_folder);
            // Nothing that it started outlives it, wherever that has placed itself.
            let out_of_memory_kill = group.as_ref().and_then(Cgroup::counted_kills).map(|kills| kills > 0);
            if let Some(group) = &group {
                control_groups::end(group);
            }
            leftovers::end(&name);
            let _unwanted = exited.send(TrainerExit { kind, out_of_memory_kill });
        })
        .map_err(|error| {
            handle.kill();
            system(error)
        })?;
    Ok(StartedTrainer { handle, events: events.into(), exit })
}

/// Waits for the trainer, ends what it left behind, and only then frees its process id.
fn wait(mut child: Child, pid: Pid, handle: &TrainerHandle) -> ExitKind {
    use std::os::unix::process::ExitStatusExt;
    let waited = loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other,
        }
    };
    let mut known_pid = handle.pid.lock().unwrap_or_else(PoisonError::into_inner);
    if waited.is_ok() {
        let _empty = killpg(pid, Signal::SIGKILL);
    }
    *known_pid = None;
    match child.wait() {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => ExitKind::Code(code),
            (None, signal) => ExitKind::Signal(signal.unwrap_or_default()),
        },
        // Cannot happen: it is our child and nobody else reaps it.
        Err(_) => ExitKind::Signal(0),
    }
}
