//! The processes of the cluster, and what starts each of them again.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::net::{Net, Node};
use super::object_store::ObjectStore;
use crate::process::{Process, binary, children_of};
use crate::stand_in::PRELUDE;

const REDIS_PORT: u16 = 6379;
const SCHEDULER_PORT: u16 = 7433;
/// What Redis' disk holds.
const DISK: &str = "size=512m";

/// A trainer that speaks the contract, trains nothing, and tells ever the same. It steps at once, since a job that
/// dies before its first step on two machines has failed.
const TRAINER: &str = r#"while [ $# -gt 0 ]; do
  case $1 in
    --spec) spec=$2; shift;;
    --events-fd) fd=$2; shift;;
    --run-dir) run=$2; shift;;
  esac
  shift
done
tell() { printf '{"v":1,"time":5,%s}\n' "$1" >"/proc/self/fd/$fd"; }
epochs=$(sed -n 's/.*"epochs": \([0-9]*\).*/\1/p' "$spec")
tell '"type":"started","parameters":1,"train_images":1,"val_images":1,"classes":["a"],"epochs":'$epochs',"batch_size":1,"first_epoch":1,"device":"cpu"'
tell '"type":"step","epoch":1,"batch":1,"batches":1,"images_per_second":1.0,"loader_wait_ratio":0.0,"metrics":{}'
epoch=1
while [ $epoch -le $epochs ]; do
  sleep 0.1
  tell '"type":"epoch","epoch":'$epoch',"epochs":'$epochs',"seconds":0.1,"images_per_second":1.0,"loader_wait_ratio":0.0,"best":true,"metrics":{"metrics/mAP50(B)":0.'$epoch'}'
  epoch=$((epoch + 1))
done
mkdir -p "$run/weights"
echo "weights of $spec" >"$run/weights/best.safetensors"
tell '"type":"finished","best_epoch":1,"metrics":{},"artifacts":["weights/best.safetensors"]'
"#;

/// A process that is meant to run, with all that it takes to start it.
#[derive(Debug)]
pub struct Member {
    /// The name that messages give it.
    pub name: String,
    /// Where it runs.
    pub node: Node,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    process: Option<Process>,
    /// Whether it may end by itself, as Redis does when its disk is full.
    may_end: bool,
    is_paused: bool,
}

impl Member {
    /// The same with these arguments.
    pub(super) fn with_arguments(mut self, arguments: impl IntoIterator<Item = String>) -> Self {
        self.arguments = arguments.into_iter().collect();
        self
    }

    /// From its next start on, it sees nothing of these folders: they lie on disks of others. Needs a namespace of its own.
    pub fn hide(&mut self, folders: &[PathBuf]) {
        let mounts = folders.iter().map(|folder| format!("mount -t tmpfs none '{}' && ", folder.display()));
        let words = mounts.collect::<String>() + "exec \"$0\" \"$@\"";
        let program = std::mem::replace(&mut self.program, "sh".into()).display().to_string();
        self.arguments.splice(0..0, ["-c".to_owned(), words, program]);
    }

