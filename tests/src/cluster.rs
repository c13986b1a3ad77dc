//! A scheduler and agents on a free port, in a temporary directory.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use trainyard_proto::pb;
use trainyard_proto::pb::cluster_service_client::ClusterServiceClient;

use crate::process::{Process, binary};
use crate::stand_in;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// A whole cluster; everything of it dies and is deleted with this value.
#[derive(Debug)]
pub struct Cluster {
    /// The scheduler, unless a test has killed it.
    pub scheduler: Option<Process>,
    dir: TempDir,
    port: u16,
    environment: Vec<(String, String)>,
    /// What a shell does before the scheduler starts, in a mount namespace of its own; empty for none.
    mounts: String,
}

/// How long a submission waits for an agent to look at its data set.
const DATA_CHECK_TIMEOUT: &str = "TRAINYARD_SCHEDULER__DATA_CHECK_TIMEOUT";

impl Cluster {
    /// Starts a scheduler whose leases are short, so that lost agents are noticed within a test's patience.
    pub async fn start() -> Result<Self> {
        Self::start_with("4s", "fair").await
    }

    /// Starts one whose leases outlast a machine that is slow for a while: nobody is to be lost.
    pub async fn start_patient() -> Result<Self> {
        Self::start_with("60s", "fair").await
    }

    /// The same under another policy.
    pub async fn start_with_policy(policy: &str) -> Result<Self> {
        Self::start_with("60s", policy).await
    }

    /// Starts one that has agents look at data sets before jobs queue.
    pub async fn start_that_checks_data() -> Result<Self> {
        let mut cluster = Self::without_processes("60s", "fair")?;
        cluster.environment.push((DATA_CHECK_TIMEOUT.to_owned(), "60s".to_owned()));
        cluster.start_scheduler().await?;
        Ok(cluster)
    }

    async fn start_with(lease: &str, policy: &str) -> Result<Self> {
        let mut cluster = Self::without_processes(lease, policy)?;
        cluster.start_scheduler().await?;
        Ok(cluster)
    }

    fn without_processes(lease: &str, policy: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("trainyard-").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let environment = [
            ("TRAINYARD_SCHEDULER__LISTEN", format!("127.0.0.1:{port}")),
            ("TRAINYARD_SCHEDULER__DATA_DIR", dir.path().join("scheduler").display().to_string()),
            ("TRAINYARD_SCHEDULER__LEASE", lease.to_owned()),
            ("TRAINYARD_SCHEDULER__HEARTBEAT", "1s".to_owned()),
            // Scenarios say which job is first; the other policy weighs its length.
            ("TRAINYARD_SCHEDULER__POLICY", policy.to_owned()),
            ("TRAINYARD_SCHEDULER__RETRY_DELAY", "100ms".to_owned()),
            // Scenarios are about what becomes of jobs that were not looked at before.
            (DATA_CHECK_TIMEOUT, "0s".to_owned()),
        ];
        let environment = environment.map(|(key, value)| (key.to_owned(), value)).to_vec();
        Ok(Self { scheduler: None, dir, port, environment, mounts: String::new() })
    }

    /// Starts one whose artifacts lie on a disk of their own of so many MiB, which needs root. What is on it is seen
    /// by [`Process::sees`] only.
    pub async fn start_with_blob_disk(mib: u32) -> Result<Self> {
        let mut cluster = Self::without_processes("60s", "fair")?;
        let blobs = cluster.blobs().display().to_string();
        cluster.mounts = format!("mkdir -p '{blobs}' && mount -t tmpfs -o size={mib}m tmpfs '{blobs}'");
        cluster.environment.push(("TRAINYARD_SCHEDULER__BLOB_DIR".into(), blobs));
        cluster.start_scheduler().await?;
        Ok(cluster)
    }

    /// Where the artifacts of [`Cluster::start_with_blob_disk`] are.
    pub fn blobs(&self) -> PathBuf {
        self.path("blobs")
    }

    /// Starts the scheduler (again) on the same data and port, and waits until it serves.
    pub async fn start_scheduler(&mut self) -> Result<()> {
        let mut command = with_mounts(&binary("trainyard-scheduler")?, &self.mounts);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        let mut process = Process::spawn(&mut command, &self.path("scheduler.log"))?;
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut poll = tokio::time::interval(POLL);
        loop {
            poll.tick().await;
            if let Some(status) = process.ended()? {
                bail!("the scheduler ended with {status}:\n{}", process.output());
            }
            if let Ok(mut client) = self.cluster_client().await
                && client.list_agents(pb::ListAgentsRequest::default()).await.is_ok()
            {
                break;
            }
            ensure!(
                std::time::Instant::now() < deadline,
                "no answer from the scheduler:\n{}",
                process.output()
            );
        }
        self.scheduler = Some(process);
        Ok(())
    }

    /// Starts the scheduler (again) on the same data and port, where it asks who calls, and returns what it writes at its
    /// first such start.
    pub async fn start_secure_scheduler(&mut self) -> Result<String> {
        let mut command = Command::new(binary("trainyard-scheduler")?);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.env("TRAINYARD_SCHEDULER__SECURITY", "on");
        self.scheduler = Some(Process::spawn(&mut command, &self.path("scheduler.log"))?);
        let (file, deadline) = (self.path("scheduler/first-login.txt"), std::time::Instant::now() + PATIENCE);
        let mut poll = tokio::time::interval(POLL);
        loop {
            poll.tick().await;
            if let Ok(text) = std::fs::read_to_string(&file) {
                return Ok(text);
            }
            ensure!(std::time::Instant::now() < deadline, "the scheduler writes no first login");
        }
    }

