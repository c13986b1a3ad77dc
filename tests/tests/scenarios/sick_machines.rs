//! Two agents, of which one is unwell, and three jobs: every job is trained, and none is charged.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trainyard_proto::pb;
use trainyard_proto::pb::attempt::EndReason;
use trainyard_tests::cluster::{Cluster, PATIENCE};
use trainyard_tests::jobs::{epoch_end, is_running, tiny};
use trainyard_tests::process::{Process, children_of};

/// A trainer that passes its self-test and then hangs at its start.
const HANGS: &str = "exec tail -f /dev/null\n";

/// A trainer that passes its self-test and crashes before its first step, but for jobs of one epoch, which run on.
const CRASHES: &str = r#"while [ $# -gt 0 ]; do
  case $1 in
    --spec) spec=$2; shift;;
    --events-fd) fd=$2; shift;;
  esac
  shift
done
grep -q '"epochs": 1,' "$spec" || exit 1
tell() { printf '{"v":1,"time":5,%s}\n' "$1" >"/proc/self/fd/$fd"; }
tell '"type":"started","parameters":1,"train_images":1,"val_images":1,"classes":["a"],"epochs":1,"batch_size":1,"first_epoch":1,"device":"cpu"'
tell '"type":"step","epoch":1,"batch":1,"batches":9,"images_per_second":1.0,"loader_wait_ratio":0.0,"metrics":{}'
exec tail -f /dev/null
"#;

/// Reasons that cost a job nothing.
const FREE: [EndReason; 3] = [EndReason::AgentUnfit, EndReason::Stalled, EndReason::Preempted];

fn may_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("NOT TESTED: mounting needs root");
    }
    root
}

/// Three jobs on a cluster where one agent is unwell; every one is trained by the other, and for free.
async fn all_are_trained(cluster: &Cluster, data: &Path) -> Vec<pb::Job> {
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(cluster.submit(pb::JobSpec { max_retries: Some(0), ..tiny(data, 1) }).await.unwrap());
    }
    let mut done = Vec::new();
    for id in &jobs {
        let (state, _) = cluster.watch_to_end(id).await.unwrap();
        let job = cluster.job(id).await.unwrap();
        assert_eq!(state, pb::JobState::Succeeded, "{job:?}");
        let (last, before) = job.attempts.split_last().unwrap();
        assert_eq!(last.agent_name, "well", "{job:?}");
        for attempt in before {
            assert!(attempt.agent_name == "sick" && FREE.contains(&attempt.end_reason()), "{attempt:?}");
        }
        done.push(job);
    }
    done
}

/// The unwell agent comes first: it is free, and draws every job.
async fn with_a_sick_agent(mounts: &str, more: &[(&str, &str)]) -> (Cluster, Process, Process, Vec<pb::Job>) {
    let cluster = Cluster::start_patient().await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let sick = cluster.start_agent_after(mounts, "sick", 1, more).await.unwrap();
    let well = cluster.start_agent("well", 1).await.unwrap();
    let jobs = all_are_trained(&cluster, &data).await;
    (cluster, sick, well, jobs)
}

#[tokio::test]
async fn an_agent_whose_roots_do_not_cover_the_data_is_not_asked() {
    let elsewhere = tempfile::tempdir().unwrap();
    let roots = elsewhere.path().display().to_string();
    let (cluster, _sick, _well, jobs) =
        with_a_sick_agent("", &[("TRAINYARD_AGENT__DATA_ROOTS", roots.as_str())]).await;
    assert!(jobs.iter().all(|job| job.attempts.len() == 1), "{jobs:?}");
    let shown = cluster.agent("sick").await.unwrap().data_roots;
    assert_eq!((shown.len(), shown[0].path.as_str()), (1, roots.as_str()));
}

