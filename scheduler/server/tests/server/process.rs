//! The program as it is run: killed, terminated, and misconfigured.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::transport::{Channel, Endpoint};
use trainyard_proto::pb;
use trainyard_proto::pb::job_service_client::JobServiceClient;

fn program(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-scheduler"));
    command.env("TRAINYARD_SCHEDULER__LISTEN", "127.0.0.1:0");
    command.env("TRAINYARD_SCHEDULER__DATA_DIR", dir);
    command
}

/// A running scheduler, killed when the test ends.
struct Process {
    child: Child,
    jobs: JobServiceClient<Channel>,
}

impl Process {
    /// Returns once it serves.
    async fn start(dir: &Path) -> Self {
        Self::serving(program(dir)).await
    }

    /// As [`Process::start`], of another command.
    async fn serving(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut lines = log.lines().map(Result::unwrap);
        let address = lines.by_ref().find_map(|line| {
            let (_, rest) = line.split_once("listening address=")?;
            Some(rest.split(' ').next().unwrap().to_owned())
        });
        // Read on, so that the log never fills its pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let url = format!("http://{}", address.expect("it says where it listens"));
        let mut jobs = JobServiceClient::new(Endpoint::from_shared(url).unwrap().connect_lazy());
        while jobs.list_jobs(pb::ListJobsRequest::default()).await.is_err() {}
        Self { child, jobs }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    async fn names(&mut self) -> BTreeSet<String> {
        let (mut names, mut page_token) = (BTreeSet::new(), String::new());
        loop {
            let request = pb::ListJobsRequest { page_size: 1000, page_token, ..Default::default() };
            let page = self.jobs.list_jobs(request).await.unwrap().into_inner();
            names.extend(page.jobs.into_iter().map(|job| job.spec.unwrap().name));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return names;
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn submission(name: &str) -> pb::SubmitJobRequest {
    let train =
        pb::TrainSpec { model: "yolov8n".into(), data: "/data/bccd/data.yaml".into(), ..Default::default() };
    let spec = pb::JobSpec { name: name.into(), train: Some(train), ..Default::default() };
    pb::SubmitJobRequest { request_id: name.into(), spec: Some(spec), validate_only: false }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_of_scheduler_and_redis_together() {
    const CALLERS: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path()).await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let mut jobs = process.jobs.clone();
            tokio::spawn(async move {
                let mut acknowledged = BTreeSet::new();
                loop {
                    let name = format!("{caller}-{}", acknowledged.len());
                    match jobs.submit_job(submission(&name)).await {
                        Ok(_) => drop(acknowledged.insert(name)),
                        Err(_) => return acknowledged,
                    }
                }
            })
        })
        .collect();
    // Of each caller the last one may be there and not acknowledged yet.
    while process.names().await.len() < 50 + CALLERS {}
    // Its Redis dies with it: the kernel sees to that.
    process.signal(Signal::SIGKILL);
    let mut acknowledged = BTreeSet::new();
    for caller in callers {
        acknowledged.extend(caller.await.unwrap());
    }
    let mut process = Process::start(dir.path()).await;
    let there = process.names().await;
    assert!(acknowledged.len() >= 50, "{acknowledged:?}");
    assert!(acknowledged.is_subset(&there), "lost: {:?}", acknowledged.difference(&there));
}

#[tokio::test]
async fn a_terminated_scheduler_ends_its_streams_and_exits_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path()).await;
    let job_id = process.jobs.submit_job(submission("a")).await.unwrap().into_inner().job_id;
    let request = pb::WatchJobRequest { job_id, cursor: 1, history_only: false };
    let mut events = process.jobs.watch_job(request).await.unwrap().into_inner();
    process.signal(Signal::SIGTERM);
    assert_eq!(events.message().await.unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_it_cannot_use_is_named_with_a_way_out_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let table = [
        ("LISTEN", taken.as_str(), "error: listen: cannot listen on `127.0.0.1:"),
        // Of a network that is for documents alone.
        (
            "LISTEN",
            "192.0.2.1:7433",
            "error: listen: cannot listen on `192.0.2.1:7433`: Cannot assign requested address (os error 99); this machine \
             does not have the address",
        ),
        ("LISTEN", "7433", "error: listen: `7433` is no address with a port; write one such as"),
        ("DATA_DIR", "/proc/none", "error: data_dir: cannot use `/proc/none`"),
        ("REDIS_SERVER", "/none", "error: redis_server: `/none` was not found; install it"),
        ("REDIS_URL", "nonsense", "error: redis_url: "),
        ("LEASE", "1s", "error: lease: 1s is shorter than three heartbeats"),
        (
            "LISTN",
            "x",
            "error: unknown key `TRAINYARD_SCHEDULER__LISTN` in the environment; did you mean `listen`",
        ),
        ("LOG", "=,=", "error: log: `=,=` is no level"),
    ];
    for (key, value, expected) in table {
        let output: Output =
            program(dir.path()).env(format!("TRAINYARD_SCHEDULER__{key}"), value).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{key}={value}: {text}");
        let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(matches!(errors.as_slice(), [error] if error.starts_with(expected)), "{text}");
    }
}

#[tokio::test]
async fn a_scheduler_whose_log_nobody_reads_any_more_goes_on_and_ends_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = program(dir.path()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let address = loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
        if let Some((_, rest)) = line.split_once("listening address=") {
            break rest.split_whitespace().next().unwrap().to_owned();
        }
    };
    drop(log);
    let mut jobs =
        JobServiceClient::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy());
    while jobs.list_jobs(pb::ListJobsRequest::default()).await.is_err() {}
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    // It says that it shuts down, to nobody.
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn the_private_redis_does_not_get_the_callers_locale() {
    let dir = tempfile::tempdir().unwrap();
    // As Redis 7.2 and newer do, with a locale that is on no machine.
    let script = "#!/bin/sh\n\
        case \"${LC_ALL-}${LANG-}${LC_COLLATE-}\" in *xx_XX*) echo 'Failed to configure LOCALE' >&2; exit 1;; esac\n\
        [ -z \"${YARD_TOKEN-}\" ] || exit 2\n\
        exec redis-server \"$@\"\n";
    let redis = dir.path().join("redis-7.2");
    std::fs::write(&redis, script).unwrap();
    std::fs::set_permissions(&redis, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = program(&dir.path().join("data"));
    for name in ["LC_ALL", "LANG", "LC_COLLATE"] {
        command.env(name, "xx_XX.UTF-8");
    }
    command.env("YARD_TOKEN", "secret").env("TRAINYARD_SCHEDULER__REDIS_SERVER", &redis);
    let mut process = Process::serving(command).await;
    assert_eq!(process.names().await.len(), 0);
}

#[test]
fn the_effective_configuration_is_printed_with_its_sources() {
    let dir = tempfile::tempdir().unwrap();
    let output = program(dir.path())
        .args(["config", "--redis-url", "redis://ada:secret@redis.lab/0"])
        .env("TRAINYARD_SCHEDULER__LEASE", "1m")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(line("lease = \"1m\"").ends_with("# environment TRAINYARD_SCHEDULER__LEASE"), "{text}");
    assert!(line("redis_url").ends_with("# flag --redis-url") && !text.contains("secret"), "{text}");
    assert!(line("event_history = 50000").ends_with("# default"), "{text}");
}

#[tokio::test]
async fn other_users_of_the_machine_enter_none_of_its_folders() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let modes = || {
        ["", "redis", "blobs"].map(|name| {
            let known = std::fs::metadata(data.join(name)).unwrap();
            known.permissions().mode() & 0o777
        })
    };
    drop(Process::start(&data).await);
    assert_eq!(modes(), [0o700; 3]);
    // As an older build made them, or somebody who wants to see into the first one.
    for name in ["", "redis", "blobs"] {
        std::fs::set_permissions(data.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    drop(Process::start(&data).await);
    assert_eq!(modes(), [0o755, 0o700, 0o700]);
    // A directory that the configuration names is its maker's.
    let (shared, data) = (dir.path().join("shared"), dir.path().join("other"));
    for mode in [0o700, 0o750] {
        let mut command = program(&data);
        command.env("TRAINYARD_SCHEDULER__BLOB_DIR", &shared);
        drop(Process::serving(command).await);
        assert_eq!(std::fs::metadata(&shared).unwrap().permissions().mode() & 0o777, mode);
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o750)).unwrap();
    }
}
