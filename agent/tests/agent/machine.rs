//! What an agent makes of a machine that is unwell: the agent's process against a scheduler that a test controls,
//! with shell scripts for trainers.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trainyard_types::{AttemptId, EndReason, JobId, ReportBody, Slot, SlotReleased, UnfitKind};
use uuid::Uuid;

use crate::stub::{Stub, World, attempt};

const CPU: Slot = Slot::Cpu(0);

/// Fast enough for a test; starting, scanning and silent trainers get three times as much.
const IMPATIENT: [(&str, &str); 1] = [("TRAINYARD_AGENT__STALL_AFTER", "1s")];

fn other(job: u128) -> AttemptId {
    AttemptId { job: JobId(Uuid::from_u128(job)), number: 1 }
}

pub fn put(world: &World, name: &str, script: &str) {
    let (new, path) = (world.path("new"), world.path(name));
    fs::write(&new, format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, path).unwrap();
}

async fn released(stub: &mut Stub) -> SlotReleased {
    loop {
        if let ReportBody::SlotReleased(released) = stub.report().await.body {
            return released;
        }
    }
}

#[tokio::test]
async fn a_missing_data_set_is_told_in_heartbeats_until_it_is_there() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    let hello = stub.hello().await;
    let roots = hello.fitness.data_roots.unwrap();
    assert_eq!((roots.len(), roots[0].problem.as_str()), (1, ""));
    assert_eq!(hello.fitness.libtorch_version, "2.13.0");
    assert!(hello.fitness.clock.is_some() && !hello.instance.is_empty());

    let data = world.path("data/later/data.yaml");
    stub.assign(attempt(1), &data, CPU, None).await;
    let (_, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::AgentUnfit);
    let unfit = ended.unfit.unwrap();
    let named = data.display().to_string();
    assert_eq!((unfit.kind, unfit.path.as_str()), (UnfitKind::PathMissing, named.as_str()));
    let missing = |heartbeat: &trainyard_proto::pb::Heartbeat| {
        heartbeat.fitness.as_ref().unwrap().missing_paths.clone()
    };
    stub.heartbeat_with(|heartbeat| missing(heartbeat) == [named.clone()]).await;
    fs::create_dir(world.path("data/later")).unwrap();
    fs::write(&data, "names: [a]\n").unwrap();
    stub.heartbeat_with(|heartbeat| missing(heartbeat).is_empty()).await;
    stub.assign(attempt(2), &data, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
}

#[tokio::test]
async fn a_trainer_that_beats_and_does_nothing_is_told_of_stopped_and_its_checkpoint_stored() {
    let world = World::new(
        "trap 'checkpoint 2; exit 75' TERM\ncheckpoint 1\nwhile :; do\n\
         tell '\"type\":\"beat\",\"activity\":\"train\",\"done\":7'\nsleep 0.2\ndone\n",
    );
    let mut stub = Stub::start().await;
    let _agent = world.agent_with(&stub, &[], &IMPATIENT);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let told = stub.log_line("the trainer has stalled: ").await;
    assert!(told.contains("while it trains") && told.contains("threads"), "{told}");
    let ended = stub.end().await;
    assert_eq!(ended.reason, EndReason::Stalled, "{}", ended.message);
    let stored = stub.reports.iter().filter_map(|report| match &report.body {
        ReportBody::CheckpointStored(checkpoint) => Some(checkpoint.step),
        _ => None,
    });
    assert_eq!(stored.max(), Some(2));
    let beats = stub.reports.iter().any(|report| format!("{report:?}").contains("Beat"));
    assert!(!beats, "beats are for the agent alone");
}

