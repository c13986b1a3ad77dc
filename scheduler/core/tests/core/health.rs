//! GPUs that take no job by their agent's word, and jobs that are cut off again and again.

use std::time::Duration;

use trainyard_scheduler_core::{AgentStatus, Hello};
use trainyard_types::trainer::{Epoch, TrainerEvent};
use trainyard_types::{EndReason, Gpu, JobState, ReportBody, UnavailableCause};

use crate::world::{
    World, agent, attempt, closed, commands, cpu_spec, ended, hello, rtx_4090, rtx_5070, spec, started,
};

fn waiting_for(world: &World, number: u128) -> String {
    world.core.waiting(world.now, world.record(number).id).unwrap().reason
}

fn one_agent(gpus: Vec<Gpu>) -> World {
    let mut world = World::new();
    world.connect(hello(1, gpus, 0, vec![]));
    world
}

#[test]
fn a_gpu_whose_owner_is_back_gets_nothing_new_keeps_its_attempt_and_comes_back() {
    let mut world = one_agent(vec![rtx_5070("a")]);
    world.submit(1, spec());
    let output = world.beat(1, closed(&rtx_5070("a"), UnavailableCause::Owner));
    assert_eq!((commands(&output), output.writes), (vec![], vec![]));
    world.report(attempt(1, 1), started());
    // The agent said why before it ended the attempt.
    let output = world.report(attempt(1, 1), ended(EndReason::Preempted));
    assert_eq!(commands(&output), ["ack 1/1 #2 to 1"]);
    assert_eq!(
        waiting_for(&world, 1),
        "the only GPU that would do is used by its owner: GPU 0 of `lab-1`, what was seen"
    );
    assert_eq!(commands(&world.heartbeat(1)), ["assign 1/2 to 1"]);
    assert_eq!(world.record(1).crashes, 0);
}

#[test]
fn a_gpu_that_is_not_well_at_the_first_word_gets_nothing() {
    let mut world = World::new();
    world.submit(1, spec());
    let status = closed(&rtx_4090("a"), UnavailableCause::Quarantined);
    let hello = Hello { status, ..hello(1, vec![rtx_4090("a")], 0, vec![]) };
    assert_eq!(commands(&world.connect(hello)), [""; 0]);
    assert!(waiting_for(&world, 1).starts_with("the only GPU that would do is quarantined: "));
}

#[test]
fn an_agent_that_takes_nothing_says_why_for_all_its_slots() {
    let mut world = World::new();
    let unavailable = "its disk is full".to_owned();
    let status = AgentStatus { unavailable, ..AgentStatus::default() };
    world.connect(Hello { status: status.clone(), ..hello(1, vec![rtx_4090("a")], 1, vec![]) });
    world.submit(1, cpu_spec());
    assert_eq!(
        waiting_for(&world, 1),
        "the only CPU slot that would do is on an agent that takes no jobs: slot 0 of `lab-1`, its disk is full"
    );
    assert_eq!(commands(&world.heartbeat(1)), ["assign 1/1 to 1"]);
    assert_eq!(commands(&world.beat(1, status)), [""; 0]);
    world.submit(2, spec());
    assert_eq!(world.record(2).state, JobState::Queued);
}

#[test]
fn the_other_gpus_of_the_agent_go_on() {
    let mut world = one_agent(vec![rtx_5070("a"), rtx_4090("b")]);
    world.beat(1, closed(&rtx_5070("a"), UnavailableCause::ForeignUse));
    world.submit(1, spec());
    world.submit(2, spec());
    assert_eq!(world.record(1).attempts[0].slot, trainyard_types::Slot::Gpu(rtx_4090("b").uuid));
    assert_eq!(waiting_for(&world, 2), "waits for the only GPU that fits; it is busy");
}

#[test]
fn a_sentence_names_a_few_gpus_and_counts_the_rest() {
    let mut world = World::new();
    for number in 1..=5 {
        let gpu = rtx_4090(&number.to_string());
        world.connect(hello(number, vec![gpu.clone()], 0, vec![]));
        let cause = if number < 5 { UnavailableCause::Owner } else { UnavailableCause::Quarantined };
        world.beat(number, closed(&gpu, cause));
    }
    world.submit(1, spec());
    let reason = waiting_for(&world, 1);
    assert!(reason.contains(" are quarantined or used by their owner: GPU 0 of `lab-1`"), "{reason}");
    assert!(reason.ends_with("GPU 0 of `lab-3`, what was seen; and 2 more"), "{reason}");
}

