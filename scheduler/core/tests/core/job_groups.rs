//! Many jobs in one call, and sweeps.

use std::sync::Arc;

use trainyard_scheduler_core::{
    Accepted, Axis, Content, Core, CoreConfig, Event, JobGroupRecord, Output, Refusal, Sweep, Write,
};
use trainyard_types::{EndReason, JobGroupId, JobSpec, JobState, TrainPatch};
use uuid::Uuid;

use crate::world::{START, World, commands, cpu_spec, ended};

pub fn sweep() -> Sweep {
    let value = |lr0: f64| (lr0.to_string(), TrainPatch { lr0: Some(lr0), ..TrainPatch::default() });
    let seed = |seed: u64| (seed.to_string(), TrainPatch { seed: Some(seed), ..TrainPatch::default() });
    let lr0 = Axis { parameter: "lr0".into(), values: vec![value(0.01), value(0.02)] };
    let seeds = Axis { parameter: "seed".into(), values: vec![seed(1), seed(2)] };
    Sweep { spec: cpu_spec(), axes: vec![lr0, seeds] }
}

pub fn group(number: u128, request_id: &str, content: Content) -> Arc<JobGroupRecord> {
    let (id, request_id) = (JobGroupId(Uuid::from_u128(number << 96)), Some(request_id.to_owned()));
    Arc::new(JobGroupRecord { id, user: "ada".into(), request_id, content, created: START })
}

fn submit(world: &mut World, number: u128, content: Content) -> Output {
    world.handle(Event::SubmitGroup { group: group(number, "r", content) })
}

fn specs(count: usize) -> Content {
    Content::Specs(std::iter::repeat_n(Arc::new(cpu_spec()), count).collect())
}

#[test]
fn a_group_is_one_write_however_many_jobs_it_has() {
    let mut world = World::new();
    let output = submit(&mut world, 1, specs(500));
    assert!(matches!(output.writes.as_slice(), [Write::JobGroup(_)]), "{:?}", output.writes);
    assert_eq!(world.core.count(JobState::Queued), 500);
    let output = submit(&mut world, 2, specs(500));
    assert!(matches!(output.reply, Some(Ok(Accepted { repeated: true, .. }))) && output.writes.is_empty());
    let other = submit(&mut world, 3, specs(499));
    assert!(matches!(other.reply, Some(Err(Refusal::RequestIdReused { .. }))));
    assert_eq!(world.core.count(JobState::Queued), 500);
}

#[test]
fn a_sweeps_jobs_are_told_what_the_grid_says() {
    let mut world = World::with_cpu_agent();
    let output = submit(&mut world, 1, Content::Sweep(sweep()));
    let assigned = |output: &Output| {
        output.commands.iter().find_map(|command| match command {
            trainyard_scheduler_core::Command::Assign { assignment, .. } => Some((**assignment).clone()),
            _ => None,
        })
    };
    let first = assigned(&output).unwrap();
    assert_eq!((first.spec.train.lr0, first.spec.train.seed), (0.01, 1));
    let next = assigned(&world.report(first.attempt, ended(EndReason::Completed))).unwrap();
    assert_eq!((next.spec.train.lr0, next.spec.train.seed), (0.01, 2));
    assert_eq!(next.spec.labels["seed"], "2");
    let id = JobGroupId(Uuid::from_u128(1 << 96));
    assert_eq!(next.spec.labels["sweep"], id.to_string());
    let states = world.core.group_states(world.core.group(id).unwrap());
    assert_eq!(states, [(JobState::Queued, 2), (JobState::Starting, 1), (JobState::Succeeded, 1)].into());
    // Three of four are still as they were submitted; a restart finds all four.
    let loaded = Core::load(CoreConfig::default(), world.now, world.store.stored());
    assert!(loaded.jobs().eq(world.core.jobs()));
}

#[test]
fn cancelling_many_ends_those_that_wait_and_stops_those_that_run() {
    let mut world = World::with_cpu_agent();
    submit(&mut world, 1, Content::Sweep(sweep()));
    let jobs: Vec<_> = world.core.jobs().map(|job| job.id).collect();
    let output = world.handle(Event::CancelMany { jobs: jobs.clone() });
    assert_eq!(commands(&output).len(), 1);
    assert_eq!((world.core.count(JobState::Cancelled), world.core.count(JobState::Starting)), (3, 1));
    let again = world.handle(Event::CancelMany { jobs });
    assert!(matches!(again.reply, Some(Ok(Accepted { repeated: true, .. }))) && again.writes.is_empty());
}

#[test]
fn a_request_id_of_a_group_does_not_serve_for_a_job() {
    let mut world = World::new();
    submit(&mut world, 1, specs(1));
    let request_id = Some("r".to_owned());
    let job = crate::world::job(9);
    let spec: JobSpec = cpu_spec();
    let output = world.handle(Event::Submit { request_id, job, user: "ada".into(), spec });
    assert!(matches!(output.reply, Some(Err(Refusal::RequestIdReused { .. }))));
}
