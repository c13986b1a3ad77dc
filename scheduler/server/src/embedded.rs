//! A private Redis server, started and supervised in the data directory.
//!
//! It must never happen that two servers write one append-only file. The directory's lock is therefore
//! held by the server itself: it inherits the locked descriptor, so that the kernel releases the lock
//! exactly when the last server has gone. A server that a killed scheduler left behind is ended first.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{self, Signal};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Pid, getppid};
use tracing::{debug, info, warn};
use trainyard_files::keep_folder_private;
use trainyard_service::installed;
use trainyard_types::environment;

#[cfg(test)]
mod tests;

/// How often the supervisor looks after its child.
const POLL: Duration = Duration::from_millis(20);
/// How long a leftover server may take to end, once asked and once killed.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a server may take to end at our own end.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
const RESTART_DELAY: Duration = Duration::from_millis(100);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(5);
/// The kernel's limit is 108 bytes with the final zero.
const LONGEST_SOCKET_PATH: usize = 107;

/// Why there is no private Redis server.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// There is no such program.
    #[error(
        "redis_server: `{program}` was not found; install it (apt install redis-server), set `redis_server` \
         to its path, or set `redis_url` to a server that runs already"
    )]
    Missing { program: PathBuf },
    /// The directory cannot be used.
    #[error(
        "data_dir: cannot use `{path}`: {cause}; {}",
        installed::way_to_write("trainyard-scheduler", path, cause)
    )]
    Directory { path: PathBuf, cause: io::Error },
    /// The socket's path does not fit into a socket address.
    #[error(
        "data_dir: `{path}` is too long for a Unix socket ({LONGEST_SOCKET_PATH} bytes); use a shorter one"
    )]
    PathTooLong { path: PathBuf },
    /// A server that we did not start holds the directory.
    #[error("data_dir: another redis-server still writes to `{dir}`; end it, or give another directory")]
    Occupied { dir: PathBuf },
    /// The server ended instead of serving.
    #[error("redis_server: `{program}` ended with {status}: {log}")]
    Ended {
        program: PathBuf,
        status: process::ExitStatus,
        /// The end of its log.
        log: String,
    },
}

/// A running server with the thread that supervises it. Dropping it ends the server.
#[derive(Debug)]
pub struct EmbeddedRedis {
    socket: PathBuf,
    pid: Arc<AtomicU32>,
    stop: Option<mpsc::Sender<()>>,
    supervisor: Option<JoinHandle<()>>,
}

