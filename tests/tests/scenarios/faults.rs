//! Every process of a job is killed while it trains; nothing acknowledged is lost, nothing is told twice.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use trainyard_proto::pb;
use trainyard_tests::cluster::Cluster;
use trainyard_tests::jobs::{assert_gapless, epoch_end, is_running, tiny};
use trainyard_tests::process::{children_of, is_alive};

const EPOCHS: u32 = 12;

/// How often each epoch was reported finished.
fn epochs(events: &[pb::JobEvent]) -> BTreeMap<u32, usize> {
    let mut count = BTreeMap::new();
    for epoch in events.iter().filter_map(epoch_end) {
        *count.entry(epoch).or_default() += 1;
    }
    count
}

fn reasons(job: &pb::Job) -> Vec<pb::attempt::EndReason> {
    job.attempts.iter().map(pb::Attempt::end_reason).collect()
}

/// Asserts that a job that was tried again went on from a checkpoint instead of starting over.
fn assert_resumed(events: &[pb::JobEvent], after_epoch: u32) {
    let second = events.iter().filter(|event| event.attempt > 1).find_map(epoch_end);
    assert!(
        second.is_some_and(|epoch| epoch >= after_epoch),
        "the second attempt began with epoch {second:?}"
    );
}

#[tokio::test]
async fn a_job_whose_agent_is_killed_resumes_from_its_checkpoint() {
    use pb::attempt::EndReason::{AgentLost, Completed};
    let cluster = Cluster::start().await.unwrap();
    let agent = cluster.start_agent("bench", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 16, 8, 64).await.unwrap();
    let job = cluster.submit(tiny(&data, EPOCHS)).await.unwrap();
    cluster.watch_until(&job, |event| epoch_end(event) == Some(4)).await.unwrap();
    let trainers = children_of(agent.pid(), "trainyard-trainer");
    assert_eq!(trainers.len(), 1);

    agent.kill().unwrap();
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(20));
    while is_alive(trainers[0]) {
        poll.tick().await; // The kernel kills it with its parent, not in the same instant.
    }
    let _agent = cluster.start_agent("bench", 1).await.unwrap();

    let (state, events) = cluster.watch_to_end(&job).await.unwrap();
    let done = cluster.job(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{done:?}");
    assert_eq!(reasons(&done), [AgentLost, Completed]);
    assert_gapless(&events);
    // Checkpoints are written beside training: on a slow disk the newest one may be of an epoch before.
    assert_resumed(&events, 2);
    assert_eq!(epochs(&events).keys().copied().collect::<Vec<_>>(), (1..=EPOCHS).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_job_moves_to_another_agent_when_its_own_is_drained() {
    use pb::attempt::EndReason::{Completed, Drained};
    let cluster = Cluster::start().await.unwrap();
    let first = cluster.start_agent("first", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 16, 8, 64).await.unwrap();
    let job = cluster.submit(tiny(&data, EPOCHS)).await.unwrap();
    cluster.watch_until(&job, |event| epoch_end(event) == Some(3)).await.unwrap();
    let _second = cluster.start_agent("second", 1).await.unwrap();

    let status = first.terminate().unwrap();
    assert!(status.success(), "a drained agent ends well: {status}");
    let (state, events) = cluster.watch_to_end(&job).await.unwrap();
    let done = cluster.job(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{done:?}");
    assert_eq!(reasons(&done), [Drained, Completed], "{done:?}");
    assert_eq!(done.attempts[1].agent_name, "second");
    assert_gapless(&events);
    assert_resumed(&events, 3);
}

#[tokio::test]
async fn a_trainer_that_is_killed_is_started_again_and_counts_as_a_crash() {
    use pb::attempt::EndReason::{Completed, TrainerCrash};
    let cluster = Cluster::start().await.unwrap();
    let agent = cluster.start_agent("bench", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 16, 8, 64).await.unwrap();
    let job = cluster.submit(tiny(&data, EPOCHS)).await.unwrap();
    cluster.watch_until(&job, |event| epoch_end(event) == Some(4)).await.unwrap();
    let trainer = children_of(agent.pid(), "trainyard-trainer")[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(trainer), Signal::SIGKILL).unwrap();

    let (state, events) = cluster.watch_to_end(&job).await.unwrap();
    let done = cluster.job(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{done:?}");
    assert_eq!(reasons(&done), [TrainerCrash, Completed]);
    assert!(done.attempts[0].message.contains("SIGKILL"), "{}", done.attempts[0].message);
    assert_gapless(&events);
    assert_resumed(&events, 2);
}

#[tokio::test]
async fn killing_scheduler_and_redis_together_stops_no_training_and_loses_no_event() {
    let mut cluster = Cluster::start().await.unwrap();
    let agent = cluster.start_agent("bench", 1).await.unwrap();
    let data = cluster.demo_data("shapes", 16, 8, 64).await.unwrap();
    let job = cluster.submit(tiny(&data, EPOCHS)).await.unwrap();
    let waiting = cluster.submit(tiny(&data, 1)).await.unwrap();
    cluster.watch_until(&job, is_running).await.unwrap();
    cluster.watch_until(&job, |event| epoch_end(event) == Some(2)).await.unwrap();
    let trainer = children_of(agent.pid(), "trainyard-trainer")[0];

    let scheduler = cluster.scheduler.take().unwrap();
    for redis in children_of(scheduler.pid(), "redis-server") {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(redis), Signal::SIGKILL).unwrap();
    }
    scheduler.kill().unwrap();
    assert!(is_alive(trainer), "training goes on without a scheduler");
    cluster.start_scheduler().await.unwrap();

    let (state, events) = cluster.watch_to_end(&job).await.unwrap();
    let done = cluster.job(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{done:?}");
    assert_eq!(done.attempts.len(), 1, "the attempt was not disturbed: {:?}", done.attempts);
    assert_gapless(&events);
    let expected: BTreeMap<u32, usize> = (1..=EPOCHS).map(|epoch| (epoch, 1)).collect();
    assert_eq!(epochs(&events), expected, "every epoch is told once");
    let (state, _) = cluster.watch_to_end(&waiting).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "an acknowledged job is not lost");
}

#[tokio::test]
async fn without_redis_a_submission_is_refused_and_leaves_nothing_behind() {
    let cluster = Cluster::start().await.unwrap();
    let scheduler = cluster.scheduler.as_ref().unwrap();
    let redis = children_of(scheduler.pid(), "redis-server")[0];
    let pid = nix::unistd::Pid::from_raw(redis);
    let before = cluster.submit(tiny("/data/data.yaml".as_ref(), 1)).await.unwrap();
    // Stopped, not dead: it answers nothing and is not restarted by its supervisor.
    nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
    let request =
        pb::SubmitJobRequest { spec: Some(tiny("/data/data.yaml".as_ref(), 1)), ..Default::default() };
    let refused = cluster.jobs().await.unwrap().submit_job(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();

    let mut poll = tokio::time::interval(std::time::Duration::from_millis(100));
    let listed = loop {
        poll.tick().await; // Until the supervisor has started Redis again and the state is loaded.
        let mut client = cluster.jobs().await.unwrap();
        if let Ok(answer) = client.list_jobs(pb::ListJobsRequest::default()).await {
            break answer.into_inner().jobs;
        }
    };
    let ids: Vec<&str> = listed.iter().map(|job| job.id.as_str()).collect();
    assert_eq!(ids, [before.as_str()], "only the acknowledged job is there");
}
