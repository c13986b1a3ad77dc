//! A cluster on one machine: starts scheduler and agent as children, keeps them up, stops them in
//! order.
//!
//! Must not know: what they do. They are configured by environment and asked over the wire.

mod child_process;
mod readiness;

use std::fs::{self, File, TryLockError};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Exit, Failure};
use crate::terminal::message;
use child_process::{ChildProcess, Program};

/// How a cluster on this machine is to be.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Where everything is kept; an absolute path.
    pub data_dir: PathBuf,
    /// Where the scheduler listens.
    pub listen: SocketAddr,
    /// Jobs that train on the CPU at a time.
    pub cpu_slots: u32,
    /// The folders that jobs may read data sets from; absolute paths.
    pub data_roots: Vec<PathBuf>,
    /// The library NVML; `None` is the driver's own.
    pub nvml_library: Option<PathBuf>,
}

impl ClusterOptions {
    /// Where clients on this machine find the scheduler.
    fn url(&self) -> String {
        let mut address = self.listen;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        format!("http://{address}")
    }
}

/// Whether NVML finds a GPU on this machine.
pub fn has_gpu(library: Option<&Path>) -> bool {
    let mut builder = nvml_wrapper::Nvml::builder();
    let name = library.unwrap_or(Path::new("libnvidia-ml.so.1"));
    let loaded = builder.lib_path(name.as_os_str()).init();
    loaded.and_then(|nvml| nvml.device_count()).is_ok_and(|count| count > 0)
}

/// Runs the cluster until SIGINT, SIGTERM or SIGHUP; a clean stop is a success.
///
/// # Errors
/// A binary is missing, the port or the data directory is in use, a part does not come up.
pub async fn run(options: ClusterOptions) -> Result<(), Failure> {
    let mut stop = StopSignals::new()?;
    let programs = Programs::new(&options)?;
    let _lock = lock(&options.data_dir)?;
    check_port(options.listen)?;
    message(&format!("starting a cluster in {}", options.data_dir.display()));
    let mut scheduler = ChildProcess::start(programs.scheduler)?;
    let started = stop.or(readiness::scheduler(&options.url(), &mut scheduler)).await;
    if let Err(failure) = started {
        scheduler.stop().await;
        return ok_if_interrupted(failure);
    }
    let mut agent = match ChildProcess::start(programs.agent) {
        Ok(agent) => agent,
        Err(failure) => {
            scheduler.stop().await;
            return Err(failure);
        }
    };
    let result = match stop.or(readiness::agent(&options.url(), &mut agent)).await {
        Ok(summary) => {
            welcome(&options, &summary);
            supervise(&mut scheduler, &mut agent, &mut stop).await
        }
        Err(failure) => ok_if_interrupted(failure),
    };
    if result.is_ok() {
        message("stopping: running jobs write a checkpoint first; a second Ctrl-C does not wait");
    }
    // Agent first: it hands its jobs back to a scheduler that is still there.
    let stopped = async {
        agent.stop().await;
        scheduler.stop().await;
    };
    tokio::select! {
        () = stopped => {}
        () = stop.wait() => message("killing what is left"),
    }
    // Whatever did not stop is killed with its group when the children are dropped.
    result
}

/// Keeps both children up until it is time to stop.
async fn supervise(
    scheduler: &mut ChildProcess,
    agent: &mut ChildProcess,
    stop: &mut StopSignals,
) -> Result<(), Failure> {
    loop {
        let result = tokio::select! {
            result = scheduler.restart_when_dead() => result,
            result = agent.restart_when_dead() => result,
            () = stop.wait() => return Ok(()),
        };
        result?;
    }
}

fn welcome(options: &ClusterOptions, summary: &str) {
    let url = options.url();
    // Commands typed elsewhere need the address only when it is not the usual one.
    let server =
        if url == crate::settings::DEFAULT_SERVER { String::new() } else { format!(" --server {url}") };
    // Enough for the small data set to show something within minutes on two CPU cores.
    let flags = if options.cpu_slots > 0 { " --device cpu --imgsz 128 --batch 16" } else { " --imgsz 192" };
    message(&format!(
        "the cluster is up at {url}: {summary}\nlogs are in {}\n\nin another terminal:\n  \
         yard{server} demo-data shapes\n  \
         yard{server} train shapes/data.yaml --epochs 30 --nbs 16{flags} --follow\n\nCtrl-C stops the cluster",
        options.data_dir.join("logs").display(),
    ));
}

/// A wait that ended because the user wanted it to is no failure.
fn ok_if_interrupted(failure: Failure) -> Result<(), Failure> {
    if failure.exit == Exit::Interrupted { Ok(()) } else { Err(failure) }
}

/// The signals that end the cluster.
struct StopSignals {
    signals: [Signal; 3],
}

impl StopSignals {
    fn new() -> Result<Self, Failure> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [a, b, c] = kinds.map(signal);
        Ok(Self { signals: [a?, b?, c?] })
    }

    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }

    /// `work`, unless a signal comes first.
    async fn or<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            result = work => result,
            () = self.wait() => Err(Failure::quiet(Exit::Interrupted)),
        }
    }
}