    /// From its next start on, a variable of its environment has this value.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.environment.retain(|(known, _)| known != key);
        self.environment.push((key.to_owned(), value.into()));
    }

    /// Starts it, unless it runs.
    ///
    /// # Errors
    /// It has ended although nobody killed it, or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process {
            let Some(status) = process.ended()? else { return Ok(()) };
            ensure!(self.may_end, "{} ended with {status}:\n{}", self.name, tail(&process.output()));
        }
        let mut command: Command = self.node.command(&self.program);
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        self.process = Some(Process::spawn(&mut command, &self.log)?);
        self.is_paused = false;
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Process::kill)
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(&mut self) -> Result<()> {
        let Some(process) = self.process.take() else { return Ok(()) };
        let status = process.terminate()?;
        // A process that has only just been started does not handle the signal yet.
        let was_starting = status.signal() == Some(Signal::SIGTERM as i32);
        ensure!(status.success() || was_starting, "{} ended with {status} on SIGTERM", self.name);
        Ok(())
    }

    /// Stops it without a word, or lets it go on.
    pub fn pause(&mut self, pause: bool) -> Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        self.is_paused = pause;
        process.signal(if pause { Signal::SIGSTOP } else { Signal::SIGCONT })
    }

    /// Whether it was killed and not started again.
    pub fn is_down(&self) -> bool {
        self.process.is_none()
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().map(Process::pid)
    }

    /// As far as is known.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// The trainers of an agent.
    pub fn trainers(&self) -> Vec<i32> {
        self.pid().map(|pid| children_of(pid, "trainer.sh")).unwrap_or_default()
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// The whole cluster. Processes end before the network does, and both before the directory.
#[derive(Debug)]
pub struct Members {
    /// Its append-only file is written before an answer.
    pub redis: Member,
    /// The schedulers, of which one leads.
    pub schedulers: Vec<Member>,
    /// With CPU slots.
    pub agents: Vec<Member>,
    /// What the agents may read.
    pub data: PathBuf,
    /// Of the schedulers.
    pub urls: Vec<String>,
    disk: Disk,
    net: Net,
    dir: TempDir,
}

/// The directory of Redis: small and its own, where this machine lets us.
#[derive(Debug)]
struct Disk {
    path: PathBuf,
    is_mounted: bool,
}

impl Disk {
    fn new(path: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&path)?;
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "none"]).arg(&path).output();
        let is_mounted = mount.is_ok_and(|output| output.status.success());
        Ok(Self { path, is_mounted })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            // Redis has ended: it was dropped before.
            let _ = Command::new("umount").arg("-l").arg(&self.path).output();
        }
    }
}

impl Members {
    /// Prepares everything and starts nothing.
    pub fn new(mut net: Net, schedulers: usize, agents: usize, slots: u32) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("trainyard-faults-").tempdir()?;
        let data = dir.path().join("data");
        std::fs::create_dir_all(&data)?;
        std::fs::write(data.join("data.yaml"), "names: [a]\n")?;
        let trainer = dir.path().join("trainer.sh");
        std::fs::write(&trainer, format!("{PRELUDE}{TRAINER}"))?;
        std::fs::set_permissions(&trainer, std::fs::Permissions::from_mode(0o755))?;
        let disk = Disk::new(dir.path().join("redis"))?;
        // Where all share one address, each has a port.
        let shared = u16::from(!net.can_cut()) * free_ports()?;
        let port = |own: u16, offset: u16| if shared == 0 { own } else { shared + offset };
        let redis_port = port(REDIS_PORT, 0);
        let redis = redis(net.node()?, dir.path(), redis_port)?;
        let redis_url = format!("redis://{}:{redis_port}/", redis.node.ip);
        let mut all = Vec::new();
        let mut urls = Vec::new();
        for number in 0..schedulers {
            let node = net.node()?;
            let address = format!("{}:{}", node.ip, port(SCHEDULER_PORT, u16::try_from(number)? + 1));
            urls.push(format!("http://{address}"));
            all.push(scheduler(node, dir.path(), number, &address, &redis_url)?);
        }
        let mut workers = Vec::new();
        for number in 0..agents {
            workers.push(agent(net.node()?, dir.path(), number, slots, &urls.join(","))?);
        }
        Ok(Self { redis, schedulers: all, agents: workers, data, urls, disk, net, dir })
    }

    /// Everything that is a process.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Member> {
        std::iter::once(&mut self.redis).chain(&mut self.schedulers).chain(&mut self.agents)
    }

    /// A place for somebody who is no member.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn place(&mut self) -> Result<Node> {
        self.net.node()
    }

    /// A file or folder of the cluster's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Adds a server that speaks S3, in which the schedulers keep their files from their next start on.
    ///
    /// # Errors
    /// It does not start.
    pub fn add_object_store(&mut self) -> Result<ObjectStore> {
        let store = ObjectStore::start(self.net.node()?, &self.path("objects"))?;
        for scheduler in &mut self.schedulers {
            // A scheduler that finds no store when it starts ends, and is started again by whoever looks after it.
            scheduler.may_end = true;
            for (key, value) in store.settings() {
                scheduler.set(key, value);
            }
        }
        Ok(store)
    }

    /// Whether Redis' disk can be filled without harm to others.
    pub fn can_fill_disk(&self) -> bool {
        self.disk.is_mounted
    }

    /// Leaves no byte on Redis' disk, or gives all back.
    pub fn fill_disk(&self, fill: bool) -> Result<()> {
        let path = self.disk.path.join("ballast");
        if !fill {
            return Ok(std::fs::remove_file(path)?);
        }
        let mut file = std::fs::File::create(path)?;
        let block = [0; 1 << 16];
        while std::io::Write::write(&mut file, &block).is_ok_and(|written| written > 0) {}
        Ok(())
    }
}

