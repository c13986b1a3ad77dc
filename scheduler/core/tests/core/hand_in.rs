//! Attempts whose trainer has ended, and whose results are still handed in.

use std::time::Duration;

use trainyard_scheduler_core::{Core, CoreConfig, Policy};
use trainyard_types::trainer::{Step, TrainerEvent};
use trainyard_types::{Checkpoint, EndReason, JobSpec, JobState, ReportBody};

use crate::world::{World, agent, attempt, commands, cpu_spec, ended, hello, released, started};

const ROOM: &str = "room on the scheduler's disk";

fn handing_in(policy: Policy) -> World {
    let mut world = World::with(CoreConfig { policy, ..CoreConfig::default() });
    world.connect(hello(1, vec![], 1, vec![]));
    world.submit(1, JobSpec { time_limit: Some(Duration::from_secs(60)), ..cpu_spec() });
    world.submit(2, cpu_spec());
    world.report(attempt(1, 1), started());
    world.pass(Duration::from_secs(20));
    world
}

#[test]
fn a_job_that_has_trained_gives_its_slot_back_and_says_what_its_results_wait_for() {
    for policy in Policy::ALL {
        let mut world = handing_in(policy);
        let output = world.report(attempt(1, 1), released(ROOM));
        assert_eq!(commands(&output), ["ack 1/1 #2 to 1", "assign 2/1 to 1"]);
        let job = world.record(1);
        assert_eq!(job.state, JobState::Running);
        assert_eq!(
            job.state_reason,
            "trained; its results wait on agent `lab-1` for room on the scheduler's disk"
        );
        assert_eq!(world.core.handing_in(), (1, 1));
        // The same again is no news, and neither the time limit nor the share runs.
        let cursor = job.last_cursor;
        world.report(attempt(1, 1), released(ROOM));
        assert_eq!(world.record(1).last_cursor, cursor);
        for _ in 0..20 {
            assert!(world.pass(Duration::from_secs(10)).iter().all(|output| commands(output).is_empty()));
            world.heartbeat(1);
        }
        world.report(attempt(1, 1), released(""));
        assert_eq!(world.record(1).state_reason, "trained; agent `lab-1` hands in its results");
        world.report(attempt(1, 1), ended(EndReason::Completed));
        let job = world.record(1);
        assert_eq!((job.state, job.ran), (JobState::Succeeded, Duration::from_secs(20)));
        assert_eq!(world.core.handing_in(), (0, 0));
        assert_eq!(world.core.agent(agent(1)).unwrap().running.len(), 1);
    }
}

#[test]
fn an_agent_that_is_lost_meanwhile_costs_what_was_not_handed_in() {
    let mut world = handing_in(Policy::Fair);
    let checkpoint = Checkpoint { step: 7, epoch: 3, files: vec![] };
    world.report(attempt(1, 1), ReportBody::CheckpointStored(checkpoint.clone()));
    world.report(attempt(1, 1), released(ROOM));
    world.pass(Duration::from_secs(31));
    let job = world.record(1);
    let end = job.attempts[0].ended.as_ref().unwrap();
    assert_eq!(
        (job.state, end.reason, &job.checkpoint),
        (JobState::Queued, EndReason::AgentLost, &Some(checkpoint))
    );
    assert_eq!(world.core.handing_in(), (0, 0));
    // What the agent says of it when it is back comes too late.
    let output = world.connect(hello(1, vec![], 1, vec![attempt(1, 1)]));
    assert!(commands(&output).contains(&"revoke 1/1 at 1".to_owned()));
}

#[test]
fn restarts_of_agent_and_scheduler_go_on() {
    let mut world = handing_in(Policy::Fair);
    world.report(attempt(1, 1), released(ROOM));
    world.core = Core::load(CoreConfig::default(), world.now, world.store.stored());
    assert_eq!(world.core.handing_in(), (1, 1));
    let output = world.connect(hello(1, vec![], 1, vec![attempt(1, 1), attempt(2, 1)]));
    assert_eq!(commands(&output), [""; 0]);
    // Another process of that agent does not hold it any more.
    world.connect(hello(1, vec![], 1, vec![attempt(2, 1)]));
    assert_eq!(world.record(1).state, JobState::Queued);
    assert_eq!(world.record(1).attempts[0].ended.as_ref().unwrap().reason, EndReason::AgentLost);
}

