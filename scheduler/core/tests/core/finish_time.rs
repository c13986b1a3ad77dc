//! The policy `finish-time`: who is preempted for whom and when, who is not, and what users are told.

use std::time::Duration;

use trainyard_scheduler_core::{Core, CoreConfig, Policy, Rate, Workload};
use trainyard_types::trainer::{Epoch, Started, TrainerEvent};
use trainyard_types::{
    Checkpoint, EndReason, Gpu, GpuUuid, JobSpec, JobState, ModelScale, ReportBody, Resources, TrainSpec,
};

use crate::world::{World, attempt, commands, ended, hello, job};

const IMAGES: u64 = 1000;

pub fn gpu(model: &str, number: u32, memory_total_mib: u64) -> Gpu {
    Gpu {
        uuid: GpuUuid(format!("GPU-{model}-{number}")),
        index: number,
        model: format!("NVIDIA GeForce RTX {model}"),
        memory_total_mib,
        compute_capability: None,
    }
}

/// One agent with these GPUs; all data sets have [`IMAGES`] images, once a trainer has told.
pub fn world(gpus: Vec<Gpu>) -> World {
    let config = CoreConfig { policy: Policy::FinishTime, ..CoreConfig::default() };
    let mut world = World::with(CoreConfig { lease: Duration::from_secs(1_000_000), ..config });
    world.connect(hello(1, gpus, 0, vec![]));
    world
}

pub fn spec(epochs: u32) -> JobSpec {
    let mut train = TrainSpec::new(ModelScale::S, "/data/cells.yaml");
    train.epochs = epochs;
    JobSpec::new(train)
}

/// The newest attempt's trainer starts, and has done `epoch` of its epochs at so many images a second.
pub fn train(world: &mut World, number: u128, epoch: u32, rate: f64) -> Vec<String> {
    let epochs = world.record(number).spec.train.epochs;
    let id = attempt(number, u32::try_from(world.record(number).attempts.len()).unwrap());
    if world.record(number).state == JobState::Starting {
        let started = Started { train_images: IMAGES, epochs, first_epoch: 1, ..Started::default() };
        world.report(id, ReportBody::Trainer(TrainerEvent::Started(started)));
    }
    let seconds = f64::from(epoch) * IMAGES as f64 / rate;
    let done = Epoch { epoch, epochs, seconds, images_per_second: rate, ..Epoch::default() };
    world.report(id, ReportBody::Trainer(TrainerEvent::Epoch(done)));
    let checkpoint = Checkpoint { step: u64::from(epoch), epoch, files: vec![] };
    commands(&world.report(id, ReportBody::CheckpointStored(checkpoint)))
}

#[test]
fn a_long_job_is_preempted_for_a_much_shorter_one_after_a_checkpoint_and_then_goes_on() {
    let mut world = world(vec![gpu("4090", 0, 24564)]);
    world.submit(1, spec(300));
    assert_eq!(train(&mut world, 1, 1, 10.0), ["ack 1/1 #3 to 1"], "nobody waits");
    assert_eq!(commands(&world.submit(2, spec(3))), [""; 0], "work since the checkpoint would be lost");
    let waiting = world.core.waiting(world.now, job(2)).unwrap();
    assert_eq!(waiting.reason, "waits for a GeForce RTX 4090, where it takes about 5 min");
    assert_eq!(train(&mut world, 1, 2, 10.0), ["ack 1/1 #5 to 1", "stop 1/1 at 1 PREEMPTED"]);
    let reason = &world.record(1).state_reason;
    assert!(
        reason.starts_with("is preempted for job ") && reason.ends_with("which takes about 5 min here"),
        "{reason}"
    );
    assert_eq!(train(&mut world, 1, 3, 10.0), ["ack 1/1 #7 to 1"], "it has been told");
    let output = world.report(attempt(1, 1), ended(EndReason::Preempted));
    assert_eq!(commands(&output), ["ack 1/1 #8 to 1", "assign 2/1 to 1"]);
    assert_eq!((world.record(1).state, world.record(1).crashes), (JobState::Queued, 0));
    let history = world.history(2);
    assert!(history[2].contains("was preempted for it"), "{history:?}");
    train(&mut world, 2, 3, 10.0);
    let output = world.report(attempt(2, 1), ended(EndReason::Completed));
    assert_eq!(commands(&output), ["ack 2/1 #4 to 1", "assign 1/2 to 1"]);
    assert_eq!(world.record(1).checkpoint.as_ref().unwrap().epoch, 3);
}

