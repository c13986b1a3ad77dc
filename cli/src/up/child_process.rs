//! One supervised program: its own process group, its log in a file, its end when ours comes.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process;
use tokio::time::Instant;
use trainyard_types::environment;

use crate::failure::Failure;
use crate::terminal::{clean, message};

const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// After a child has run this long, the backoff begins anew.
const BACKOFF_RESET: Duration = Duration::from_secs(60);
/// How many restarts in a row, none after a healthy time, mean that another try is of no use.
const MAX_RESTARTS: u32 = 8;
/// How long a child may take to stop by itself: longer than a trainer needs for its checkpoint.
const STOP_GRACE: Duration = Duration::from_secs(90);
/// How much of a log an error shows.
const TAIL_LINES: usize = 12;

/// A program, and how it is started.
#[derive(Debug, Clone)]
pub struct Program {
    /// What messages call it.
    pub name: &'static str,
    /// Its absolute path.
    pub binary: PathBuf,
    /// Environment variables that configure it.
    pub variables: Vec<(&'static str, String)>,
    /// The file that its output is appended to.
    pub log: PathBuf,
}

/// A program that runs, or is between two runs. Dropped, it is killed with its process group.
pub struct ChildProcess {
    program: Program,
    process: process::Child,
    /// Also the process group's; kept because tokio forgets it when the process ends.
    id: Option<Pid>,
    started: Instant,
    restarts: u32,
}

impl ChildProcess {
    /// Starts the program. Call this from the main thread only: the kernel's death signal comes when
    /// the thread that started a child ends, not its process.
    ///
    /// # Errors
    /// The log cannot be opened, the program cannot be started.
    pub fn start(program: Program) -> Result<Self, Failure> {
        let process = spawn(&program)?;
        let id = pid(&process);
        Ok(Self { program, process, id, started: Instant::now(), restarts: 0 })
    }

    /// Waits until the program has ended. Cancel safe.
    pub async fn ended(&mut self) -> Failure {
        let status = self.process.wait().await;
        let how = status.map_or_else(|error| error.to_string(), how_it_ended);
        Failure::local(format!("the {} {how}; the end of {}:", self.program.name, self.program.log.display()))
            .details(self.log_tail())
    }

    /// Waits until the program has ended and starts it again after a pause. Cancel safe: a pause that
    /// was not waited out begins anew.
    ///
    /// # Errors
    /// It keeps ending, or cannot be started any more.
    pub async fn restart_when_dead(&mut self) -> Result<(), Failure> {
        let failure = self.ended().await;
        if self.started.elapsed() >= BACKOFF_RESET {
            self.restarts = 0;
        }
        if self.restarts >= MAX_RESTARTS {
            return Err(failure);
        }
        let wait = (INITIAL_BACKOFF * 2_u32.pow(self.restarts)).min(MAX_BACKOFF);
        message(&format!("the {} ended; it is started again in {} s", self.program.name, wait.as_secs()));
        tokio::time::sleep(wait).await;
        self.kill_group();
        self.process = spawn(&self.program)?;
        self.id = pid(&self.process);
        self.started = Instant::now();
        self.restarts += 1;
        Ok(())
    }

    /// Asks the program to stop, and kills it when it takes too long.
    pub async fn stop(&mut self) {
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            if let Some(id) = self.id {
                // It may have ended this very moment.
                let _ = kill(id, Signal::SIGTERM);
            }
            if tokio::time::timeout(STOP_GRACE, self.process.wait()).await.is_err() {
                message(&format!("the {} does not stop; it is killed", self.program.name));
            }
        }
        self.kill_group();
        // Reaps it; after SIGKILL this is a matter of milliseconds.
        let _ = self.process.wait().await;
    }

    fn kill_group(&mut self) {
        if let Some(id) = self.id.take() {
            // Nobody may be left in it, which is what is wanted.
            let _ = killpg(id, Signal::SIGKILL);
        }
    }

    fn log_tail(&self) -> Vec<String> {
        let text = fs::read(&self.program.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| clean(line)).collect()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.kill_group();
    }
}

fn pid(process: &process::Child) -> Option<Pid> {
    process.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
}

fn how_it_ended(status: ExitStatus) -> String {
    format!("ended unexpectedly ({status})")
}

fn spawn(program: &Program) -> Result<process::Child, Failure> {
    let log = File::options().create(true).append(true).open(&program.log);
    let log = log.map_err(|error| Failure::local(format!("{}: {error}", program.log.display())))?;
    let errors = log.try_clone()?;
    let mut command = process::Command::new(&program.binary);
    command
        .env_clear()
        .envs(environment::Child::Service.environment(env::vars_os()))
        .envs(program.variables.iter().map(|(name, value)| (name, value)))
        // What it writes goes to a file.
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        // Ctrl-C at the terminal reaches us alone; we stop the children in order.
        .process_group(0);
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl and getppid.
    unsafe {
        command.pre_exec(move || {
            // SIGTERM: when `yard` is killed, running jobs still write their checkpoints.
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            // The parent may have died before the signal was asked for.
            if nix::unistd::getppid() == parent { Ok(()) } else { Err(std::io::ErrorKind::NotFound.into()) }
        });
    }
    command
        .spawn()
        .map_err(|error| Failure::local(format!("{} cannot be started: {error}", program.binary.display())))
}