fn epoch(epoch: u32) -> ReportBody {
    ReportBody::Trainer(TrainerEvent::Epoch(Epoch { epoch, epochs: 50, ..Epoch::default() }))
}

/// The newest attempt of job 1 ends like this; heartbeats keep the agents until it is placed again.
fn end_newest(world: &mut World, reason: EndReason) {
    let newest = world.record(1).attempts.last().unwrap().id;
    world.report(newest, ended(reason));
    for _ in 0..20 {
        if world.record(1).state != JobState::Queued {
            return;
        }
        world.pass(Duration::from_secs(20));
        for number in 1..=2 {
            world.heartbeat(number);
        }
    }
}

fn two_gpus() -> World {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_5070("a")], 0, vec![]));
    world.connect(hello(2, vec![rtx_4090("b")], 0, vec![]));
    world.submit(1, spec());
    world
}

#[test]
fn a_job_that_fails_on_two_healthy_gpus_is_to_blame() {
    let mut world = two_gpus();
    end_newest(&mut world, EndReason::GpuFault);
    assert_eq!(world.record(1).attempts[1].agent, agent(2));
    end_newest(&mut world, EndReason::GpuFault);
    let job = world.record(1);
    assert_eq!((job.state, job.crashes), (JobState::Failed, 0));
    assert_eq!(
        job.state_reason,
        "failed on two healthy GPUs without completing an epoch in between (NVIDIA GeForce RTX 5070 of agent \
         `lab-1`, then NVIDIA GeForce RTX 4090 of agent `lab-2`), so that the job itself is the likely cause: \
         what the agent says"
    );
    // Its user may know better.
    world.retry(1);
    assert_eq!((world.record(1).state, world.record(1).failures.is_none()), (JobState::Queued, true));
}

#[test]
fn a_job_whose_gpu_was_quarantined_is_not_to_blame() {
    let mut world = two_gpus();
    world.beat(1, closed(&rtx_5070("a"), UnavailableCause::Quarantined));
    world.report(attempt(1, 1), ended(EndReason::GpuFault));
    assert_eq!(world.record(1).attempts[1].agent, agent(2));
    world.report(attempt(1, 2), ended(EndReason::GpuFault));
    assert_eq!(world.record(1).state, JobState::Queued);
}

#[test]
fn a_job_that_is_cut_off_five_times_in_a_row_has_failed_unless_it_gets_on() {
    let mut world = World::with_cpu_agent();
    world.submit(1, cpu_spec());
    for number in 1..=4 {
        world.report(attempt(1, number), started());
        world.report(attempt(1, number), ended(EndReason::AgentLost));
    }
    // An epoch starts the count anew, and a preemption is none of it.
    world.report(attempt(1, 5), started());
    world.report(attempt(1, 5), epoch(1));
    world.report(attempt(1, 5), ended(EndReason::AgentLost));
    for number in 6..=9 {
        world.report(attempt(1, number), ended(EndReason::Preempted));
    }
    for number in 10..=13 {
        assert_eq!(world.record(1).state, JobState::Starting);
        world.report(attempt(1, number), epoch(1));
        world.report(attempt(1, number), ended(EndReason::AgentLost));
    }
    let job = world.record(1);
    assert_eq!(
        (job.state, job.state_reason.as_str()),
        (
            JobState::Failed,
            "was cut off 5 times in a row without completing an epoch in between; look at its machines, then \
             retry it: what the agent says"
        )
    );
}

#[test]
fn a_job_that_is_preempted_is_next_again() {
    let mut world = one_agent(vec![rtx_4090("a")]);
    world.submit(1, spec());
    world.submit(2, spec());
    for (number, reason) in [(1, EndReason::Preempted), (2, EndReason::Preempted)] {
        let output = world.report(attempt(1, number), ended(reason));
        let expected = [format!("ack 1/{number} #1 to 1"), format!("assign 1/{} to 1", number + 1)];
        assert_eq!(commands(&output), expected);
    }
}
