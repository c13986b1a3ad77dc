//! The leader as a process: killed, paused past its lease, and terminated.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use trainyard_proto::pb;
use trainyard_proto::pb::cluster_service_client::ClusterServiceClient;
use trainyard_proto::pb::job_service_client::JobServiceClient;
use trainyard_scheduler::embedded::EmbeddedRedis;

use crate::support::{code, submission};

/// A running scheduler, killed when the test ends.
struct Process {
    child: Child,
    channel: Channel,
}

impl Process {
    fn start(redis: &EmbeddedRedis, dir: &std::path::Path, name: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_trainyard-scheduler"))
            .env("TRAINYARD_SCHEDULER__LISTEN", "127.0.0.1:0")
            .env("TRAINYARD_SCHEDULER__DATA_DIR", dir.join(name))
            .env("TRAINYARD_SCHEDULER__BLOB_DIR", dir.join("blobs"))
            .env("TRAINYARD_SCHEDULER__REDIS_URL", redis.url())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.by_ref().find_map(|line| {
            let (_, rest) = line.split_once("listening address=")?;
            Some(rest.split(' ').next().unwrap().to_owned())
        });
        // Read on, so that the log never fills its pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let url = format!("http://{}", address.expect("it says where it listens"));
        Self { child, channel: Endpoint::from_shared(url).unwrap().connect_lazy() }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Returns once every thread has stopped: what was under way before counts as written by a leader.
    fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        let has_stopped = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        while !std::fs::read_dir(&tasks).unwrap().all(|task| has_stopped(task.unwrap())) {}
    }

    fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    /// Only the leader lists agents.
    async fn leads(&self) {
        let mut cluster = ClusterServiceClient::new(self.channel.clone());
        while cluster.list_agents(pb::ListAgentsRequest::default()).await.is_err() {}
    }

    async fn stands_by(&self) {
        while self.jobs().list_jobs(pb::ListJobsRequest::default()).await.is_err() {}
        let mut cluster = ClusterServiceClient::new(self.channel.clone());
        let listed = cluster.list_agents(pb::ListAgentsRequest::default()).await;
        assert_eq!(code(listed), Code::Unavailable);
    }

    async fn count(&self) -> usize {
        let request = pb::ListJobsRequest { page_size: 1000, ..Default::default() };
        self.jobs().list_jobs(request).await.unwrap().into_inner().jobs.len()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Redis, a leader and a standby, with the default lease.
async fn pair() -> (EmbeddedRedis, tempfile::TempDir, Process, Process) {
    let dir = tempfile::tempdir().unwrap();
    let redis = EmbeddedRedis::start("redis-server".as_ref(), &dir.path().join("redis")).unwrap();
    let first = Process::start(&redis, dir.path(), "first");
    first.leads().await;
    let second = Process::start(&redis, dir.path(), "second");
    second.stands_by().await;
    (redis, dir, first, second)
}

#[tokio::test]
async fn a_standby_leads_soon_after_the_leader_was_killed() {
    let (_redis, _dir, first, second) = pair().await;
    let job_id = first.jobs().submit_job(submission("a")).await.unwrap().into_inner().job_id;
    first.signal(Signal::SIGKILL);
    let killed = Instant::now();
    second.leads().await;
    println!("takeover_after_kill_seconds {:.3} s", killed.elapsed().as_secs_f64());
    assert_eq!(second.jobs().submit_job(submission("a")).await.unwrap().into_inner().job_id, job_id);
}

#[tokio::test]
async fn a_standby_leads_at_once_when_the_leader_is_terminated() {
    let (_redis, _dir, mut first, second) = pair().await;
    first.signal(Signal::SIGTERM);
    let terminated = Instant::now();
    second.leads().await;
    println!("takeover_after_sigterm_seconds {:.3} s", terminated.elapsed().as_secs_f64());
    assert_eq!(first.child.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_paused_past_its_lease_writes_nothing_and_stands_by() {
    let (_redis, _dir, first, second) = pair().await;
    first.jobs().submit_job(submission("before")).await.unwrap();
    first.pause();
    // These reach it while it sleeps, and it finds them when it wakes.
    let late = (0..20).map(|number| {
        let mut jobs = first.jobs();
        tokio::spawn(async move { jobs.submit_job(submission(&format!("late-{number}"))).await })
    });
    let late: Vec<_> = late.collect();
    second.leads().await;
    second.jobs().submit_job(submission("after")).await.unwrap();
    first.signal(Signal::SIGCONT);
    for late in late {
        assert_eq!(code(late.await.unwrap()), Code::Unavailable);
    }
    first.stands_by().await;
    assert_eq!(second.count().await, 2);
    // And it takes over again when it is its turn.
    drop(second);
    first.leads().await;
    assert_eq!(first.count().await, 2);
}