#[tokio::test]
async fn an_agent_without_the_share_is_asked_once() {
    if !may_mount() {
        return;
    }
    let cluster = Cluster::start_patient().await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    // Something else is where the share should be.
    let mounts = format!("mount -t tmpfs tmpfs '{}'", cluster.data_root().display());
    let _sick = cluster.start_agent_after(&mounts, "sick", 1, &[]).await.unwrap();
    let _well = cluster.start_agent("well", 1).await.unwrap();
    let jobs = all_are_trained(&cluster, &data).await;
    let asked: usize = jobs.iter().map(|job| job.attempts.len() - 1).sum();
    assert!(asked <= 1, "what it lacks is remembered: {jobs:?}");
    let missing = cluster.agent("sick").await.unwrap().missing_paths;
    assert!(missing.len() == asked, "{missing:?}");
}

#[tokio::test]
async fn an_agent_whose_share_hangs_is_not_asked_and_says_so() {
    if !may_mount() {
        return;
    }
    let cluster = Cluster::start_patient().await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    // A file system whose server never answers: whoever asks sleeps in the kernel.
    let mounts = format!(
        "exec 9<>/dev/fuse && mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 dead '{}'",
        cluster.data_root().display()
    );
    let _sick = cluster.start_agent_after(&mounts, "sick", 1, &[]).await.unwrap();
    let _well = cluster.start_agent("well", 1).await.unwrap();
    let jobs = all_are_trained(&cluster, &data).await;
    assert!(jobs.iter().all(|job| job.attempts.len() == 1), "{jobs:?}");
    let roots = cluster.agent("sick").await.unwrap().data_roots;
    assert!(roots[0].problem.contains("does not answer"), "{roots:?}");
}

#[tokio::test]
async fn an_agent_on_which_only_the_images_share_hangs_is_asked_once_and_remembers_it() {
    if !may_mount() {
        return;
    }
    let cluster = Cluster::start_patient().await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    // The data.yaml lies on one share, and its images on another.
    let (root, share) = (cluster.data_root(), cluster.path("share"));
    copy(&root.join("shapes"), &share);
    let text = fs::read_to_string(&data).unwrap();
    let rest: String =
        text.lines().filter(|line| !line.starts_with("path:")).map(|line| format!("{line}\n")).collect();
    fs::write(&data, format!("path: {}\n{rest}", share.display())).unwrap();
    let roots = format!("{},{}", root.display(), share.display());
    let variables = [("TRAINYARD_AGENT__DATA_ROOTS", roots.as_str()), ("TRAINYARD_AGENT__STALL_AFTER", "5s")];
    let mounts = format!(
        "exec 9<>/dev/fuse && mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 dead '{}'",
        share.display()
    );
    let _sick = cluster.start_agent_after(&mounts, "sick", 1, &variables).await.unwrap();
    let _well = cluster.start_agent_with("well", 1, &variables[..1]).await.unwrap();
    let jobs = all_are_trained(&cluster, &data).await;
    let asked: Vec<&pb::Attempt> =
        jobs.iter().flat_map(|job| &job.attempts[..job.attempts.len() - 1]).collect();
    assert!(asked.len() <= 1, "what it lacks is remembered: {jobs:?}");
    for attempt in asked {
        assert_eq!(attempt.end_reason(), EndReason::AgentUnfit);
        assert!(attempt.message.contains(&share.display().to_string()), "{}", attempt.message);
        let missing = cluster.agent("sick").await.unwrap().missing_paths;
        assert_eq!(missing, [data.display().to_string()]);
    }
}

