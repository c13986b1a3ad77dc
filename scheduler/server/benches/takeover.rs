//! How long nobody leads: after `kill -9` and after SIGTERM of the leader, with the default lease and a queue
//! of a thousand jobs.

#![allow(clippy::unwrap_used, reason = "a benchmark ends where its ground does")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::transport::{Channel, Endpoint};
use trainyard_proto::pb;
use trainyard_proto::pb::cluster_service_client::ClusterServiceClient;
use trainyard_proto::pb::job_service_client::JobServiceClient;
use trainyard_scheduler::embedded::EmbeddedRedis;

const QUEUED: usize = 1000;
const ROUNDS: usize = 3;

struct Scheduler {
    child: Child,
    channel: Channel,
}

impl Scheduler {
    fn start(redis: &EmbeddedRedis, dir: &Path, name: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_trainyard-scheduler"))
            .env("TRAINYARD_SCHEDULER__LISTEN", "127.0.0.1:0")
            .env("TRAINYARD_SCHEDULER__DATA_DIR", dir.join(name))
            .env("TRAINYARD_SCHEDULER__BLOB_DIR", dir.join("blobs"))
            .env("TRAINYARD_SCHEDULER__REDIS_URL", redis.url())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let said = lines.by_ref().find_map(|line| Some(line.split_once("listening address=")?.1.to_owned()));
        std::thread::spawn(move || lines.for_each(drop));
        let url = format!("http://{}", said.unwrap().split(' ').next().unwrap());
        Self { child, channel: Endpoint::from_shared(url).unwrap().connect_lazy() }
    }

    /// Only the leader lists agents.
    async fn leads(&self) {
        let mut cluster = ClusterServiceClient::new(self.channel.clone());
        while cluster.list_agents(pb::ListAgentsRequest::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn reads(&self) {
        let mut jobs = JobServiceClient::new(self.channel.clone());
        while jobs.list_jobs(pb::ListJobsRequest::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn fill(leader: &Scheduler) {
    let train = pb::TrainSpec { model: "yolov8n".into(), data: "/data/d.yaml".into(), ..Default::default() };
    let spec = pb::JobSpec { train: Some(train), ..Default::default() };
    let submitting: Vec<_> = (0..QUEUED)
        .map(|_| {
            let mut jobs = JobServiceClient::new(leader.channel.clone());
            let request = pb::SubmitJobRequest { spec: Some(spec.clone()), ..Default::default() };
            tokio::spawn(async move { jobs.submit_job(request).await.unwrap() })
        })
        .collect();
    for submitted in submitting {
        submitted.await.unwrap();
    }
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let redis = EmbeddedRedis::start("redis-server".as_ref(), &dir.path().join("redis")).unwrap();
    let mut leader = Scheduler::start(&redis, dir.path(), "0");
    leader.leads().await;
    fill(&leader).await;
    for (signal, name) in [(Signal::SIGKILL, "kill"), (Signal::SIGTERM, "sigterm")] {
        let mut seconds = Vec::new();
        for round in 0..ROUNDS {
            let standby = Scheduler::start(&redis, dir.path(), &format!("{name}-{round}"));
            standby.reads().await;
            let begun = Instant::now();
            kill(Pid::from_raw(leader.child.id().try_into().unwrap()), signal).unwrap();
            standby.leads().await;
            seconds.push(begun.elapsed().as_secs_f64());
            leader = standby;
        }
        seconds.sort_by(f64::total_cmp);
        println!("takeover_after_{name} {:.3} s", seconds[ROUNDS / 2]);
    }
}
