//! What survives: of Redis, of the scheduler, of both.

use std::collections::BTreeSet;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;
use trainyard_proto::pb;
use trainyard_scheduler::config::Config;
use trainyard_scheduler::server::{Server, StartError};

use crate::support::{Scheduler, config, ended, log, started, submission};

fn kill_redis(scheduler: &Scheduler) {
    let pid = scheduler.server.redis().unwrap().pid();
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
}

async fn request_ids(scheduler: &Scheduler) -> (BTreeSet<String>, usize) {
    let request = pb::ListJobsRequest { page_size: 1000, ..Default::default() };
    let jobs = scheduler.list(request).await.unwrap().jobs;
    let names = jobs.iter().map(|job| job.spec.as_ref().unwrap().name.clone());
    (names.collect(), jobs.len())
}

/// A submission that carries its request id as its name, too.
fn named(id: &str) -> pb::SubmitJobRequest {
    let mut request = submission(id);
    request.spec.as_mut().unwrap().name = id.into();
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_the_death_of_redis() {
    let scheduler = Scheduler::start().await;
    // Eight callers submit until their first failure; Redis dies among them.
    let callers = (0..8).map(|caller| {
        let mut jobs = scheduler.jobs();
        tokio::spawn(async move {
            let mut acknowledged = BTreeSet::new();
            for number in 0.. {
                let id = format!("{caller}-{number}");
                match jobs.submit_job(named(&id)).await {
                    Ok(_) => assert!(acknowledged.insert(id)),
                    Err(status) => return (acknowledged, id, status),
                }
            }
            unreachable!("it submits until it fails")
        })
    });
    let callers: Vec<_> = callers.collect();
    while scheduler.list(pb::ListJobsRequest::default()).await.unwrap().jobs.len() < 20 {}
    kill_redis(&scheduler);
    let mut acknowledged = BTreeSet::new();
    let mut failed = Vec::new();
    for caller in callers {
        let (ids, id, status) = caller.await.unwrap();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.get_details_retry_info().is_some());
        acknowledged.extend(ids);
        failed.push(id);
    }
    scheduler.serving().await;
    let (there, jobs) = request_ids(&scheduler).await;
    assert!(acknowledged.is_subset(&there));
    assert_eq!(there.len(), jobs, "no job is there twice");
    // Whether or not a failed submission had landed, repeating it makes one job.
    for id in &failed {
        scheduler.submit(named(id)).await.unwrap();
    }
    acknowledged.extend(failed);
    assert_eq!(request_ids(&scheduler).await, (acknowledged.clone(), acknowledged.len()));
}

#[tokio::test]
async fn health_follows_the_store() {
    let scheduler = Scheduler::start().await;
    let mut health = HealthClient::new(scheduler.channel());
    let request = HealthCheckRequest { service: "trainyard.v1.JobService".into() };
    let mut states = health.watch(request).await.unwrap().into_inner();
    let mut next = async || states.message().await.unwrap().unwrap().status();
    assert_eq!(next().await, ServingStatus::Serving);
    kill_redis(&scheduler);
    // An idle scheduler might not notice before Redis is back.
    scheduler.submit(submission("a")).await.unwrap_err();
    assert_eq!(next().await, ServingStatus::NotServing);
    assert_eq!(next().await, ServingStatus::Serving);
    // Those who watch do not hold up a shutdown.
    scheduler.server.closing().cancel();
    assert_eq!(next().await, ServingStatus::NotServing);
    assert!(states.message().await.unwrap().is_none());
    scheduler.stop().await;
}

#[tokio::test]
async fn a_restarted_scheduler_goes_on_where_it_was() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    let running = scheduler.submit(submission("a")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    agent.report_acked(&attempt, 1, started()).await;
    agent.report_acked(&attempt, 2, log("before")).await;
    let others = [scheduler.submit(submission("b")).await, scheduler.submit(submission("c")).await];
    let [second, queued] = others.map(|job| job.unwrap().id);
    let before = scheduler.get(&running).await;
    let epoch = agent.welcome.leader_epoch;

    let scheduler = Scheduler::start_in(scheduler.stop().await).await;
    assert_eq!(scheduler.get(&running).await, before);
    assert_eq!(scheduler.get(&queued).await.state(), pb::JobState::Queued);
    assert_eq!(scheduler.submit(submission("c")).await.unwrap().id, queued);
    let mut agent = scheduler.agent(1, &[attempt.clone(), format!("{second}/1")]).await;
    assert!(agent.welcome.leader_epoch > epoch);
    // A report that was acknowledged before is acknowledged again and taken in once.
    agent.report_acked(&attempt, 2, log("before")).await;
    agent.report_acked(&attempt, 3, log("after")).await;
    let request = pb::WatchJobRequest { job_id: running, cursor: 0, history_only: true };
    let mut events = scheduler.jobs().watch_job(request).await.unwrap().into_inner();
    let mut lines = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        if let Some(pb::job_event::Event::LogLine(line)) = event.event {
            lines.push(line.message);
        }
    }
    assert_eq!(lines, ["before", "after"]);
}

