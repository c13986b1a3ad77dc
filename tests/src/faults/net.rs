//! A network whose links can be cut: a namespace for each node, joined by a bridge in one of its own, so that
//! the machine's network is not touched. Where that is not allowed, nodes share the loopback interface, and
//! no link can be cut.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

/// See the module. Everything is removed with this value, which must be dropped after its nodes' processes.
#[derive(Debug)]
pub struct Net {
    hub: Option<String>,
    nodes: u8,
}

/// A place for processes.
#[derive(Debug, Clone)]
pub struct Node {
    /// What others dial.
    pub ip: String,
    /// Its namespace, and the hub's with the link there.
    place: Option<(String, String, String)>,
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("run ip")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

impl Net {
    /// Makes a network and moves this thread into its hub: connections that it makes reach every node.
    /// Without the right to do so, a network that cannot be cut, and why.
    pub fn new() -> (Self, Option<anyhow::Error>) {
        // Each test of this process has its own.
        static NETS: AtomicU32 = AtomicU32::new(0);
        let hub = format!("ty{}-{}", std::process::id(), NETS.fetch_add(1, Ordering::Relaxed));
        let made = Self { hub: Some(hub.clone()), nodes: 1 };
        match made.build(&hub) {
            Ok(()) => (made, None),
            Err(cause) => (Self { hub: None, nodes: 1 }, Some(cause)),
        }
    }

    fn build(&self, hub: &str) -> Result<()> {
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add br0 type bridge"))?;
        for device in ["lo", "br0"] {
            ip(&format!("-n {hub} link set {device} up"))?;
        }
        ip(&format!("-n {hub} addr add 10.77.0.1/24 dev br0"))?;
        let namespace = std::fs::File::open(Path::new("/var/run/netns").join(hub))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the hub's namespace")
    }

    /// Whether links can be cut.
    pub fn can_cut(&self) -> bool {
        self.hub.is_some()
    }

    /// Adds a node.
    pub fn node(&mut self) -> Result<Node> {
        let Some(hub) = &self.hub else { return Ok(Node { ip: "127.0.0.1".into(), place: None }) };
        self.nodes += 1;
        let (number, namespace) = (self.nodes, format!("{hub}-{}", self.nodes));
        let (link, address) = (format!("h{number}"), format!("10.77.0.{number}"));
        ip(&format!("netns add {namespace}"))?;
        ip(&format!("-n {hub} link add {link} type veth peer name e0 netns {namespace}"))?;
        ip(&format!("-n {hub} link set {link} master br0 up"))?;
        ip(&format!("-n {namespace} addr add {address}/24 dev e0"))?;
        for device in ["lo", "e0"] {
            ip(&format!("-n {namespace} link set {device} up"))?;
        }
        Ok(Node { ip: address, place: Some((namespace, hub.clone(), link)) })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let Some(hub) = &self.hub else { return };
        for number in 2..=self.nodes {
            // It may not have come into being.
            let _ = ip(&format!("netns del {hub}-{number}"));
        }
        let _ = ip(&format!("netns del {hub}"));
    }
}

impl Node {
    /// A command that runs here.
    pub fn command(&self, program: &Path) -> Command {
        match &self.place {
            Some((namespace, ..)) => {
                let mut command = Command::new("ip");
                // It becomes the program, under the same process id.
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    /// From now on nothing that is sent to or from here arrives, and nobody is told.
    pub fn cut(&self) -> Result<()> {
        self.set("down")
    }

    /// What was sent meanwhile arrives, as far as it is sent again.
    pub fn heal(&self) -> Result<()> {
        self.set("up")
    }

    fn set(&self, state: &str) -> Result<()> {
        let Some((_, hub, link)) = &self.place else { return Ok(()) };
        ip(&format!("-n {hub} link set {link} {state}"))
    }
}