#[tokio::test]
async fn a_trainer_that_somebody_stops_in_the_middle_has_stalled_and_may_still_save() {
    let world = World::new("trap 'checkpoint 2; exit 75' TERM\nlog \"pid $$\"\nhold\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent_with(&stub, &[], &IMPATIENT);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let pid: i32 = stub.log_line("pid ").await.parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let told = stub.log_line("the trainer has stalled: ").await;
    assert!(told.contains("stopped by a signal"), "{told}");
    assert_eq!(stub.end().await.reason, EndReason::Stalled);
}

#[tokio::test]
async fn a_device_that_fails_its_self_test_takes_no_jobs_until_the_trainer_is_mended() {
    let world = World::new("finish\n");
    put(
        &world,
        "trainer.self-test",
        "echo 'trainer: error while loading shared libraries: libtorch.so' >&2\nexit 127\n",
    );
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    let closed = stub.hello().await.fitness.cpu_unavailable.unwrap();
    assert!(closed.message.contains("self-test failed: a library cannot be loaded"), "{}", closed.message);
    // Whoever comes all the same goes on elsewhere.
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    assert_eq!(stub.end().await.unfit.unwrap().kind, UnfitKind::LibtorchUnusable);
    fs::remove_file(world.path("trainer.self-test")).unwrap();
    let trainer = fs::read(world.path("trainer")).unwrap();
    fs::write(world.path("new"), [trainer, b"\n".to_vec()].concat()).unwrap();
    fs::set_permissions(world.path("new"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(world.path("new"), world.path("trainer")).unwrap();
    let open = |heartbeat: &trainyard_proto::pb::Heartbeat| {
        heartbeat.fitness.as_ref().unwrap().cpu_unavailable.is_none()
    };
    stub.heartbeat_with(open).await;
    stub.assign(attempt(2), &world.data(), CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
}

#[tokio::test]
async fn after_a_start_that_failed_for_want_of_libtorch_the_device_is_closed_before_the_end_is_told() {
    let world = World::new("echo 'x: symbol lookup error: undefined symbol: _ZN5torch' >&2\nexit 127\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    put(&world, "trainer.self-test", "exit 127\n");
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let ended = stub.end().await;
    assert_eq!(ended.unfit.unwrap().kind, UnfitKind::LibtorchUnusable);
    let closed = stub
        .heartbeats
        .iter()
        .any(|heartbeat| heartbeat.fitness.as_ref().is_some_and(|fitness| fitness.cpu_unavailable.is_some()));
    assert!(closed, "the scheduler knew before it could offer the slot again");
}

#[tokio::test]
async fn a_job_that_has_trained_gives_its_slot_back_while_its_results_wait_and_a_restart_goes_on() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let mut agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.fill_disk(true);
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let waits = |waits_for: &str| SlotReleased { waits_for: waits_for.into(), is_trained: true };
    assert_eq!(released(&mut stub).await, waits(""));
    assert_eq!(released(&mut stub).await, waits("room on the scheduler's disk"));
    // The slot trains another job meanwhile, which waits, too.
    stub.assign(other(8), &world.data(), CPU, None).await;
    assert_eq!(released(&mut stub).await, waits(""));
    assert_eq!(released(&mut stub).await, waits("room on the scheduler's disk"));
    agent.kill();
    let _agent = world.agent(&stub, &[]);
    let mut held = stub.hello().await.attempts;
    held.sort();
    assert_eq!(held, [attempt(1), other(8)]);
    stub.fill_disk(false);
    for _ in 0..2 {
        let ended = stub.end().await;
        assert_eq!(ended.reason, EndReason::Completed, "{}", world.log());
        assert!(stub.blob(&ended.artifacts[0].sha256).is_some());
    }
}

#[tokio::test]
async fn an_idle_agent_whose_identity_another_one_has_takes_a_new_one() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let first = {
        let _agent = world.agent(&stub, &[]);
        stub.hello().await.agent
    };
    stub.give_identity_away(first);
    let agent = world.agent(&stub, &[]);
    let second = stub.hello().await.agent;
    assert_ne!(second, first);
    drop(agent);
    let _agent = world.agent(&stub, &[]);
    assert_eq!(stub.hello().await.agent, second, "it keeps it");
}

#[tokio::test]
async fn a_data_directory_on_another_machine_is_another_agent() {
    let world = World::new("finish\n");
    fs::write(world.path("machine-id"), "one\n").unwrap();
    let machine_id = world.path("machine-id").display().to_string();
    let variables = [("TRAINYARD_AGENT__MACHINE_ID_FILE", machine_id.as_str())];
    let mut stub = Stub::start().await;
    let agent = world.agent_with(&stub, &[], &variables);
    let first = stub.hello().await;
    drop(agent);
    let agent = world.agent_with(&stub, &[], &variables);
    let again = stub.hello().await;
    assert!(again.agent == first.agent && again.instance != first.instance);
    drop(agent);
    fs::write(world.path("machine-id"), "two\n").unwrap();
    let _agent = world.agent_with(&stub, &[], &variables);
    assert_ne!(stub.hello().await.agent, first.agent);
    assert!(world.log().contains("comes from another machine"), "{}", world.log());
}

#[tokio::test]
async fn a_share_that_does_not_answer_holds_no_slot_and_no_other_job() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: mounting needs root");
        return;
    }
    let world = World::new("finish\n");
    let dead = world.path("data/dead");
    fs::create_dir(&dead).unwrap();
    // A file system whose server never answers: whoever asks sleeps in the kernel.
    let mounts = format!(
        "exec 9<>/dev/fuse && mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 dead '{}'",
        dead.display()
    );
    let mut stub = Stub::start().await;
    let agent = world.agent_after(&mounts, &stub, &[], &IMPATIENT);
    stub.hello().await;
    for number in [1, 2] {
        stub.assign(attempt(number), &dead.join("data.yaml"), CPU, None).await;
        let unfit = stub.end().await.unfit.unwrap();
        assert_eq!(unfit.kind, UnfitKind::PathUnreadable);
        assert!(unfit.message.contains("does not answer"), "{}", unfit.message);
    }
    assert_eq!(agent.threads_called("path"), 1, "it is asked once, and not again while that hangs");
    stub.assign(attempt(3), &world.data(), CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
}

#[tokio::test]
async fn other_users_of_the_machine_enter_none_of_the_agents_folders() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let mode = |name: &str| fs::metadata(world.path(name)).unwrap().permissions().mode() & 0o777;
    let open = |name: &str| {
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), CPU, None).await;
    let (_, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::Completed, "{}", world.log());
    let job = format!("agent/jobs/{}", attempt(1).job);
    let run = format!("{job}/run");
    let inside = ["agent/jobs", "agent/cache", &job, &run];
    for name in inside.into_iter().chain(["agent"]) {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    drop(agent);
    // As an older build made them. What is elsewhere, or given to see into, is its maker's.
    inside.into_iter().chain(["agent"]).for_each(open);
    fs::create_dir(world.path("elsewhere")).unwrap();
    open("elsewhere");
    std::os::unix::fs::symlink(world.path("elsewhere"), world.path("agent/jobs/linked")).unwrap();
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    for name in inside {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    assert_eq!((mode("agent"), mode("elsewhere")), (0o755, 0o755));
}

#[tokio::test]
async fn what_a_person_should_know_of_the_machine_is_told_to_the_scheduler() {
    let world = World::new("");
    let mut stub = Stub::start().await;
    let missing = world.path("missing");
    let _agent = world.agent(&stub, &["--cgroup", missing.to_str().unwrap()]);
    let notices = stub.hello().await.fitness.notices;
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].starts_with(&format!("`cgroup` is `{}`", missing.display())), "{notices:?}");
}

#[tokio::test]
async fn a_machine_with_nothing_to_offer_says_so() {
    let world = World::new("");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &["--cpu-slots", "0"]);
    let mut unavailable = stub.hello().await.unavailable;
    while unavailable.is_empty() {
        unavailable = stub.heartbeat().await.unavailable;
    }
    assert!(unavailable.contains("no GPU") && unavailable.contains("`cpu_slots` is 0"), "{unavailable}");
}
