//! A cluster on one machine: starts scheduler and agent as children, keeps them up, stops them in
//! order.
//!
//! Must not know: what they do. They are configured by environment and asked over the wire.

mod child;
mod ready;

use std::fs::{self, File, TryLockError};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Exit, Failure};
use crate::terminal::message;
use child::{Child, Plan};

/// What the cluster is to be like.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Absolute.
    pub data_dir: PathBuf,
    /// Of the scheduler.
    pub listen: SocketAddr,
    /// Jobs that train on the CPU at a time.
    pub cpu_slots: u32,
    /// Absolute.
    pub data_roots: Vec<PathBuf>,
    /// Instead of the driver's own.
    pub nvml_library: Option<PathBuf>,
}

impl Setup {
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
pub async fn run(setup: Setup) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let plans = Plans::new(&setup)?;
    let _lock = lock(&setup.data_dir)?;
    check_port(setup.listen)?;
    message(&format!("starting a cluster in {}", setup.data_dir.display()));
    let mut scheduler = Child::start(plans.scheduler)?;
    let started = stop.or(ready::scheduler(&setup.url(), &mut scheduler)).await;
    if let Err(failure) = started {
        scheduler.stop().await;
        return unless_stopped(failure);
    }
    let mut agent = match Child::start(plans.agent) {
        Ok(agent) => agent,
        Err(failure) => {
            scheduler.stop().await;
            return Err(failure);
        }
    };
    let result = match stop.or(ready::agent(&setup.url(), &mut agent)).await {
        Ok(summary) => {
            welcome(&setup, &summary);
            supervise(&mut scheduler, &mut agent, &mut stop).await
        }
        Err(failure) => unless_stopped(failure),
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
async fn supervise(scheduler: &mut Child, agent: &mut Child, stop: &mut Stop) -> Result<(), Failure> {
    loop {
        let result = tokio::select! {
            result = scheduler.restart_when_dead() => result,
            result = agent.restart_when_dead() => result,
            () = stop.wait() => return Ok(()),
        };
        result?;
    }
}

fn welcome(setup: &Setup, summary: &str) {
    let url = setup.url();
    // Commands typed elsewhere need the address only when it is not the usual one.
    let server =
        if url == crate::settings::DEFAULT_SERVER { String::new() } else { format!(" --server {url}") };
    // Enough for the small data set to show something within minutes on two CPU cores.
    let flags = if setup.cpu_slots > 0 { " --device cpu --imgsz 128 --batch 16" } else { " --imgsz 192" };
    message(&format!(
        "the cluster is up at {url}: {summary}\nlogs are in {}\n\nin another terminal:\n  \
         yard{server} demo-data shapes\n  \
         yard{server} train shapes/data.yaml --epochs 30 --nbs 16{flags} --follow\n\nCtrl-C stops the cluster",
        setup.data_dir.join("logs").display(),
    ));
}

/// A wait that ended because the user wanted it to is no failure.
fn unless_stopped(failure: Failure) -> Result<(), Failure> {
    if failure.exit == Exit::Interrupted { Ok(()) } else { Err(failure) }
}

/// The signals that end the cluster.
struct Stop {
    signals: [Signal; 3],
}

impl Stop {
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

/// How the two children are started.
struct Plans {
    scheduler: Plan,
    agent: Plan,
}

impl Plans {
    fn new(setup: &Setup) -> Result<Self, Failure> {
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
        let logs = setup.data_dir.join("logs");
        fs::create_dir_all(&logs).map_err(|error| Failure::local(format!("{}: {error}", logs.display())))?;
        let scheduler_dir = setup.data_dir.join("scheduler");
        let agent_dir = setup.data_dir.join("agent");
        let mut agent_variables = vec![
            ("TRAINYARD_AGENT__SCHEDULER", setup.url()),
            ("TRAINYARD_AGENT__DATA_DIR", text(&agent_dir)?),
            ("TRAINYARD_AGENT__CPU_SLOTS", setup.cpu_slots.to_string()),
            ("TRAINYARD_AGENT__DATA_ROOTS", comma_list(&setup.data_roots)?),
            ("TRAINYARD_AGENT__TRAINER", text(&trainer)?),
        ];
        if let Some(library) = &setup.nvml_library {
            agent_variables.push(("TRAINYARD_AGENT__NVML_LIBRARY", text(library)?));
        }
        let scheduler_variables = vec![
            ("TRAINYARD_SCHEDULER__LISTEN", setup.listen.to_string()),
            ("TRAINYARD_SCHEDULER__DATA_DIR", text(&scheduler_dir)?),
        ];
        let plan =
            |name, binary, variables| Plan { name, binary, variables, log: logs.join(format!("{name}.log")) };
        Ok(Self {
            scheduler: plan("scheduler", scheduler, scheduler_variables),
            agent: plan("agent", agent, agent_variables),
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
        let setup = |listen: &str| Setup {
            data_dir: "/d".into(),
            listen: listen.parse().unwrap(),
            cpu_slots: 0,
            data_roots: Vec::new(),
            nvml_library: None,
        };
        assert_eq!(setup("0.0.0.0:7433").url(), "http://127.0.0.1:7433");
        assert_eq!(setup("[::]:1").url(), "http://[::1]:1");
    }

    #[test]
    fn a_data_root_with_a_comma_is_refused() {
        assert!(comma_list(&["/a,b".into()]).is_err());
        assert_eq!(comma_list(&["/a".into(), "/b".into()]).unwrap(), "/a,/b");
    }
}