    /// The address that clients use.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `host:port`, as grpcurl wants it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A file or folder of the cluster's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder that jobs may read data sets from.
    pub fn data_root(&self) -> PathBuf {
        self.path("data")
    }

    /// A connection to the scheduler.
    pub async fn channel(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(self.url())?.connect_timeout(Duration::from_secs(2)).connect().await?)
    }

    /// The cluster's side of things.
    pub async fn cluster_client(&self) -> Result<ClusterServiceClient<Channel>> {
        Ok(ClusterServiceClient::new(self.channel().await?))
    }

    /// Starts an agent with `cpu_slots` and waits until the scheduler lists it as connected.
    pub async fn start_agent(&self, name: &str, cpu_slots: u32) -> Result<Process> {
        self.start_agent_with(name, cpu_slots, &[]).await
    }

    /// The same with more of its configuration, as environment variables.
    pub async fn start_agent_with(
        &self,
        name: &str,
        cpu_slots: u32,
        more: &[(&str, &str)],
    ) -> Result<Process> {
        self.start_agent_after("", name, cpu_slots, more).await
    }

    /// The same after what a shell does in a mount namespace of the agent's own, which needs root.
    pub async fn start_agent_after(
        &self,
        mounts: &str,
        name: &str,
        cpu_slots: u32,
        more: &[(&str, &str)],
    ) -> Result<Process> {
        std::fs::create_dir_all(self.data_root())?;
        let mut command = with_mounts(&binary("trainyard-agent")?, mounts);
        command
            .env("TRAINYARD_AGENT__SCHEDULER", self.url())
            .env("TRAINYARD_AGENT__NAME", name)
            .env("TRAINYARD_AGENT__DATA_DIR", self.path(name))
            .env("TRAINYARD_AGENT__TRAINER", binary("trainyard-trainer")?)
            .env("TRAINYARD_AGENT__CPU_SLOTS", cpu_slots.to_string())
            .env("TRAINYARD_AGENT__DATA_ROOTS", self.data_root())
            .env("TRAINYARD_AGENT__METRICS_LISTEN", "")
            // How full the machine's disk is is not the test's.
            .env("TRAINYARD_AGENT__CACHE_FLOOR_GIB", "1")
            // What pretends to be a trainer starts other programs, and reads what no job may.
            .env("TRAINYARD_AGENT__CONFINE_TRAINERS", (!stand_in::pretends(more)).to_string())
            .envs(more.iter().copied());
        let mut process = Process::spawn(&mut command, &self.path(&format!("{name}.log")))?;
        let started = std::time::SystemTime::now();
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut poll = tokio::time::interval(POLL);
        loop {
            poll.tick().await;
            if let Some(status) = process.ended()? {
                bail!("agent {name} ended with {status}:\n{}", process.output());
            }
            if self.is_connected_since(name, started).await {
                return Ok(process);
            }
            ensure!(
                std::time::Instant::now() < deadline,
                "agent {name} did not connect:\n{}",
                process.output()
            );
        }
    }

    async fn is_connected_since(&self, name: &str, since: std::time::SystemTime) -> bool {
        let Ok(agent) = self.agent(name).await else { return false };
        let seen = agent.last_seen_time.and_then(|time| std::time::SystemTime::try_from(time).ok());
        agent.state() == pb::AgentState::Connected && seen.is_some_and(|seen| seen >= since)
    }

    /// An agent as the scheduler sees it.
    pub async fn agent(&self, name: &str) -> Result<pb::Agent> {
        let request = pb::GetAgentRequest { agent: name.to_owned() };
        Ok(self.cluster_client().await?.get_agent(request).await?.into_inner())
    }

    /// Runs `yard` against this cluster and returns its exit code, standard output and standard error.
    pub async fn yard(&self, arguments: &[&str]) -> Result<(i32, String, String)> {
        run(Command::new(binary("yard")?).args(arguments).env("YARD_SERVER", self.url())).await
    }

    /// Makes a generated data set in the data root; returns its data.yaml.
    pub async fn demo_data(&self, name: &str, train: u32, val: u32, size: u32) -> Result<PathBuf> {
        let folder = self.data_root().join(name);
        std::fs::create_dir_all(self.data_root())?;
        let (train, val, size) = (train.to_string(), val.to_string(), size.to_string());
        let folder_text = folder.display().to_string();
        let arguments = ["demo-data", &folder_text, "--train", &train, "--val", &val, "--size", &size];
        let (code, _, error) = self.yard(&arguments).await?;
        ensure!(code == 0, "yard demo-data ended with {code}: {error}");
        Ok(folder.join("data.yaml"))
    }
}

/// A program that starts after what a shell does in a mount namespace of its own; as it is where that is nothing.
fn with_mounts(program: &Path, mounts: &str) -> Command {
    if mounts.is_empty() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{mounts} && exec \"$0\"")]).arg(program);
    command
}

/// Runs a command to its end: exit code (128 + signal), standard output, standard error.
pub async fn run(command: &mut Command) -> Result<(i32, String, String)> {
    use std::os::unix::process::ExitStatusExt;
    let program = format!("{:?}", command.get_program());
    let mut command = std::mem::replace(command, Command::new("true"));
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.with_context(|| format!("run {program}"))?;
    let code = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((code.unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
}

/// The lines of a file that contain `text`.
pub fn lines_with(path: &Path, text: &str) -> Vec<String> {
    let content = std::fs::read_to_string(path).unwrap_or_default();
    content.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}