/// The first of a row of ports that nobody uses at the moment.
fn free_ports() -> Result<u16> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    Ok(port.min(60_000))
}

pub(super) fn member(name: &str, node: Node, program: PathBuf, dir: &Path) -> Member {
    Member {
        name: name.to_owned(),
        node,
        program,
        arguments: Vec::new(),
        environment: Vec::new(),
        log: dir.join(format!("{name}.log")),
        process: None,
        may_end: false,
        is_paused: false,
    }
}

fn redis(node: Node, dir: &Path, port: u16) -> Result<Member> {
    let (port, data) = (port.to_string(), dir.join("redis").display().to_string());
    let mut member = member("redis", node, "redis-server".into(), dir);
    let arguments = [
        ["--port", &port],
        ["--bind", &member.node.ip],
        ["--protected-mode", "no"],
        ["--appendonly", "yes"],
        ["--appendfsync", "always"],
        ["--save", ""],
        ["--dir", &data],
    ];
    member.arguments = arguments.concat().into_iter().map(str::to_owned).collect();
    member.may_end = true;
    Ok(member)
}

fn scheduler(node: Node, dir: &Path, number: usize, address: &str, redis_url: &str) -> Result<Member> {
    let name = format!("scheduler-{number}");
    let mut member = member(&name, node, binary("trainyard-scheduler")?, dir);
    let settings = [
        ("LISTEN", address.to_owned()),
        // Links that are cut are the networks' here: who calls is not asked.
        ("SECURITY", "off".to_owned()),
        ("DATA_DIR", dir.join(&name).display().to_string()),
        ("BLOB_DIR", dir.join("blobs").display().to_string()),
        ("REDIS_URL", redis_url.to_owned()),
        ("LEADER_LEASE", "1500ms".into()),
        ("LEASE", "4s".into()),
        ("HEARTBEAT", "1s".into()),
        ("POLICY", "finish-time".into()),
        ("RETRY_DELAY", "100ms".into()),
        ("RETRY_DELAY_MAX", "500ms".into()),
    ];
    let named = |(key, value): (&str, String)| (format!("TRAINYARD_SCHEDULER__{key}"), value);
    member.environment = settings.map(named).into();
    Ok(member)
}

fn agent(node: Node, dir: &Path, number: usize, slots: u32, schedulers: &str) -> Result<Member> {
    let name = format!("agent-{number}");
    let mut member = member(&name, node, binary("trainyard-agent")?, dir);
    let settings = [
        ("SCHEDULER", schedulers.to_owned()),
        ("NAME", name.clone()),
        ("DATA_DIR", dir.join(&name).display().to_string()),
        ("DATA_ROOTS", dir.join("data").display().to_string()),
        ("TRAINER", dir.join("trainer.sh").display().to_string()),
        // What pretends to be a trainer starts other programs.
        ("CONFINE_TRAINERS", "false".to_owned()),
        ("CPU_SLOTS", slots.to_string()),
        // How full the machine's disk is is not the test's.
        ("CACHE_FLOOR_GIB", "1".to_owned()),
    ];
    let named = |(key, value): (&str, String)| (format!("TRAINYARD_AGENT__{key}"), value);
    member.environment = settings.map(named).into();
    Ok(member)
}
