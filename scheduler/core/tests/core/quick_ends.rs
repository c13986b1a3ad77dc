//! Machines on which jobs end too soon are noticed by that, and jobs that crash everywhere close none.

use std::time::Duration;

use trainyard_scheduler_core::{Core, CoreConfig, Event};
use trainyard_types::trainer::{Step, TrainerEvent};
use trainyard_types::{EndReason, JobSpec, JobState, ReportBody, Slot, UnfitKind};

use crate::world::{World, agent, attempt, commands, cpu_spec, ended, hello, rtx_5070, spec, started, unfit};

fn step() -> ReportBody {
    ReportBody::Trainer(TrainerEvent::Step(Step { epoch: 1, batch: 1, batches: 10, ..Step::default() }))
}

/// Agent 1 has one CPU slot and is sick, agent 2 has many, on one of which job 100 does well.
fn lab() -> World {
    let mut world = World::new();
    world.connect(hello(2, vec![], 9, vec![]));
    world.submit(100, cpu_spec());
    world.report(attempt(100, 1), started());
    world.report(attempt(100, 1), step());
    for number in 101..=108 {
        world.submit(number, cpu_spec());
    }
    world.connect(hello(1, vec![], 1, vec![]));
    world
}

fn keep(world: &mut World, span: Duration) {
    let end = world.now + span;
    while world.now < end {
        world.pass(Duration::from_secs(20).min(end.since(world.now)));
        for number in 1..=2 {
            world.heartbeat(number);
        }
    }
}

/// Job `number` ends at once on agent 1.
fn burn(world: &mut World, number: u128, reason: EndReason) {
    world.submit(number, cpu_spec());
    let newest = world.record(number).attempts.last().unwrap();
    assert_eq!(newest.agent, agent(1), "job {number}");
    let body = if reason == EndReason::AgentUnfit { unfit(UnfitKind::SelfTest, "") } else { ended(reason) };
    world.report(newest.id, body);
}

fn shut(world: &World) -> bool {
    world
        .core
        .agent(agent(1))
        .unwrap()
        .record
        .shut
        .get(&Slot::Cpu(0))
        .is_some_and(|shut| shut.until.is_some())
}

#[test]
fn three_jobs_that_end_at_once_close_a_machine_for_a_time_that_doubles() {
    for reason in [EndReason::TrainerCrash, EndReason::HostOom, EndReason::Stalled] {
        let mut world = lab();
        for number in 1..=2 {
            burn(&mut world, number, reason);
            world.cancel(number);
        }
        assert!(!shut(&world));
        burn(&mut world, 3, reason);
        assert!(shut(&world), "{reason}");
        world.cancel(3);
        world.submit(4, cpu_spec());
        let reason_told = world.core.waiting(world.now, world.record(4).id).unwrap().reason;
        assert!(reason_told.contains("9 CPU slots"), "{reason_told}");
        keep(&mut world, Duration::from_secs(599));
        assert!(shut(&world));
        keep(&mut world, Duration::from_secs(2));
        assert!(!shut(&world) && world.record(4).state == JobState::Starting);
        // One more is enough then, and it is closed twice as long.
        let newest = world.record(4).attempts.last().unwrap().id;
        world.report(newest, ended(reason));
        assert!(shut(&world));
        world.cancel(4);
        keep(&mut world, Duration::from_secs(1190));
        assert!(shut(&world));
        keep(&mut world, Duration::from_secs(20));
        assert!(!shut(&world));
        // One that does well ends the suspicion.
        world.submit(5, cpu_spec());
        let newest = world.record(5).attempts.last().unwrap().id;
        world.report(newest, ended(EndReason::Completed));
        assert!(world.core.agent(agent(1)).unwrap().record.shut.is_empty());
    }
}

#[test]
fn two_jobs_are_enough_when_they_do_well_elsewhere() {
    let mut world = lab();
    burn(&mut world, 1, EndReason::TrainerCrash);
    world.report(attempt(108, 1), ended(EndReason::Completed));
    keep(&mut world, Duration::from_secs(10));
    let newest = world.record(1).attempts.last().unwrap();
    assert_eq!(newest.agent, agent(2));
    let newest = newest.id;
    world.report(newest, started());
    world.report(newest, step());
    assert!(!shut(&world));
    burn(&mut world, 2, EndReason::TrainerCrash);
    assert!(shut(&world));
    let why = &world.core.agent(agent(1)).unwrap().record.shut[&Slot::Cpu(0)].why;
    assert!(
        why.starts_with("2 jobs ended there before or soon after the first step, 1 of which do well"),
        "{why}"
    );
}

