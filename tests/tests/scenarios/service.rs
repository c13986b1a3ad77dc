//! What a service manager hears of the programs, on a socket of the test's own, and what SIGHUP does.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use trainyard_tests::cluster::{PATIENCE, run};
use trainyard_tests::process::{Process, binary};

/// A program under a service manager that is this test.
struct Service {
    dir: TempDir,
    socket: UnixDatagram,
    process: Option<Process>,
}

impl Service {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { dir, socket, process: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, lines: &str) {
        let data_dir = self.path("data");
        fs::write(self.path("config.toml"), format!("data_dir = {data_dir:?}\n{lines}")).unwrap();
    }

    fn start(&mut self, program: &str) {
        let mut command = Command::new(binary(program).unwrap());
        command.arg("--config").arg(self.path("config.toml")).env("NOTIFY_SOCKET", self.path("notify"));
        command.env("WATCHDOG_USEC", "300000").env_remove("RUST_LOG");
        self.process = Some(Process::spawn(&mut command, &self.path("log")).unwrap());
    }

    /// Reads what is told until a message has a line that begins so; returns that message.
    fn hears(&self, line: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            let length = self.socket.recv(&mut bytes).unwrap_or_else(|error| {
                panic!("no {line}: {error}\n{}", self.process.as_ref().unwrap().output())
            });
            let message = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if message.lines().any(|told| told.starts_with(line)) {
                return message;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().unwrap().signal(signal).unwrap();
    }

    /// SIGHUP, and what is logged until it is done.
    fn reload(&self) -> String {
        let before = self.process.as_ref().unwrap().output().len();
        self.signal(Signal::SIGHUP);
        let reloading = self.hears("RELOADING=1");
        assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
        self.hears("READY=1");
        self.process.as_ref().unwrap().output().split_off(before)
    }

    /// Reads what is told until the status line has this.
    fn shows(&self, text: &str) {
        while !self.hears("STATUS=").contains(text) {}
    }

    /// SIGTERM; the program says so, and ends by itself.
    fn stops(&mut self) {
        let process = self.process.take().unwrap();
        process.signal(Signal::SIGTERM).unwrap();
        self.process = Some(process);
        self.hears("STOPPING=1");
        assert!(self.process.take().unwrap().terminate().unwrap().success());
    }
}

#[tokio::test]
async fn the_scheduler_tells_how_it_is_and_takes_limits_and_log_level_at_sighup() {
    let mut service = Service::new();
    let listen = "listen = \"127.0.0.1:0\"\n";
    service.configure(&format!("{listen}queued_jobs = 1\n"));
    service.start("trainyard-scheduler");
    service.hears("READY=1");
    let status = service.hears("STATUS=leading: ");
    assert_eq!(status, "STATUS=leading: jobs running: 0, queued: 0; agents connected: 0\n");
    service.hears("WATCHDOG=1");

    let output = service.process.as_ref().unwrap().output();
    let address = output.split("listening address=").nth(1).unwrap().split_whitespace().next().unwrap();
    let train = || {
        let mut yard = Command::new(binary("yard").unwrap());
        yard.args(["train", "/data/data.yaml", "--server", &format!("http://{address}")]);
        yard
    };
    let (code, _, said) = run(&mut train()).await.unwrap();
    assert_eq!(code, 0, "{said}");
    let (code, _, refused) = run(&mut train()).await.unwrap();
    assert_eq!(code, 4, "{refused}");
    service.configure(&format!(
        "{listen}queued_jobs = 2\nlog = \"debug\"\nkeep_finished = 7\npatience = \"1h\"\n"
    ));
    let log = service.reload();
    assert!(log.contains("changed=\"log,queued_jobs\""), "{log}");
    assert!(log.contains("count after a restart keys=\"keep_finished,patience\""), "{log}");
    assert_eq!(run(&mut train()).await.unwrap().0, 0, "the limit has changed");

    service.configure("listen = \"nowhere\"\n");
    let log = service.reload();
    assert!(log.contains("the configuration stays as it was: listen: `nowhere`"), "{log}");
    service.configure("lisen = \"127.0.0.1:0\"\n");
    // Whoever only asks how the service is sees it, until the file is mended.
    service.signal(Signal::SIGHUP);
    service.shows("; the changed configuration is not used: unknown key `lisen`");
    let log = service.process.as_ref().unwrap().output();
    assert!(log.contains("did you mean `listen`?"), "{log}");
    service.configure(listen);
    service.signal(Signal::SIGHUP);
    while service.hears("STATUS=").contains("is not used") {}
    service.stops();
}

#[test]
fn the_agent_is_ready_without_a_scheduler_and_tells_why_it_is_not_connected() {
    let mut service = Service::new();
    let base =
        "scheduler = \"http://127.0.0.1:1\"\ncpu_slots = 2\nmetrics_listen = \"\"\nself_test = false\n";
    service.configure(base);
    service.start("trainyard-agent");
    service.hears("READY=1");
    let status = service.hears("STATUS=GPUs: 0, CPU slots: 2, jobs: 0; not connected: ");
    assert!(status.contains("cannot connect to http://127.0.0.1:1"), "{status}");
    assert!(status.contains("run `trainyard-agent join ADDRESS`"), "{status}");
    service.hears("WATCHDOG=1");
    service.configure(&format!("{base}owners = [\"ada\"]\nlog = \"debug\"\nstall_after = \"1h\"\n"));
    let log = service.reload();
    assert!(log.contains("changed=\"log,owners\"") && log.contains("keys=\"stall_after\""), "{log}");
    service.configure("owners = [\"\"]\n");
    service.signal(Signal::SIGHUP);
    service.shows("; the changed configuration is not used: `owners`");
    let log = service.process.as_ref().unwrap().output();
    assert!(log.contains("the configuration stays as it was: `owners`"), "{log}");
    service.stops();
}

#[test]
fn an_agent_that_has_not_joined_tells_how_and_waits() {
    let mut service = Service::new();
    service.configure("scheduler = \"https://127.0.0.1:1\"\nmetrics_listen = \"\"\nself_test = false\n");
    service.start("trainyard-agent");
    service.hears("READY=1");
    service.shows(
        "not joined: `scheduler` is `https://127.0.0.1:1`, and this machine has not joined its cluster: run \
                   `trainyard-agent join 127.0.0.1:1`",
    );
    service.hears("WATCHDOG=1");
}
