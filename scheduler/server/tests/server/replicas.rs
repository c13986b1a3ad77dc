//! Several schedulers on one Redis: one leads, the others stand by.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;
use trainyard_proto::pb;
use trainyard_scheduler::config::Config;
use trainyard_scheduler::embedded::EmbeddedRedis;

use crate::support::web::Browser;
use crate::support::{Agent, Scheduler, code, config, log, started, submission};

/// A Redis and a directory of blobs.
struct Ground {
    redis: EmbeddedRedis,
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { redis: EmbeddedRedis::start("redis-server".as_ref(), &dir.path().join("redis")).unwrap(), dir }
    }

    fn config(&self, dir: &Path) -> Config {
        Config {
            redis_url: self.redis.url(),
            blob_dir: Some(self.dir.path().join("blobs")),
            // Nobody dies here; a machine that is slow for a while must not depose anybody.
            leader_lease: Duration::from_secs(9),
            ..config(dir)
        }
    }

    async fn replica(&self) -> Scheduler {
        let dir = tempfile::tempdir().unwrap();
        let config = self.config(dir.path());
        Scheduler::open(dir, config).await
    }
}

async fn health(scheduler: &Scheduler, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.into() };
    HealthClient::new(scheduler.channel()).check(request).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn a_standby_answers_reads_and_sends_the_rest_to_the_leader() {
    let ground = Ground::new();
    let leader = ground.replica().await;
    leader.is("leads").await;
    let job = leader.submit(submission("a")).await.unwrap();
    let standby = ground.replica().await;
    standby.is("stands by").await;
    let url = format!("http://{}", leader.server.address());

    assert_eq!(standby.get(&job.id).await.id, job.id);
    assert_eq!(standby.list(pb::ListJobsRequest::default()).await.unwrap().jobs.len(), 1);
    let mut events = standby.watch(&job.id, 0).await;
    assert_eq!(events.message().await.unwrap().unwrap().cursor, 1);

    // What it does not know may just have been submitted.
    let unknown = pb::GetJobRequest { job_id: "00000000-0000-0000-0000-000000000000".into() };
    assert_eq!(code(standby.jobs().get_job(unknown.clone()).await), Code::Unavailable);
    assert_eq!(code(leader.jobs().get_job(unknown).await), Code::NotFound);

    let agent = pb::GetTelemetryRequest { agent: "nobody".into(), ..Default::default() };
    assert_eq!(code(standby.cluster().get_telemetry(agent.clone()).await), Code::Unavailable);
    assert_eq!(code(leader.cluster().get_telemetry(agent).await), Code::NotFound);
    let sweep_id = "00000000-0000-0000-0000-000000000000".to_owned();
    let sweep = pb::GetSweepRequest { sweep_id: sweep_id.clone() };
    assert_eq!(code(standby.jobs().get_sweep(sweep.clone()).await), Code::Unavailable);
    assert_eq!(code(leader.jobs().get_sweep(sweep).await), Code::NotFound);
    let listed = pb::ListJobsRequest { sweep_id: sweep_id.clone(), ..Default::default() };
    assert_eq!(code(standby.list(listed).await), Code::Unavailable);
    let cancelled = standby.jobs().cancel_sweep(pb::CancelSweepRequest { sweep_id }).await;
    assert_eq!(cancelled.unwrap_err().get_details_error_info().unwrap().reason, "NOT_LEADER");

    let refused = standby.submit(submission("b")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let info = refused.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["leader"].as_str()), ("NOT_LEADER", url.as_str()));
    assert!(refused.get_details_retry_info().unwrap().retry_delay.unwrap() < Duration::from_secs(1));
    let cancel = pb::CancelJobRequest { job_id: job.id.clone() };
    assert_eq!(code(standby.jobs().cancel_job(cancel).await), Code::Unavailable);
    let agents = standby.cluster().list_agents(pb::ListAgentsRequest::default()).await;
    assert_eq!(agents.unwrap_err().get_details_error_info().unwrap().metadata["leader"], url);
    let agent = Agent::connect(standby.channel(), 1, &[]).await.err().unwrap();
    assert_eq!(agent.get_details_error_info().unwrap().metadata["leader"], url);
    the_leader_is_named_to_pages(&leader, &standby, &job.id, &url).await;

    let services = ["", "trainyard.v1.JobService", "trainyard.v1.AgentService"];
    for (service, expected) in services.into_iter().zip([true, true, false]) {
        assert_eq!(health(&leader, service).await, ServingStatus::Serving, "{service}");
        assert_eq!(health(&standby, service).await == ServingStatus::Serving, expected, "{service}");
    }
    assert!(standby.page("/metrics").await.contains("trainyard_scheduler_leading 0"));
    assert!(leader.page("/metrics").await.contains("trainyard_scheduler_leading 1"));

    // The leader is stopped; who stood by leads, and the job and its watcher go on.
    leader.stop().await;
    standby.is("leads").await;
    let mut agent = standby.agent(1, &[]).await;
    let attempt = agent.assigned().await.attempt;
    assert_eq!(attempt, format!("{}/1", job.id));
    agent.report_acked(&attempt, 1, started()).await;
}