#[tokio::test]
async fn a_directory_or_a_port_in_use_is_named() {
    let scheduler = Scheduler::start().await;
    let error = Server::start(config(scheduler.dir.path())).await.err().unwrap();
    assert!(matches!(&error, StartError::Locked(dir) if dir == scheduler.dir.path()), "{error}");
    let other = tempfile::tempdir().unwrap();
    let listen = scheduler.server.address().to_string();
    let error = Server::start(Config { listen: listen.clone(), ..config(other.path()) }).await.err().unwrap();
    assert!(matches!(&error, StartError::Listen { address, .. } if *address == listen), "{error}");
}

/// Far more events than Redis keeps: the oldest are read from files, and a watcher misses none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_misses_nothing_of_a_long_history() {
    const REPORTS: u64 = 1000;
    let dir = tempfile::tempdir().unwrap();
    let config = Config { event_history: 100, ..config(dir.path()) };
    let scheduler = Scheduler::start_with(dir, config).await;
    let mut agent = scheduler.agent(1, &[]).await;
    let job = scheduler.submit(submission("long")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    agent.report_acked(&attempt, 1, started()).await;
    for sequence in 2..REPORTS {
        agent.report_acked(&attempt, sequence, log(sequence.to_string())).await;
    }
    let pieces = || {
        let files = std::fs::read_dir(scheduler.dir.path().join("blobs").join(&job));
        let names = files.into_iter().flatten().map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("events-")).count()
    };
    // They are put away beside the reports, by and by.
    while pieces() == 0 {
        tokio::task::yield_now().await;
    }
    agent.report_acked(&attempt, REPORTS, ended(pb::attempt::EndReason::Cancelled, vec![])).await;
    let mut cursors = Vec::new();
    let mut events = scheduler.watch(&job, 0).await;
    while let Some(event) = events.message().await.unwrap() {
        cursors.push(event.cursor);
        assert!(!format!("{event:?}").contains("are lost"), "{event:?}");
    }
    assert!(cursors.len() as u64 > REPORTS);
    assert_eq!(cursors, (1..=cursors.len() as u64).collect::<Vec<_>>());
    // From the middle on, too.
    let mut events = scheduler.watch(&job, 40).await;
    assert_eq!(events.message().await.unwrap().unwrap().cursor, 41);
}

#[tokio::test]
async fn a_watcher_is_told_of_events_that_are_lost() {
    let scheduler = Scheduler::start().await;
    let mut agent = scheduler.agent(1, &[]).await;
    let job = scheduler.submit(submission("damaged")).await.unwrap().id;
    let attempt = agent.assigned().await.attempt;
    agent.report_acked(&attempt, 1, started()).await;
    for sequence in 2..20 {
        agent.report_acked(&attempt, sequence, log("line")).await;
    }
    let stream = format!("{{trainyard}}:job:{job}:events");
    let socket = scheduler.server.redis().unwrap().socket();
    let trim = ["XTRIM", &stream, "MAXLEN", "3"];
    let trimmed = std::process::Command::new("redis-cli").arg("-s").arg(socket).args(trim).output().unwrap();
    assert!(trimmed.status.success());
    let request = pb::WatchJobRequest { job_id: job, history_only: true, ..Default::default() };
    let mut events = scheduler.jobs().watch_job(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        told.push(event);
    }
    // The first, which follows from the record; the warning; and the three that are left.
    assert_eq!(told.len(), 5);
    let (gap, next) = (&told[1], told[2].cursor);
    assert_eq!(gap.cursor, next - 1);
    assert!(
        format!("{gap:?}").contains(&format!("events 2 to {} of this job are lost", next - 1)),
        "{gap:?}"
    );
}
