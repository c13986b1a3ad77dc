//! The priority of a job that waits may be changed.

use trainyard_scheduler_core::{Accepted, Core, CoreConfig, Event, Output, Policy, Refusal, Subject};
use trainyard_types::{JobSpec, JobState};

use crate::world::{World, attempt, cpu_spec, ended, hello, job, started};

fn set(world: &mut World, number: u128, priority: i32) -> Output {
    world.handle(Event::SetPriority { job: job(number), priority })
}

#[test]
fn a_job_that_was_given_a_higher_priority_goes_first_by_every_policy_and_after_a_restart() {
    for policy in Policy::ALL {
        let config = CoreConfig { policy, ..CoreConfig::default() };
        for restarts in [false, true] {
            let mut world = World::with(config.clone());
            world.connect(hello(1, vec![], 1, vec![]));
            for number in 1..=3 {
                world.submit(number, cpu_spec());
            }
            assert_eq!(world.record(1).state, JobState::Starting);
            let output = set(&mut world, 3, 7);
            assert_eq!(output.reply, Some(Ok(Accepted { subject: Subject::Job(job(3)), repeated: false })));
            assert_eq!(world.core.waiting(world.now, job(3)).unwrap().position, 1, "{policy:?}");
            assert_eq!(world.record(3).full_spec().priority, 7);
            if restarts {
                world.core = Core::load(config.clone(), world.now, world.store.stored());
                world.connect(hello(1, vec![], 1, vec![attempt(1, 1)]));
            }
            world.report(attempt(1, 1), started());
            world.report(attempt(1, 1), ended(trainyard_types::EndReason::Completed));
            let states = [2, 3].map(|number| world.record(number).state);
            assert_eq!(states, [JobState::Queued, JobState::Starting], "{policy:?} {restarts}");
        }
    }
}

#[test]
fn a_priority_may_be_taken_back_and_a_repeated_submission_is_still_the_same() {
    let mut world = World::new();
    let submit = |number| {
        let (request_id, user) = (Some("r1".to_owned()), "ada".to_owned());
        Event::Submit { request_id, job: job(number), user, spec: cpu_spec() }
    };
    world.handle(submit(1));
    set(&mut world, 1, 3);
    let again = world.handle(submit(2));
    assert_eq!(again.reply, Some(Ok(Accepted { subject: Subject::Job(job(1)), repeated: true })));
    let same = set(&mut world, 1, 3);
    let reply = Some(Ok(Accepted { subject: Subject::Job(job(1)), repeated: true }));
    assert_eq!(same, Output { reply, ..Output::default() });
    set(&mut world, 1, 0);
    assert_eq!(world.record(1).set_priority, None);
}

#[test]
fn only_a_job_that_waits_has_a_priority_to_change() {
    let mut world = World::with_cpu_agent();
    world.submit(1, JobSpec { priority: 1, ..cpu_spec() });
    let state = JobState::Starting;
    assert_eq!(set(&mut world, 1, 5).reply, Some(Err(Refusal::NotQueued { job: job(1), state })));
    assert_eq!(set(&mut world, 2, 5).reply, Some(Err(Refusal::UnknownJob(job(2)))));
}