#[test]
fn a_job_that_crashes_everywhere_fails_and_closes_none() {
    let mut world = World::new();
    for number in 1..=10 {
        world.connect(hello(number, vec![rtx_5070(&number.to_string())], 1, vec![]));
    }
    world.submit(100, cpu_spec());
    world.report(attempt(100, 1), started());
    world.report(attempt(100, 1), step());
    for number in 1..=6 {
        let spec = if number % 2 == 0 { spec() } else { cpu_spec() };
        world.submit(number, JobSpec { max_retries: 9, ..spec });
        while !world.record(number).state.is_final() {
            let job = world.record(number);
            if job.state == JobState::Starting {
                let newest = job.attempts.last().unwrap().id;
                world.report(newest, ended(EndReason::TrainerCrash));
            } else {
                world.pass(Duration::from_secs(10));
                for agent in 1..=10 {
                    world.heartbeat(agent);
                }
            }
        }
        let job = world.record(number);
        assert_eq!((job.state, job.attempts.len()), (JobState::Failed, 2));
        assert_ne!(job.attempts[0].agent, job.attempts[1].agent);
    }
    assert_eq!(world.core.shut_slots(), 0);
}

#[test]
fn what_was_closed_for_jobs_that_crash_everywhere_is_opened_again() {
    let mut world = lab();
    for number in 1..=3 {
        burn(&mut world, number, EndReason::TrainerCrash);
    }
    assert!(shut(&world));
    for number in 1..=3 {
        assert!(shut(&world), "job {number} is yet to crash elsewhere");
        world.report(attempt(100 + number, 1), ended(EndReason::Completed));
        keep(&mut world, Duration::from_secs(40));
        let newest = world.record(number).attempts.last().unwrap();
        assert_eq!(newest.agent, agent(2), "job {number}");
        let newest = newest.id;
        world.report(newest, ended(EndReason::TrainerCrash));
    }
    assert!(!shut(&world));
}

#[test]
fn where_nothing_does_well_nothing_is_closed() {
    let mut world = World::with_cpu_agents(2);
    for number in 1..=8 {
        world.submit(number, cpu_spec());
        if let Some(newest) = world.record(number).attempts.last().map(|newest| newest.id) {
            world.report(newest, ended(EndReason::TrainerCrash));
            world.cancel(number);
        }
    }
    assert_eq!(world.core.shut_slots(), 0);
}

#[test]
fn of_a_machine_that_does_well_only_the_sick_gpu_is_closed() {
    let mut world = World::new();
    world.connect(hello(1, vec![rtx_5070("a"), rtx_5070("b")], 0, vec![]));
    world.submit(100, spec());
    world.report(attempt(100, 1), started());
    world.report(attempt(100, 1), step());
    for number in 1..=3 {
        world.submit(number, spec());
        world.report(attempt(number, 1), ended(EndReason::TrainerCrash));
        world.cancel(number);
    }
    let record = &world.core.agent(agent(1)).unwrap().record;
    let closed: Vec<&Slot> = record.shut.keys().collect();
    let healthy = &world.record(100).attempts[0].slot;
    assert!(closed.len() == 1 && closed[0] != healthy, "{closed:?}");
}

#[test]
fn a_machine_whose_gpus_all_fail_is_closed_whole() {
    let mut world = lab();
    world.connect(hello(1, vec![rtx_5070("a"), rtx_5070("b"), rtx_5070("c")], 0, vec![]));
    for number in 1..=3 {
        world.submit(number, spec());
    }
    for number in 1..=3 {
        world.report(attempt(number, 1), ended(EndReason::TrainerCrash));
    }
    assert_eq!(world.core.agent(agent(1)).unwrap().record.shut.len(), 3);
}

#[test]
fn a_sweep_of_bad_jobs_counts_as_one() {
    use std::sync::Arc;
    let mut world = lab();
    let batch = trainyard_types::JobGroupId(uuid::Uuid::from_u128(1 << 96));
    let content = trainyard_scheduler_core::Content::Specs((0..5).map(|_| Arc::new(cpu_spec())).collect());
    let record = trainyard_scheduler_core::JobGroupRecord {
        id: batch,
        user: "bob".into(),
        request_id: None,
        content,
        created: world.now,
    };
    world.handle(Event::SubmitGroup { group: Arc::new(record) });
    for index in 0..5 {
        let job = world.core.job(batch.job(index)).unwrap();
        let newest = job.attempts.last().unwrap().id;
        world.report(newest, ended(EndReason::TrainerCrash));
        world.handle(Event::Cancel { job: newest.job });
    }
    assert!(!shut(&world));
}

#[test]
fn a_person_opens_it_at_once_even_while_its_agent_is_away_and_a_restart_does_not() {
    let mut world = lab();
    for number in 1..=3 {
        burn(&mut world, number, EndReason::TrainerCrash);
        world.cancel(number);
    }
    world.core = Core::load(CoreConfig::default(), world.now, world.store.stored());
    assert!(shut(&world));
    world.connect(hello(1, vec![], 1, vec![]));
    assert!(shut(&world), "a new session of its agent does not open it");
    world.disconnect(1);
    let clear = || Event::ClearGpu { agent: agent(1), gpu: None };
    assert!(matches!(world.handle(clear()).reply, Some(Ok(_))));
    assert!(!shut(&world));
    world.connect(hello(1, vec![], 1, vec![]));
    assert_eq!(commands(&world.handle(clear())), ["clear all at 1"]);
    // It takes as much as the first time to close it again.
    burn(&mut world, 4, EndReason::TrainerCrash);
    assert!(!shut(&world));
}