/// Beside answers that a standby gives, and in those that it refuses.
async fn the_leader_is_named_to_pages(leader: &Scheduler, standby: &Scheduler, job: &str, url: &str) {
    let list = "/trainyard.v1.JobService/ListJobs";
    let (of_leader, of_standby) = (Browser::of(leader), Browser::of(standby));
    for (browser, named) in [(&of_leader, ""), (&of_standby, url)] {
        let answer = browser.call(list, &json!({})).await;
        assert_eq!((answer.status, answer.header("trainyard-leader")), (200, named));
    }
    for path in ["/live".to_owned(), format!("/live?job={job}")] {
        let answer = of_standby.get(&path, &[]).await;
        assert_eq!((answer.status, answer.header("trainyard-leader")), (503, url));
        let info = answer.json()["details"].as_array().unwrap().iter().find_map(|detail| {
            let debug = detail["debug"].clone();
            (detail["type"] == "google.rpc.ErrorInfo").then_some(debug)
        });
        let info = info.unwrap();
        assert_eq!(
            (info["reason"].as_str(), info["metadata"]["leader"].as_str()),
            (Some("NOT_LEADER"), Some(url))
        );
    }
    // A job's events are what is stored.
    let watch = format!("/trainyard.v1.JobService/WatchJob?jobId={job}");
    assert_eq!(of_standby.events(&watch, &[]).await.next().await.id, "1");
}

#[tokio::test]
async fn a_running_job_does_not_notice_a_change_of_leaders() {
    let ground = Ground::new();
    let first = ground.replica().await;
    first.is("leads").await;
    let mut agent = first.agent(1, &[]).await;
    let job = first.submit(submission("a")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    agent.report_acked(&attempt, 1, started()).await;
    agent.report_acked(&attempt, 2, log("one")).await;
    let epoch = agent.welcome.leader_epoch;
    let second = ground.replica().await;
    second.is("stands by").await;
    first.stop().await;
    second.is("leads").await;
    let mut agent = second.agent(1, std::slice::from_ref(&attempt)).await;
    assert!(agent.welcome.leader_epoch > epoch);
    agent.report_acked(&attempt, 2, log("one")).await;
    agent.report_acked(&attempt, 3, log("two")).await;
    let job = second.get(&job).await;
    assert_eq!((job.state(), job.attempts.len()), (pb::JobState::Running, 1));
}

#[tokio::test]
async fn a_replica_without_the_shared_blobs_says_so_and_ends() {
    let ground = Ground::new();
    let leader = ground.replica().await;
    leader.is("leads").await;
    let dir = tempfile::tempdir().unwrap();
    let config = Config { blob_dir: None, ..ground.config(dir.path()) };
    let stranger = Scheduler::open(dir, config).await;
    let end = stranger.server.wait().await.unwrap_err().to_string();
    assert!(end.starts_with("blob_dir: `") && end.contains("mount it and set `blob_dir`"), "{end}");
    leader.submit(submission("a")).await.unwrap();
}

#[tokio::test]
async fn nobody_leads_an_emptied_redis_until_it_is_restored_or_begun_anew() {
    let ground = Ground::new();
    let leader = ground.replica().await;
    leader.is("leads").await;
    leader.submit(submission("a")).await.unwrap();
    let standby = ground.replica().await;
    standby.is("stands by").await;
    let redis = |arguments: &[&str]| {
        let mut command = std::process::Command::new("redis-cli");
        let answer = command.arg("-s").arg(ground.redis.socket()).args(arguments).output().unwrap();
        String::from_utf8(answer.stdout).unwrap()
    };
    let kept = ["{trainyard}:schema", "{trainyard}:leader_epoch", "{trainyard}:jobs", "{trainyard}:specs"];
    for key in kept {
        redis(&["COPY", key, &format!("backup {key}")]);
    }
    redis(&["EVAL", "redis.call('DEL', unpack(redis.call('KEYS', '{trainyard}:*')))", "0"]);
    for scheduler in [&leader, &standby] {
        scheduler.is("not ready: Redis has lost its data").await;
        assert_eq!(code(scheduler.submit(submission("b")).await), Code::Unavailable);
    }
    for key in kept {
        redis(&["COPY", &format!("backup {key}"), key]);
    }
    while leader.submit(submission("a")).await.is_err() && standby.submit(submission("a")).await.is_err() {}
    assert_eq!(leader.list(pb::ListJobsRequest::default()).await.unwrap().jobs.len(), 1);
    // Whoever has seen nothing begins anew.
    redis(&["FLUSHALL"]);
    leader.is("not ready").await;
    let fresh = ground.replica().await;
    fresh.is("leads").await;
    assert_eq!(fresh.list(pb::ListJobsRequest::default()).await.unwrap().jobs.len(), 0);
    leader.is("stands by").await;
}
