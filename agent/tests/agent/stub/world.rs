//! The machine of a test: its folders, its trainer, and the agent's process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Stub;

/// A directory with a data set, a trainer that is a shell script, and the agent's own data.
pub struct World {
    folder: tempfile::TempDir,
}

/// What every script begins with: where things are, and how to tell an event.
const PRELUDE: &str = r#"#!/bin/sh
# What a machine that is well answers; a script that the test has put there says otherwise.
if [ "$1" = self-test ]; then
  [ -x "$0.self-test" ] && exec "$0.self-test"
  echo '{"ok":true,"trainer":"9.9","libtorch":"2.13.0","seconds":0}'
  exit 0
fi
[ "$1" = train ] || exit 64
while [ $# -gt 0 ]; do
  case $1 in
    --events-fd) fd=$2; shift;;
    --control-fd) control=$2; shift;;
    --spec) spec=$2; shift;;
    --run-dir) run=$2; shift;;
    --batch-size) batch=$2; shift;;
    --device) device=$2; shift;;
  esac
  shift
done
tell() { printf '{"v":1,"time":5,%s}\n' "$1" > "/proc/self/fd/$fd"; }
log() { tell '"type":"log","level":"info","message":"'"$1"'"'; }
started() {
  tell '"type":"started","parameters":1,"train_images":1,"val_images":1,"classes":[],"epochs":1,"batch_size":'"$batch"',"first_epoch":1,"device":"cpu","precision":"fp32","libtorch":"2.13.0"'
}
checkpoint() {
  mkdir -p "$run/checkpoints/step-0000000$1"
  printf 'weights of step %s' "$1" > "$run/checkpoints/step-0000000$1/model.safetensors"
  tell '"type":"checkpoint","step":'"$1"',"epoch":1,"path":"checkpoints/step-0000000'"$1"'"'
}
finish() {
  mkdir -p "$run/weights"
  printf 'the best weights' > "$run/weights/best.safetensors"
  tell '"type":"finished","best_epoch":3,"metrics":{},"artifacts":["weights/best.safetensors"]'
}
# Blocks without a child process until the test lets it go on.
wait_for_test() { read -r line < "$run/../../../../hold"; }
# The same for ever.
hold() { while :; do read -r line < "$run/../../../../hold"; done; }
"#;

impl World {
    pub fn new(trainer: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { folder };
        fs::create_dir(world.path("data")).unwrap();
        fs::write(world.data(), "names: [a]\n").unwrap();
        let made = Command::new("mkfifo").arg(world.path("hold")).arg(world.path("alive")).status().unwrap();
        assert!(made.success());
        fs::write(world.path("trainer"), format!("{PRELUDE}{trainer}")).unwrap();
        fs::set_permissions(world.path("trainer"), fs::Permissions::from_mode(0o755)).unwrap();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.path("data/data.yaml")
    }

    /// Starts an agent with one CPU slot; its log goes to `agent.log`.
    pub fn agent(&self, stub: &Stub, more: &[&str]) -> Agent {
        self.agent_with(stub, more, &[])
    }

    /// The same with environment variables.
    pub fn agent_with(&self, stub: &Stub, more: &[&str], variables: &[(&str, &str)]) -> Agent {
        self.start(
            Command::new(env!("CARGO_BIN_EXE_trainyard-agent")),
            &stub.url,
            more,
            variables,
            self.log_file(),
        )
    }

    /// Starts an agent whose log goes to a pipe that nobody reads.
    pub fn agent_unheard(&self, stub: &Stub) -> Agent {
        let (_, nobody_reads) = std::io::pipe().unwrap();
        self.start(Command::new(env!("CARGO_BIN_EXE_trainyard-agent")), &stub.url, &[], &[], nobody_reads)
    }

    pub fn log_file(&self) -> fs::File {
        fs::OpenOptions::new().create(true).append(true).open(self.path("agent.log")).unwrap()
    }

    /// The same with a data directory on a disk of its own of so many MiB, which needs root. What is on it is
    /// seen by [`Agent::sees`] only.
    pub fn agent_on_a_disk(&self, mib: u32, stub: &Stub, more: &[&str]) -> Agent {
        let folder = self.path("agent");
        let folder = folder.display();
        let mounts = format!("mkdir -p '{folder}' && mount -t tmpfs -o size={mib}m tmpfs '{folder}'");
        self.agent_after(&mounts, stub, more, &[])
    }

    /// The same after what a shell does in a mount namespace of the agent's own, which needs root.
    pub fn agent_after(&self, mounts: &str, stub: &Stub, more: &[&str], variables: &[(&str, &str)]) -> Agent {
        let script = format!("{mounts} && exec \"$0\" \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_trainyard-agent")]);
        self.start(command, &stub.url, more, variables, self.log_file())
    }

    pub fn start(
        &self,
        mut command: Command,
        url: &str,
        more: &[&str],
        variables: &[(&str, &str)],
        log: impl Into<Stdio>,
    ) -> Agent {
        let slots: &[&str] = if more.contains(&"--cpu-slots") { &[] } else { &["--cpu-slots", "1"] };
        let child = command
            .args(if url.is_empty() { vec![] } else { vec!["--scheduler", url] })
            .args(["--name", "lab-1"])
            .args(slots)
            .arg("--data-dir")
            .arg(self.path("agent"))
            .arg("--trainer")
            .arg(self.path("trainer"))
            .arg("--data-root")
            .arg(self.path("data"))
            .args(more)
            .env("FAKE_NVML_STATE", self.path("gpus.json"))
            .env("TRAINYARD_AGENT__METRICS_LISTEN", "")
            // Its trainers are scripts, which start other programs and read what no job may.
            .env("TRAINYARD_AGENT__CONFINE_TRAINERS", "false")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Agent(child)
    }

    /// Lets the script that reads from the fifo `hold` go on, as soon as it does.
    pub async fn release(&self) {
        let hold = self.path("hold");
        tokio::task::spawn_blocking(move || fs::write(hold, "on\n").unwrap()).await.unwrap();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }
}

/// An agent process, killed when the test is over.
pub struct Agent(Child);

impl Agent {
    /// Where to find what the agent finds at `path`.
    pub fn sees(&self, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.0.id(), path.display()))
    }

    /// How many of its threads have this name.
    pub fn threads_called(&self, name: &str) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|comm| comm.trim() == name).count()
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.0.id()).map(nix::unistd::Pid::from_raw).unwrap();
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub async fn exit_code(mut self) -> Option<i32> {
        tokio::task::spawn_blocking(move || self.0.wait().unwrap().code()).await.unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}