/// The two programs that are started.
struct Programs {
    scheduler: Program,
    agent: Program,
}

impl Programs {
    fn new(options: &ClusterOptions) -> Result<Self, Failure> {
        let here = std::env::current_exe()?;
        let folder = here.parent().unwrap_or(Path::new("."));
        let [scheduler, agent, trainer] =
            ["trainyard-scheduler", "trainyard-agent", "trainyard-trainer"].map(|name| folder.join(name));
        let missing: Vec<String> = [&scheduler, &agent, &trainer]
            .into_iter()
            .filter(|path| !path.is_file())
            .map(|path| format!("{} is missing", path.display()))
            .collect();
        if !missing.is_empty() {
            return Err(Failure::usage("the cluster cannot start without its programs")
                .details(missing)
                .hint("`make build` builds them all; they must lie next to `yard`"));
        }
        let logs = options.data_dir.join("logs");
        fs::create_dir_all(&logs).map_err(|error| Failure::local(format!("{}: {error}", logs.display())))?;
        let scheduler_dir = options.data_dir.join("scheduler");
        let agent_dir = options.data_dir.join("agent");
        let mut agent_variables = vec![
            ("TRAINYARD_AGENT__SCHEDULER", options.url()),
            ("TRAINYARD_AGENT__DATA_DIR", text(&agent_dir)?),
            ("TRAINYARD_AGENT__CPU_SLOTS", options.cpu_slots.to_string()),
            ("TRAINYARD_AGENT__DATA_ROOTS", comma_list(&options.data_roots)?),
            ("TRAINYARD_AGENT__TRAINER", text(&trainer)?),
        ];
        if let Some(library) = &options.nvml_library {
            agent_variables.push(("TRAINYARD_AGENT__NVML_LIBRARY", text(library)?));
        }
        let scheduler_variables = vec![
            ("TRAINYARD_SCHEDULER__LISTEN", options.listen.to_string()),
            ("TRAINYARD_SCHEDULER__DATA_DIR", text(&scheduler_dir)?),
            // One machine's programs; whoever listens further has asked for it.
            ("TRAINYARD_SCHEDULER__SECURITY", "off".to_owned()),
        ];
        let program = |name, binary, variables| Program {
            name,
            binary,
            variables,
            log: logs.join(format!("{name}.log")),
        };
        Ok(Self {
            scheduler: program("scheduler", scheduler, scheduler_variables),
            agent: program("agent", agent, agent_variables),
        })
    }
}

fn text(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::usage(format!("{} is not UTF-8", path.display())))
}

/// Lists cross the environment separated by commas, so no path may hold one.
fn comma_list(paths: &[PathBuf]) -> Result<String, Failure> {
    let mut texts = Vec::new();
    for path in paths {
        let path = text(path)?;
        if path.contains(',') {
            return Err(Failure::usage(format!("data root `{path}` has a comma in its name"))
                .hint("give `--data-root` a folder without one"));
        }
        texts.push(path);
    }
    Ok(texts.join(","))
}

/// Keeps a second `yard up` off the same data.
fn lock(data_dir: &Path) -> Result<File, Failure> {
    let path = data_dir.join("up.lock");
    let io = |error: std::io::Error| Failure::local(format!("{}: {error}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::usage(format!("a cluster runs in {} already", data_dir.display()))
                .hint("`yard agents` talks to it; another one needs its own `--data-dir` and `--listen`"))
        }
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// Says plainly what the scheduler would say in its log.
fn check_port(listen: SocketAddr) -> Result<(), Failure> {
    if listen.port() == 0 {
        return Err(Failure::usage("port 0 would be a different one at every start").hint("name a free port"));
    }
    match TcpListener::bind(listen) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(Failure::usage(format!("{listen} is in use by another program"))
                .hint("if it is a cluster, `yard agents` talks to it; `--listen` takes another port"))
        }
        Err(error) => Err(Failure::usage(format!("cannot listen on {listen}: {error}"))
            .hint("give `--listen` an address of this machine and a free port above 1023")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_said_before_anything_starts() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let failure = check_port(taken.local_addr().unwrap()).unwrap_err();
        assert!(failure.message.contains("is in use"), "{failure:?}");
    }

    #[test]
    fn one_data_directory_has_one_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(lock(dir.path()).unwrap_err().message.contains("already"));
        drop(held);
        assert!(lock(dir.path()).is_ok());
    }

    #[test]
    fn clients_reach_a_scheduler_that_listens_everywhere() {
        let options = |listen: &str| ClusterOptions {
            data_dir: "/d".into(),
            listen: listen.parse().unwrap(),
            cpu_slots: 0,
            data_roots: Vec::new(),
            nvml_library: None,
        };
        assert_eq!(options("0.0.0.0:7433").url(), "http://127.0.0.1:7433");
        assert_eq!(options("[::]:1").url(), "http://[::1]:1");
    }

    #[test]
    fn a_data_root_with_a_comma_is_refused() {
        assert!(comma_list(&["/a,b".into()]).is_err());
        assert_eq!(comma_list(&["/a".into(), "/b".into()]).unwrap(), "/a,/b");
    }
}