#[tokio::test]
async fn a_share_that_is_mounted_later_starts_the_job_that_waits_for_it() {
    if !may_mount() {
        return;
    }
    let cluster = Cluster::start_patient().await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let root = cluster.data_root();
    let mounts = format!("mount -t tmpfs tmpfs '{}'", root.display());
    let sick = cluster.start_agent_after(&mounts, "sick", 1, &[]).await.unwrap();
    // Another agent could run it, and is away.
    cluster.start_agent("well", 1).await.unwrap().kill().unwrap();
    let job = cluster.submit(tiny(&data, 1)).await.unwrap();
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(100));
    // The agent says what it lacks before it gives the attempt back.
    let asked = loop {
        let job = cluster.job(&job).await.unwrap();
        if job.attempts.first().is_some_and(|attempt| attempt.end_time.is_some()) {
            break job;
        }
        poll.tick().await;
    };
    assert_eq!(asked.state(), pb::JobState::Queued, "{asked:?}");
    assert!(!cluster.agent("sick").await.unwrap().missing_paths.is_empty());
    let there = sick.sees(&root).join("shapes");
    copy(&root.join("shapes"), &there);
    let (state, _) = cluster.watch_to_end(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded);
}

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn an_agent_without_a_trainer_is_not_asked_and_says_so() {
    let (cluster, _sick, _well, jobs) =
        with_a_sick_agent("", &[("TRAINYARD_AGENT__TRAINER", "/nowhere/trainer")]).await;
    assert!(jobs.iter().all(|job| job.attempts.len() == 1), "{jobs:?}");
    let unavailable = cluster.agent("sick").await.unwrap().unavailable;
    assert!(unavailable.contains("/nowhere/trainer"), "{unavailable}");
}

#[tokio::test]
async fn an_agent_whose_libtorch_cannot_be_loaded_is_not_asked_and_says_so() {
    // It goes before where the trainer was built to look.
    let broken = tempfile::tempdir().unwrap();
    fs::write(broken.path().join("libtorch_cpu.so"), "").unwrap();
    let path = broken.path().display().to_string();
    let more = [("LD_LIBRARY_PATH", path.as_str())];
    let (cluster, _sick, _well, jobs) = with_a_sick_agent("", &more).await;
    assert!(jobs.iter().all(|job| job.attempts.len() == 1), "{jobs:?}");
    let agent = cluster.agent("sick").await.unwrap();
    let closed = agent.cpu_slots[0].unavailable.as_ref().unwrap();
    assert!(closed.message.contains("a library cannot be loaded"), "{closed:?}");
}