#[test]
fn a_job_that_was_preempted_is_left_alone_until_it_has_run_for_hours() {
    let mut world = world(vec![gpu("4090", 0, 24564), gpu("4090", 1, 24564)]);
    world.submit(1, spec(3000));
    world.submit(9, spec(3000));
    train(&mut world, 9, 1, 10.0);
    train(&mut world, 1, 1, 10.0);
    world.submit(2, spec(3));
    assert_eq!(train(&mut world, 1, 2, 10.0).len(), 2);
    world.report(attempt(1, 1), ended(EndReason::Preempted));
    train(&mut world, 2, 3, 10.0);
    world.report(attempt(2, 1), ended(EndReason::Completed));
    train(&mut world, 1, 3, 10.0);
    // The other long job is told next, so that this one would not be the same twice in a row.
    world.submit(3, spec(3));
    assert_eq!(train(&mut world, 9, 2, 10.0).len(), 2);
    world.report(attempt(9, 1), ended(EndReason::Preempted));
    world.submit(4, spec(3));
    world.pass(Duration::from_secs(2 * 3600));
    assert_eq!(train(&mut world, 1, 4, 10.0).len(), 1, "two hours are too early");
    world.pass(Duration::from_secs(2 * 3600));
    assert_eq!(train(&mut world, 1, 5, 10.0).len(), 2, "four are not");
}

#[test]
fn nobody_is_preempted_when_another_free_gpu_would_do() {
    let mut world = world(vec![gpu("4090", 0, 24564), gpu("4090", 1, 24564)]);
    world.submit(1, spec(300));
    train(&mut world, 1, 1, 10.0);
    assert_eq!(commands(&world.submit(2, spec(3))), ["assign 2/1 to 1"]);
    assert_eq!(train(&mut world, 1, 2, 10.0).len(), 1);
}

#[test]
fn a_job_moves_to_a_much_faster_gpu_that_comes() {
    let mut world = world(vec![gpu("3060", 0, 12288)]);
    world.submit(1, spec(1000));
    train(&mut world, 1, 1, 20.0);
    world.connect(hello(2, vec![gpu("4090", 0, 24564)], 0, vec![]));
    assert_eq!(train(&mut world, 1, 2, 20.0).last().unwrap(), "stop 1/1 at 1 PREEMPTED");
    let reason = &world.record(1).state_reason;
    assert_eq!(reason, "moves to a GeForce RTX 4090, which is free and faster");
    let output = world.report(attempt(1, 1), ended(EndReason::Preempted));
    assert_eq!(commands(&output).last().unwrap(), "assign 1/2 to 2");
}

#[test]
fn a_job_for_the_large_gpu_alone_gets_it_and_the_small_job_takes_the_other() {
    let mut world = world(vec![gpu("4090", 0, 24564), gpu("5070", 1, 12227)]);
    world.submit(1, spec(300));
    train(&mut world, 1, 1, 100.0);
    let large = JobSpec { resources: Resources { min_vram_mib: 20480, ..Resources::default() }, ..spec(10) };
    assert_eq!(commands(&world.submit(2, large)), [""; 0]);
    // The first one's GPU is wanted by nobody else, and it is the only one for the second.
    assert_eq!(train(&mut world, 1, 2, 100.0).last().unwrap(), "stop 1/1 at 1 PREEMPTED");
    let output = world.report(attempt(1, 1), ended(EndReason::Preempted));
    assert_eq!(world.record(2).attempts[0].device, "NVIDIA GeForce RTX 4090", "{:?}", commands(&output));
    assert_eq!(world.record(1).attempts[1].device, "NVIDIA GeForce RTX 5070");
}

#[test]
fn what_users_call_their_jobs_changes_nothing() {
    let run = |label: &str| {
        let mut world = world(vec![gpu("4090", 0, 24564), gpu("5070", 1, 12227)]);
        let mut told = Vec::new();
        for number in 1..8 {
            let epochs = 400 / u32::try_from(number).unwrap();
            let mut spec = JobSpec { name: label.to_owned(), ..spec(epochs) };
            spec.labels.insert("size".into(), label.into());
            told.push(commands(&world.submit(number, spec)));
        }
        for epoch in 1..4 {
            told.push(train(&mut world, 1, epoch, 50.0));
        }
        told
    };
    assert_eq!(run("tiny, urgent"), run("huge"));
}

#[test]
fn rates_are_learned_stored_and_known_after_a_restart() {
    let mut world = world(vec![gpu("4090", 0, 24564)]);
    world.submit(1, spec(300));
    train(&mut world, 1, 1, 123.0);
    let workload = Workload { model: ModelScale::S, imgsz: 640, amp: true, gpus: 1 };
    let known = |core: &Core| -> Vec<(Workload, String, f64)> {
        let rate = |(of, device, rate): (Workload, &str, Rate)| {
            (of, device.to_owned(), rate.images_per_second.round())
        };
        core.rates().map(rate).collect()
    };
    let expected: Vec<_> = vec![(workload, "NVIDIA GeForce RTX 4090".to_owned(), 123.0)];
    assert_eq!(known(&world.core), expected);
    let config = CoreConfig { policy: Policy::FinishTime, ..CoreConfig::default() };
    let again = Core::load(config, world.now, world.store.stored());
    assert_eq!(known(&again), expected);
}