#[test]
fn a_cancellation_is_told_to_the_agent_and_ends_it() {
    let mut world = handing_in(Policy::Fair);
    world.report(attempt(1, 1), released(ROOM));
    assert_eq!(commands(&world.cancel(1)), ["stop 1/1 at 1 CANCELLED"]);
    world.report(attempt(1, 1), ended(EndReason::Cancelled));
    assert_eq!(world.record(1).state, JobState::Cancelled);
}

#[test]
fn what_an_ended_trainer_leaves_may_be_a_checkpoint_only() {
    let mut world = handing_in(Policy::Fair);
    let told = trainyard_types::SlotReleased { waits_for: ROOM.into(), is_trained: false };
    world.report(attempt(1, 1), ReportBody::SlotReleased(told));
    assert_eq!(
        world.record(1).state_reason,
        "its trainer has ended; what it left waits on agent `lab-1` for room on the scheduler's disk"
    );
    world.report(attempt(1, 1), ended(EndReason::TrainerCrash));
    assert_eq!((world.record(1).state, world.record(1).crashes), (JobState::Queued, 1));
}

#[test]
fn a_crash_soon_after_the_start_is_quick_however_long_what_it_left_is_handed_in() {
    let mut world = handing_in(Policy::Fair);
    let step = Step { epoch: 1, batch: 1, batches: 10, ..Step::default() };
    world.report(attempt(1, 1), ReportBody::Trainer(TrainerEvent::Step(step)));
    let told = trainyard_types::SlotReleased { waits_for: ROOM.into(), is_trained: false };
    world.report(attempt(1, 1), ReportBody::SlotReleased(told));
    for _ in 0..6 {
        world.pass(Duration::from_secs(10));
        world.heartbeat(1);
    }
    world.report(attempt(1, 1), ended(EndReason::TrainerCrash));
    assert!(world.record(1).attempts[0].ended.as_ref().unwrap().quick);
}

#[test]
fn an_agent_with_many_results_to_hand_in_takes_no_new_jobs_until_some_are_in() {
    let mut world = World::with_cpu_agent();
    for number in 1..=8 {
        world.submit(number, cpu_spec());
        world.report(attempt(number, 1), started());
        world.report(attempt(number, 1), released("the network"));
    }
    world.submit(9, cpu_spec());
    assert_eq!(
        world.core.waiting(world.now, world.record(9).id).unwrap().reason,
        "the only CPU slot that would do is on an agent that has results to hand in first: slot 0 of `lab-1`, the results \
         of 8 attempts wait there"
    );
    let output = world.report(attempt(3, 1), ended(EndReason::Completed));
    assert_eq!(commands(&output), ["ack 3/1 #3 to 1", "assign 9/1 to 1"]);
}

#[test]
fn an_agent_that_comes_back_without_many_results_has_its_slot_on_offer_once() {
    let mut world = World::with_cpu_agent();
    for number in 1..=8 {
        world.submit(number, cpu_spec());
        world.report(attempt(number, 1), started());
        world.report(attempt(number, 1), released("the network"));
    }
    let output = world.connect(hello(1, vec![], 1, vec![]));
    assert_eq!(commands(&output), ["assign 1/2 to 1"]);
}

#[test]
fn an_agent_that_leaves_gets_no_job_although_its_slot_was_free_before_the_end_was_told() {
    for policy in Policy::ALL {
        let mut world = handing_in(policy);
        world.cancel(2);
        world.report(attempt(1, 1), released(""));
        let output = world.report(attempt(1, 1), ended(EndReason::Drained));
        assert_eq!(commands(&output), ["ack 1/1 #3 to 1"], "it goes away soon");
        assert_eq!(world.record(1).state, JobState::Queued);
        // Another one takes the job.
        let mut outputs = vec![world.connect(hello(2, vec![], 1, vec![]))];
        outputs.extend(world.pass(Duration::from_secs(2)));
        assert_eq!(outputs.iter().flat_map(commands).collect::<Vec<_>>(), ["assign 1/2 to 2"]);
        assert_eq!(world.record(1).attempts[1].agent, agent(2));
    }
}