#[tokio::test]
async fn a_trainer_that_hangs_at_its_start_holds_no_slot_for_ever() {
    let cluster = Cluster::start_patient().await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let trainer = cluster.pretend(HANGS).unwrap();
    let more = [
        ("TRAINYARD_AGENT__TRAINER", trainer.as_str()),
        ("TRAINYARD_AGENT__STALL_AFTER", "1s"),
        ("TRAINYARD_AGENT__STOP_GRACE", "1s"),
    ];
    let _sick = cluster.start_agent_with("sick", 1, &more).await.unwrap();
    // It is asked at least once: nobody else is there.
    let job = cluster.submit(tiny(&data, 1)).await.unwrap();
    cluster.watch_until(&job, |event| format!("{event:?}").contains("has stalled")).await.unwrap();
    let _well = cluster.start_agent("well", 1).await.unwrap();
    let (state, _) = cluster.watch_to_end(&job).await.unwrap();
    let done = cluster.job(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{done:?}");
    assert_eq!(done.attempts[0].end_reason(), EndReason::Stalled);
    all_are_trained(&cluster, &data).await;
}

#[tokio::test]
async fn a_job_that_crashes_everywhere_fails_on_two_machines_and_closes_none() {
    let cluster = Cluster::start_patient().await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let trainer = cluster.pretend(CRASHES).unwrap();
    let variables = [("TRAINYARD_AGENT__TRAINER", trainer.as_str())];
    let mut agents = Vec::new();
    for name in ["a", "b", "c"] {
        agents.push(cluster.start_agent_with(name, 1, &variables).await.unwrap());
    }
    // It does well, so that a machine on which another does not might be to blame.
    let well = cluster.submit(tiny(&data, 1)).await.unwrap();
    cluster.watch_until(&well, is_running).await.unwrap();
    for _ in 0..3 {
        let bad = cluster.submit(pb::JobSpec { max_retries: Some(9), ..tiny(&data, 2) }).await.unwrap();
        let (state, _) = cluster.watch_to_end(&bad).await.unwrap();
        let job = cluster.job(&bad).await.unwrap();
        assert_eq!((state, job.attempts.len()), (pb::JobState::Failed, 2), "{job:?}");
        assert_ne!(job.attempts[0].agent_name, job.attempts[1].agent_name);
        assert!(job.state_reason.contains("before its first step on two machines"), "{}", job.state_reason);
    }
    for name in ["a", "b", "c"] {
        let slots = cluster.agent(name).await.unwrap().cpu_slots;
        assert!(slots.iter().all(|slot| slot.unavailable.is_none()), "{slots:?}");
    }
}

#[tokio::test]
async fn a_trainer_that_is_stopped_in_the_middle_goes_on_elsewhere() {
    let cluster = Cluster::start_patient().await.unwrap();
    let data = cluster.demo_data("shapes", 16, 8, 64).await.unwrap();
    let impatient = [("TRAINYARD_AGENT__STALL_AFTER", "2s")];
    let sick = cluster.start_agent_with("sick", 1, &impatient).await.unwrap();
    let job = cluster.submit(tiny(&data, 12)).await.unwrap();
    cluster.watch_until(&job, |event| epoch_end(event) == Some(4)).await.unwrap();
    let _well = cluster.start_agent("well", 1).await.unwrap();
    let trainer = children_of(sick.pid(), "trainyard-trainer")[0];
    kill(Pid::from_raw(trainer), Signal::SIGSTOP).unwrap();
    let (state, events) = cluster.watch_to_end(&job).await.unwrap();
    let done = cluster.job(&job).await.unwrap();
    assert_eq!(state, pb::JobState::Succeeded, "{done:?}");
    let reasons: Vec<EndReason> = done.attempts.iter().map(pb::Attempt::end_reason).collect();
    assert_eq!(reasons, [EndReason::Stalled, EndReason::Completed], "{done:?}");
    assert!(format!("{events:?}").contains("stopped by a signal"), "the evidence is told");
    let second = events.iter().filter(|event| event.attempt > 1).find_map(epoch_end);
    assert!(second.is_some_and(|epoch| epoch >= 3), "it resumes: {second:?}");
}

#[tokio::test]
async fn a_job_that_has_trained_gives_its_slot_back_while_the_schedulers_disk_is_full() {
    if !may_mount() {
        return;
    }
    let cluster = Cluster::start_with_blob_disk(64).await.unwrap();
    let data = cluster.demo_data("shapes", 8, 4, 64).await.unwrap();
    let _agent = cluster.start_agent("bench", 1).await.unwrap();
    let scheduler = cluster.scheduler.as_ref().unwrap();
    let filler = scheduler.sees(&cluster.blobs()).join("filler");
    // Until there is no room for another byte.
    let full = fs::write(&filler, vec![0; 128 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let first = cluster.submit(tiny(&data, 1)).await.unwrap();
    let second = cluster.submit(tiny(&data, 1)).await.unwrap();
    for job in [&first, &second] {
        cluster.watch_until(job, is_running).await.unwrap();
        wait_for_reason(&cluster, job, "room on the scheduler's disk").await;
    }
    fs::remove_file(&filler).unwrap();
    for job in [&first, &second] {
        let (state, _) = cluster.watch_to_end(job).await.unwrap();
        let job = cluster.job(job).await.unwrap();
        assert_eq!(state, pb::JobState::Succeeded, "{job:?}");
        assert!(job.attempts.len() == 1 && job.attempts[0].slot_released_time.is_some(), "{job:?}");
    }
}

async fn wait_for_reason(cluster: &Cluster, id: &str, wanted: &str) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(100));
    loop {
        poll.tick().await;
        let job = cluster.job(id).await.unwrap();
        if job.state_reason.contains(wanted) {
            assert_eq!(job.state(), pb::JobState::Running, "{job:?}");
            return;
        }
        assert!(std::time::Instant::now() < deadline, "it is not said why it waits: {job:?}");
    }
}