impl EmbeddedRedis {
    /// Starts `program` with its files in `dir`, and returns when it serves. Blocks.
    ///
    /// # Errors
    /// The program cannot be started, or does not serve, as [`EmbeddedError`] says.
    pub fn start(program: &Path, dir: &Path) -> Result<Self, EmbeddedError> {
        let server = Server { program: program.to_owned(), dir: dir.to_owned() };
        server.prepare()?;
        let socket = server.socket();
        let pid = Arc::new(AtomicU32::new(0));
        let (stop, stopped) = mpsc::channel();
        let (started, first) = mpsc::channel();
        // The kernel ends a child when the *thread* that spawned it ends: this one lives as long as it.
        let supervisor = {
            let pid = Arc::clone(&pid);
            let supervise = move || {
                let result = server.spawn(&stopped);
                let child =
                    result.map(|child| child.inspect(|child| pid.store(child.id(), Ordering::SeqCst)));
                match child {
                    Ok(child) => {
                        let _ = started.send(Ok(()));
                        server.supervise(child, &pid, &stopped);
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            };
            thread::Builder::new().name("redis-supervisor".into()).spawn(supervise)
        };
        let supervisor =
            supervisor.map_err(|cause| EmbeddedError::Directory { path: dir.to_owned(), cause })?;
        let embedded = Self { socket, pid, stop: Some(stop), supervisor: Some(supervisor) };
        match first.recv() {
            Ok(Ok(())) => Ok(embedded),
            Ok(Err(error)) => Err(error),
            Err(mpsc::RecvError) => Err(EmbeddedError::Occupied { dir: dir.to_owned() }),
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where the server of a directory serves, while one does.
    pub fn socket_in(dir: &Path) -> PathBuf {
        dir.join("redis.sock")
    }

    /// Where it serves, for clients that take a URL. Only of use if the path is plain.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// What is wrong with the disk of its files, a sentence; `None` where there is room.
    pub fn disk_problem(&self) -> Option<String> {
        disk_problem(self.socket.parent()?)
    }

    /// The process that serves now; 0 while there is none.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::SeqCst)
    }
}

impl Drop for EmbeddedRedis {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

/// A disk with less room is why Redis ends: it does so when it cannot write.
const LEAST_FREE: u64 = 16 << 20;

fn disk_problem(dir: &Path) -> Option<String> {
    let disk = statvfs(dir).ok()?;
    full(dir, disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// What to say of a disk that has so many bytes free.
fn full(dir: &Path, free: u64) -> Option<String> {
    (free < LEAST_FREE).then(|| {
        format!(
            "the disk of `{}` is full ({} KiB are free), and Redis ends when it cannot write there: make room, then the \
             scheduler goes on by itself",
            dir.display(),
            free >> 10
        )
    })
}

/// How to start a private Redis.
struct Server {
    program: PathBuf,
    dir: PathBuf,
}

impl Server {
    fn socket(&self) -> PathBuf {
        EmbeddedRedis::socket_in(&self.dir)
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("redis.pid")
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("redis.log")
    }

    fn prepare(&self) -> Result<(), EmbeddedError> {
        let socket = self.socket();
        if socket.as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(EmbeddedError::PathTooLong { path: socket });
        }
        // Redis makes its files for everybody to read.
        keep_folder_private(&self.dir).map_err(|cause| self.directory_error(&self.dir, cause))
    }

    fn directory_error(&self, path: &Path, cause: io::Error) -> EmbeddedError {
        EmbeddedError::Directory { path: path.to_owned(), cause }
    }

    /// A server that answers; `None` when asked to stop before it does.
    fn spawn(&self, stopped: &mpsc::Receiver<()>) -> Result<Option<Child>, EmbeddedError> {
        let lock = self.lock()?;
        // Nobody serves here any more, so whatever lies here is stale.
        let _ = fs::remove_file(self.socket());
        let mut child = self.command(&lock).spawn().map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => EmbeddedError::Missing { program: self.program.clone() },
            _ => self.directory_error(&self.program, cause),
        })?;
        drop(lock);
        let mut said = false;
        let start = Instant::now();
        loop {
            if answers(&self.socket()) {
                return Ok(Some(child));
            }
            if let Ok(Some(status)) = child.try_wait() {
                let (program, log) = (self.program.clone(), self.log_tail());
                return Err(EmbeddedError::Ended { program, status, log });
            }
            if !said && start.elapsed() > Duration::from_secs(5) {
                said = true;
                info!(dir = %self.dir.display(), "redis-server still reads its file");
            }
            if stop_asked(stopped, POLL) {
                end(&mut child);
                return Ok(None);
            }
        }
    }

    fn command(&self, lock: &File) -> process::Command {
        let mut command = process::Command::new(&self.program);
        // Redis 7.2 and newer end when the caller's locale is not installed.
        command.env_clear().envs(environment::Child::Redis.environment(env::vars_os()));
        // Written before it is acknowledged; no snapshots beside that; not on the network.
        let settings = [
            ("--port", "0"),
            ("--unixsocketperm", "700"),
            ("--appendonly", "yes"),
            ("--appendfsync", "always"),
            ("--save", ""),
            ("--daemonize", "no"),
        ];
        for (setting, value) in settings {
            command.args([setting, value]);
        }
        command.arg("--dir").arg(&self.dir);
        command.arg("--unixsocket").arg(self.socket());
        command.arg("--pidfile").arg(self.pid_file());
        command.arg("--logfile").arg(self.log_file());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Its own group: an interrupt from the terminal is for the scheduler, which still needs it.
        command.process_group(0);
        let (descriptor, parent) = (lock.as_raw_fd(), process::id());
        let in_child = move || {
            // The lock is inherited, and the server dies with the scheduler.
            // SAFETY: `descriptor` is open, since `lock` outlives the spawn and a fork copies descriptors.
            let lock = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
            fcntl(lock, FcntlArg::F_SETFD(FdFlag::empty()))?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The scheduler may have died just before that.
            let orphaned = u32::try_from(getppid().as_raw()) != Ok(parent);
            if orphaned { Err(io::Error::from(io::ErrorKind::NotConnected)) } else { Ok(()) }
        };
        // SAFETY: only system calls that are safe between fork and exec; nothing allocates.
        unsafe { command.pre_exec(in_child) };
        command
    }

    /// The directory's lock, once no server holds it any more.
    fn lock(&self) -> Result<File, EmbeddedError> {
        let path = self.dir.join("lock");
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(|cause| self.directory_error(&path, cause))?;
        if lock_within(&lock, Duration::ZERO) {
            return Ok(lock);
        }
        warn!(dir = %self.dir.display(), "a redis-server was left behind, ending it");
        let _ = talk(&self.socket(), "SHUTDOWN NOSAVE\r\n");
        if lock_within(&lock, LEFTOVER_PATIENCE) {
            return Ok(lock);
        }
        if let Some(pid) = self.leftover() {
            let _ = signal::kill(pid, Signal::SIGKILL);
        }
        if lock_within(&lock, LEFTOVER_PATIENCE) {
            return Ok(lock);
        }
        Err(EmbeddedError::Occupied { dir: self.dir.clone() })
    }

    /// The process in the pid file, if that is a Redis server in this directory.
    fn leftover(&self) -> Option<Pid> {
        let pid: i32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let ours = fs::canonicalize(&self.dir).ok()? == directory;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (ours && name.starts_with("redis")).then(|| Pid::from_raw(pid))
    }

    /// Keeps a server running until asked to stop.
    fn supervise(&self, first: Option<Child>, pid: &AtomicU32, stopped: &mpsc::Receiver<()>) {
        let Some(mut child) = first else { return };
        let mut delay = RESTART_DELAY;
        // What was said last: on a disk that is full it ends again and again, and says nothing new.
        let mut told = String::new();
        loop {
            let started = Instant::now();
            let status = loop {
                if let Ok(Some(status)) = child.try_wait() {
                    break status;
                }
                if stop_asked(stopped, POLL) {
                    end(&mut child);
                    return;
                }
            };
            pid.store(0, Ordering::SeqCst);
            if started.elapsed() > RESTART_DELAY_MAX {
                delay = RESTART_DELAY;
            }
            let log = self.log_tail();
            if log == told {
                debug!(%status, "redis-server ended again, starting it again");
            } else {
                warn!(%status, log, "redis-server ended, starting it again");
                told = log;
            }
            child = loop {
                match self.spawn(stopped) {
                    Ok(Some(child)) => break child,
                    Ok(None) => return,
                    Err(error) => warn!(%error, retry_in = ?delay, "redis-server does not start"),
                }
                if stop_asked(stopped, delay) {
                    return;
                }
                delay = (delay * 2).min(RESTART_DELAY_MAX);
            };
            pid.store(child.id(), Ordering::SeqCst);
        }
    }

    /// The last line of the server's log that is more than a greeting.
    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        let mut tail = lines[lines.len().saturating_sub(3)..].join(" | ");
        // Its log is on the same disk, and breaks off before the cause.
        if let Some(problem) = disk_problem(&self.dir) {
            tail = format!("{tail} | {problem}");
        }
        tail
    }
}

/// Waits; whether the owner wants an end.
fn stop_asked(stopped: &mpsc::Receiver<()>, wait: Duration) -> bool {
    stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout)
}

/// Ends a child gently, then not.
fn end(child: &mut Child) {
    let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
    let _ = signal::kill(Pid::from_raw(pid), Signal::SIGTERM);
    let deadline = Instant::now() + STOP_PATIENCE;
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        thread::sleep(POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn lock_within(lock: &File, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if lock.try_lock().is_ok() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Whether a server answers and has read its file.
fn answers(socket: &Path) -> bool {
    talk(socket, "PING\r\n").is_ok_and(|answer| answer.starts_with(b"+PONG"))
}

/// One inline command; the answer's first bytes.
fn talk(socket: &Path, command: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(command.as_bytes())?;
    let mut answer = [0; 64];
    let read = stream.read(&mut answer)?;
    Ok(answer[..read].to_vec())
}
