//! Time limits, and estimates of when a job starts.

use std::time::Duration;

use trainyard_types::trainer::{Step, TrainerEvent};
use trainyard_types::{EndReason, JobSpec, JobState, ReportBody};

use crate::world::{World, attempt, commands, cpu_spec, ended, hello, job, started};

fn limited() -> JobSpec {
    JobSpec { time_limit: Some(Duration::from_secs(90)), ..cpu_spec() }
}

/// Time passes, and the agent lives.
fn pass(world: &mut World, seconds: u64) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..seconds {
        all.extend(world.pass(Duration::from_secs(1)).iter().flat_map(commands));
        world.heartbeat(1);
    }
    all
}

#[test]
fn a_job_that_ran_for_as_long_as_it_may_is_stopped_with_a_checkpoint_and_fails() {
    let mut world = World::with_cpu_agent();
    world.submit(1, limited());
    pass(&mut world, 100);
    world.report(attempt(1, 1), started());
    assert_eq!(pass(&mut world, 89), [""; 0]);
    assert_eq!(pass(&mut world, 1), ["stop 1/1 at 1 PREEMPTED"]);
    let reason = "its time limit of 1 min 30 s is over; waits for agent `lab-1` to stop it";
    assert_eq!(world.record(1).state_reason, reason);
    world.report(attempt(1, 1), ended(EndReason::Preempted));
    assert_eq!(world.record(1).state, JobState::Failed);
    assert_eq!(world.record(1).attempts[0].ended.as_ref().unwrap().reason, EndReason::TimeLimit);
    assert_eq!(
        world.record(1).state_reason,
        "its time limit of 1 min 30 s is over; its newest checkpoint is kept"
    );
    // Queued again it has its time anew.
    assert_eq!(commands(&world.retry(1)), ["assign 1/2 to 1"]);
    world.report(attempt(1, 2), started());
    assert_eq!(pass(&mut world, 89), [""; 0]);
    world.report(attempt(1, 2), ended(EndReason::Completed));
    assert_eq!(world.record(1).state, JobState::Succeeded);
}

#[test]
fn the_limit_counts_all_attempts_together() {
    let mut world = World::with_cpu_agent();
    world.submit(1, limited());
    world.report(attempt(1, 1), started());
    pass(&mut world, 60);
    world.report(attempt(1, 1), ended(EndReason::Preempted));
    assert_eq!(world.record(1).state, JobState::Starting);
    world.report(attempt(1, 2), started());
    assert_eq!(pass(&mut world, 30), ["stop 1/2 at 1 PREEMPTED"]);
}

#[test]
fn an_agent_that_was_away_is_told_of_the_limit_when_it_is_back() {
    let mut world = World::with_cpu_agent();
    world.submit(1, JobSpec { time_limit: Some(Duration::from_secs(5)), ..cpu_spec() });
    world.report(attempt(1, 1), started());
    world.disconnect(1);
    assert_eq!(world.pass(Duration::from_secs(6)).iter().flat_map(commands).count(), 0);
    let back = world.connect(hello(1, vec![], 1, vec![attempt(1, 1)]));
    assert_eq!(commands(&back), ["stop 1/1 at 1 PREEMPTED"]);
    // Its user's wish and completion both count for more.
    world.cancel(1);
    world.report(attempt(1, 1), ended(EndReason::Preempted));
    assert_eq!(world.record(1).state, JobState::Cancelled);
}

fn step(batch: u32) -> ReportBody {
    let (images_per_second, loader_wait_ratio, metrics) = (1.0, 0.0, Default::default());
    let step =
        Step { epoch: 1, batch, batches: 10, images_per_second, loader_wait_ratio, metrics, phases: None };
    ReportBody::Trainer(TrainerEvent::Step(step))
}

#[test]
fn a_start_is_estimated_from_what_runs_and_from_what_ran() {
    let mut world = World::with_cpu_agent();
    for number in 1..=4 {
        world.submit(number, cpu_spec());
    }
    let estimate = |world: &World, number| {
        let start = world.core.waiting(world.now, job(number)).unwrap().estimated_start;
        start.map(|start| start.since(world.now).as_secs())
    };
    assert_eq!(estimate(&world, 2), None, "nothing is known");
    world.report(attempt(1, 1), started());
    pass(&mut world, 10);
    world.report(attempt(1, 1), step(5));
    // A tenth of a fiftieth took two seconds: 50 epochs of 20 s, less what is done.
    assert_eq!(estimate(&world, 2), Some(990));
    assert_eq!(estimate(&world, 3), None, "nothing is known of how long the second one takes");
    world.report(attempt(1, 1), ended(EndReason::Completed));
    assert_eq!((estimate(&world, 3), estimate(&world, 4)), (Some(10), Some(20)));
    let mut nowhere = World::new();
    nowhere.submit(1, cpu_spec());
    assert_eq!(estimate(&nowhere, 1), None);
}
