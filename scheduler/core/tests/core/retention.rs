//! Jobs that have ended are archived, and then forgotten.

use std::time::Duration;

use trainyard_scheduler_core::{Content, CoreConfig, Event, Write};
use trainyard_types::{EndReason, JobState};

use crate::job_groups::{group, sweep};
use crate::world::{World, attempt, cpu_spec, ended, hello, job};

fn world(keep_finished: usize, seconds: u64) -> World {
    let keep_finished_for = Duration::from_secs(seconds);
    let mut world = World::with(CoreConfig { keep_finished, keep_finished_for, ..CoreConfig::default() });
    world.connect(hello(1, vec![], 1, vec![]));
    world
}

fn archived(world: &mut World, number: u128, done: bool) -> Vec<Write> {
    let revision = done.then(|| world.record(number).revision);
    world.handle(Event::Archived { job: job(number), revision }).writes
}

#[test]
fn the_oldest_of_too_many_is_archived_and_only_then_forgotten() {
    let mut world = world(2, 1_000_000);
    for number in 1..=4 {
        world.submit(number, cpu_spec());
        let output = world.report(attempt(number, 1), ended(EndReason::Completed));
        assert_eq!(
            output.archive,
            if number == 3 {
                vec![job(1)]
            } else if number == 4 {
                vec![job(2)]
            } else {
                vec![]
            }
        );
    }
    assert_eq!(world.core.jobs().count(), 4, "not before its archive is there");
    assert_eq!(archived(&mut world, 1, true), [Write::Forget { job: job(1), group: None }]);
    assert!(world.core.job(job(1)).is_none());
    // One that fails is tried again later.
    assert_eq!(archived(&mut world, 2, false), []);
    world.heartbeat(1);
    let later: Vec<_> = (0..400)
        .flat_map(|_| {
            world.heartbeat(1);
            world.pass(Duration::from_secs(1))
        })
        .flat_map(|output| output.archive)
        .collect();
    assert_eq!(later, [job(2)]);
}

#[test]
fn a_job_that_is_too_old_is_archived_unless_its_user_wants_it_again() {
    let mut world = world(100, 60);
    for number in 1..=2 {
        world.submit(number, cpu_spec());
        world.report(attempt(number, 1), ended(EndReason::BadSpec));
    }
    let asked: Vec<_> = (0..61)
        .flat_map(|_| {
            world.heartbeat(1);
            world.pass(Duration::from_secs(1))
        })
        .flat_map(|output| output.archive)
        .collect();
    assert_eq!(asked, [job(1), job(2)]);
    world.retry(1);
    assert_eq!(archived(&mut world, 1, true), []);
    assert_eq!(world.record(1).state, JobState::Starting);
    assert_eq!(archived(&mut world, 2, true).len(), 1);
    // What was forgotten is unknown, and so is its request.
    assert!(world.core.job(job(2)).is_none());
}

#[test]
fn a_group_is_forgotten_with_its_last_job() {
    let mut world = World::with(CoreConfig { keep_finished: 0, ..CoreConfig::default() });
    let record = group(1, "r", Content::Sweep(sweep()));
    world.handle(Event::SubmitGroup { group: record.clone() });
    let output = world.handle(Event::CancelMany { jobs: record.ids().collect() });
    assert_eq!(output.archive.len(), 4);
    let mut kinds = Vec::new();
    for job in output.archive {
        let writes = world.handle(Event::Archived { job, revision: Some(1) }).writes;
        kinds.extend(writes.iter().map(|write| matches!(write, Write::ForgetJobGroup(_))));
    }
    assert_eq!(kinds, [false, false, false, false, true]);
    assert!(world.core.group(record.id).is_none());
    // A request id is remembered for as long as its jobs are.
    let again = world.handle(Event::SubmitGroup { group: group(2, "r", Content::Sweep(sweep())) });
    assert!(again.reply.unwrap().is_ok_and(|accepted| !accepted.repeated));
}

#[test]
fn an_archive_of_an_earlier_end_does_not_count() {
    let mut world = world(0, 1_000_000);
    world.submit(1, cpu_spec());
    world.report(attempt(1, 1), ended(EndReason::BadSpec));
    let earlier = world.record(1).revision;
    world.retry(1);
    world.report(attempt(1, 2), ended(EndReason::BadSpec));
    let output = world.handle(Event::Archived { job: job(1), revision: Some(earlier) });
    assert_eq!((output.writes, output.archive), (vec![], vec![job(1)]), "it is asked for again");
}
