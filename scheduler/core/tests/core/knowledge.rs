//! The policy `finish-time`: what it knows of GPUs, data sets and users counts where jobs are placed.

use std::time::Duration;

use trainyard_scheduler_core::{AgentStatus, CoreConfig, Hello, Policy, UserLimits};
use trainyard_types::trainer::{Epoch, Started, TrainerEvent};
use trainyard_types::{
    EndReason, Fetching, FitKey, FitRecord, Fitness, Gpu, JobSpec, ModelScale, ReportBody, Resources,
    TrainSpec,
};

use crate::finish_time::{gpu, spec, train, world};
use crate::world::{World, attempt, commands, ended, hello, job};

const HOUR: Duration = Duration::from_secs(3600);

fn world_with(config: CoreConfig) -> World {
    let lease = Duration::from_secs(1_000_000);
    World::with(CoreConfig { policy: Policy::FinishTime, lease, ..config })
}

/// The agent that a job's newest attempt is on.
fn place(world: &World, number: u128) -> &str {
    &world.record(number).attempts.last().unwrap().agent_name
}

#[test]
fn one_free_gpu_draws_one_job_only() {
    let mut world = world(vec![gpu("3060", 0, 12288), gpu("3060", 1, 12288)]);
    for number in [1, 2] {
        world.submit(number, spec(1000));
        train(&mut world, number, 1, 20.0);
    }
    world.connect(hello(2, vec![gpu("4090", 0, 24564)], 0, vec![]));
    assert_eq!(train(&mut world, 1, 2, 20.0).last().unwrap(), "stop 1/1 at 1 PREEMPTED");
    assert_eq!(train(&mut world, 2, 2, 20.0).len(), 1, "the GPU is spoken for");
    // Nor does a job take it that comes meanwhile, although it is free.
    assert_eq!(commands(&world.submit(3, spec(1000))), [""; 0]);
    let output = world.report(attempt(1, 1), ended(EndReason::Preempted));
    assert_eq!(commands(&output)[1], "assign 1/2 to 2");
    let waiting = world.core.waiting(world.now, job(3)).unwrap().reason;
    assert!(waiting.contains("a GeForce RTX 3060 is free, but would take"), "{waiting}");
    world.report(attempt(1, 2), ended(EndReason::Completed));
    assert_eq!(place(&world, 3), "lab-2");
}

#[test]
fn a_job_that_ends_before_it_moves_gives_up_the_gpu() {
    let mut world = world(vec![gpu("3060", 0, 12288)]);
    world.submit(1, spec(1000));
    train(&mut world, 1, 1, 20.0);
    world.connect(hello(2, vec![gpu("4090", 0, 24564)], 0, vec![]));
    train(&mut world, 1, 2, 20.0);
    world.report(attempt(1, 1), ended(EndReason::Completed));
    world.submit(2, spec(1000));
    assert_eq!(place(&world, 2), "lab-2");
}

#[test]
fn who_never_heard_that_it_is_preempted_is_told_again() {
    let gpus = vec![gpu("4090", 0, 24564)];
    let mut world = world(gpus.clone());
    world.submit(1, spec(300));
    train(&mut world, 1, 1, 10.0);
    world.submit(2, spec(3));
    assert_eq!(train(&mut world, 1, 2, 10.0).last().unwrap(), "stop 1/1 at 1 PREEMPTED");
    world.disconnect(1);
    let output = world.connect(hello(1, gpus, 0, vec![attempt(1, 1)]));
    assert!(commands(&output).contains(&"stop 1/1 at 1 PREEMPTED".to_owned()), "{:?}", commands(&output));
}

#[test]
fn starving_jobs_that_no_gpu_can_serve_hide_nobody() {
    let mut world = world_with(CoreConfig { patience: HOUR, ..CoreConfig::default() });
    world.connect(hello(1, vec![gpu("4090", 0, 24564)], 0, vec![]));
    world.submit(1, spec(3000));
    train(&mut world, 1, 1, 10.0);
    let dream = Resources { gpu_models: vec!["H100".into()], ..Resources::default() };
    for number in 100..200 {
        world.submit(number, JobSpec { resources: dream.clone(), ..spec(3) });
    }
    world.submit(2, spec(30));
    world.pass(10 * HOUR);
    world.submit(3, spec(1));
    let output = world.report(attempt(1, 1), ended(EndReason::Completed));
    assert_eq!(commands(&output)[1], "assign 2/1 to 1", "it has waited for as long as it must");
    assert!(world.record(2).attempts[0].choice.as_ref().unwrap().starving);
}

/// Ada has had twenty hours of the only GPU when her short jobs and bob's longer one wait for it. Whose is next?
fn next_after_twenty_hours(config: CoreConfig) -> String {
    let mut world = world_with(config);
    world.connect(hello(1, vec![gpu("4090", 0, 24564)], 0, vec![]));
    world.submit_as("ada", 1, spec(8000));
    train(&mut world, 1, 1, 100.0);
    world.pass(20 * HOUR);
    for number in 2..20 {
        world.submit_as("ada", number, spec(10));
    }
    world.submit_as("bob", 30, spec(50));
    let output = world.report(attempt(1, 1), ended(EndReason::Completed));
    commands(&output)[1].clone()
}

#[test]
fn of_two_users_the_one_who_has_had_it_all_yields_even_with_shorter_jobs() {
    assert_eq!(next_after_twenty_hours(CoreConfig::default()), "assign 30/1 to 1");
}

#[test]
fn a_users_weight_counts() {
    let ada = UserLimits { weight: 20, ..UserLimits::default() };
    let config = CoreConfig { users: [("ada".to_owned(), ada)].into(), ..CoreConfig::default() };
    assert_eq!(next_after_twenty_hours(config), "assign 2/1 to 1");
}

#[test]
fn of_equal_gpus_the_one_is_taken_whose_machine_holds_the_data_set() {
    let mut world = world_with(CoreConfig::default());
    for number in 1..=3 {
        let mut hello = hello(number, vec![gpu("4090", 0, 24564)], 0, vec![]);
        hello.inventory.gpus[0].uuid.0.push_str(&number.to_string());
        if number == 2 {
            let cached_data = vec![("/data/cells.yaml".to_owned(), 640)];
            hello.status = AgentStatus { cached_data, ..AgentStatus::default() };
        }
        world.connect(hello);
    }
    world.submit(1, spec(3));
    assert_eq!((place(&world, 1), world.record(1).attempts[0].warm), ("lab-2", true));
    world.submit(2, spec(3));
    assert_eq!((place(&world, 2), world.record(2).attempts[0].warm), ("lab-1", false));
}

/// An agent that can fetch, with what it holds.
fn fetching(number: u128, gpu: Gpu, held: &[&str]) -> Hello {
    let mut hello = hello(number, vec![gpu], 0, vec![]);
    hello.inventory.gpus[0].uuid.0.push_str(&number.to_string());
    let held = held.iter().map(|version| (*version).to_owned()).collect();
    hello.status.fitness =
        Fitness { data_roots: Some(vec![]), held_versions: Some(held), ..Fitness::default() };
    hello
}

#[test]
fn of_equal_gpus_the_one_is_taken_whose_machine_has_fetched_the_data_set() {
    let id = "3f9a".repeat(16);
    let mut world = world_with(CoreConfig::default());
    for number in 1..=3 {
        let held: &[&str] = if number == 2 { &[&id] } else { &[] };
        world.connect(fetching(number, gpu("4090", 0, 24564), held));
    }
    let mut job = spec(3);
    job.train.data = format!("cells@{id}").into();
    world.submit(1, job.clone());
    assert_eq!(place(&world, 1), "lab-2");
    world.submit(2, job);
    assert_ne!(place(&world, 2), "lab-2");
}

#[test]
fn a_slower_gpu_is_sooner_done_where_the_faster_one_must_fetch_first() {
    let id = "3f9a".repeat(16);
    let mut job = spec(3);
    job.train.data = format!("cells@{id}").into();
    let place_of = |bytes: u64| {
        let mut world = world_with(CoreConfig::default());
        world.connect(fetching(1, gpu("3060", 0, 12288), &[]));
        world.submit(1, job.clone());
        let told = Fetching {
            what: format!("cells@{id}"),
            done_bytes: bytes,
            total_bytes: bytes,
            bytes_per_second: 100e6,
        };
        world.report(attempt(1, 1), ReportBody::Fetching(told));
        world.report(attempt(1, 1), ended(EndReason::Completed));
        let fitness =
            Fitness { data_roots: Some(vec![]), held_versions: Some(vec![id.clone()]), ..Fitness::default() };
        world.beat(1, AgentStatus { fitness, ..AgentStatus::default() });
        world.connect(fetching(2, gpu("4090", 0, 24564), &[]));
        world.submit(2, job.clone());
        place(&world, 2).to_owned()
    };
    assert_eq!(place_of(100 << 20), "lab-2", "a second of fetching is nothing");
    assert_eq!(place_of(500 << 30), "lab-1", "an hour and a half is more than the training takes");
}

#[test]
fn a_machine_that_must_decode_first_is_slower_by_as_much_as_was_seen() {
    let mut world = world(vec![gpu("4090", 0, 24564)]);
    // Cold first epochs took three times as long.
    for number in 1..=20 {
        world.submit(number, spec(3));
        for (epoch, rate) in [(1, 100.0), (2, 300.0)] {
            train(&mut world, number, epoch, rate);
        }
        world.report(attempt(number, 1), ended(EndReason::Completed));
    }
    let mut warm = hello(2, vec![gpu("4090", 1, 24564)], 0, vec![]);
    warm.status.cached_data = vec![("/data/cells.yaml".to_owned(), 640)];
    world.submit(30, spec(3));
    let cold = world.record(30).attempts[0].expected_end.unwrap().since(world.now);
    world.connect(warm);
    world.submit(31, spec(3));
    let warm = world.record(31).attempts[0].expected_end.unwrap().since(world.now);
    let ratio = cold.as_secs_f64() / warm.as_secs_f64();
    assert!((1.5..1.8).contains(&ratio), "an epoch of three counts nearly thrice: {ratio}");
}

#[test]
fn a_gpu_that_was_seen_to_be_too_small_for_one_image_gets_no_such_job() {
    let mut world = world_with(CoreConfig::default());
    let mut train = TrainSpec::new(ModelScale::X, "/data/cells.yaml");
    train.imgsz = 1280;
    let large = JobSpec::new(train);
    let key = FitKey {
        model: ModelScale::X,
        imgsz: 1280,
        multi_scale: false,
        precision: "fp16".into(),
        device: "NVIDIA GeForce RTX 4060".into(),
        libtorch: "2.13.0".into(),
    };
    let record = FitRecord {
        key,
        fixed_mib: 6000,
        per_image_mib: 4000.0,
        validation_mib: 0,
        batch_size: 0,
        failed_batch_size: Some(1),
    };
    let mut small = hello(1, vec![gpu("4060", 0, 8188)], 0, vec![]);
    small.status = AgentStatus { fit_records: vec![record], ..AgentStatus::default() };
    world.connect(hello(2, vec![gpu("4090", 0, 24564)], 0, vec![]));
    world.submit(1, large.clone());
    world.connect(small.clone());
    assert_eq!(commands(&world.submit(2, large.clone())), [""; 0], "it waits for the large GPU");
    assert_eq!(commands(&world.submit(3, spec(3))), ["assign 3/1 to 1"]);
    // Where there is none, its own end tells what would do.
    let mut world = world_with(CoreConfig::default());
    world.connect(small);
    assert_eq!(commands(&world.submit(1, large)), ["assign 1/1 to 1"]);
}

#[test]
fn a_fraction_of_a_data_set_says_how_large_the_whole_is() {
    let mut world = world(vec![gpu("4090", 0, 24564)]);
    let mut part = spec(10);
    part.train.fraction = 0.1;
    world.submit(1, part);
    let started = Started { train_images: 100, epochs: 10, first_epoch: 1, ..Started::default() };
    world.report(attempt(1, 1), ReportBody::Trainer(TrainerEvent::Started(started)));
    for epoch in 1..=2 {
        let seconds = f64::from(epoch);
        let done = Epoch { epoch, epochs: 10, seconds, images_per_second: 100.0, ..Epoch::default() };
        world.report(attempt(1, 1), ReportBody::Trainer(TrainerEvent::Epoch(done)));
    }
    world.submit(2, spec(60));
    let waiting = world.core.waiting(world.now, job(2)).unwrap();
    assert!(waiting.reason.contains("takes about 10 min"), "60 epochs of 1000 images: {}", waiting.reason);
}

#[test]
fn what_was_expected_is_kept_with_the_job() {
    let mut world = world(vec![gpu("4090", 0, 24564)]);
    world.submit(1, spec(360));
    train(&mut world, 1, 1, 100.0);
    train(&mut world, 1, 2, 100.0);
    let submitted = world.now;
    world.submit(2, spec(36));
    let waiting = world.core.waiting(world.now, job(2)).unwrap();
    world.pass(HOUR);
    world.report(attempt(1, 1), ended(EndReason::Completed));
    let estimate = world.record(2).estimate.unwrap();
    assert_eq!(estimate.made, submitted);
    assert_eq!(Some(estimate.start), waiting.estimated_start);
    let minutes = estimate.end.since(estimate.start).as_secs_f64() / 60.0;
    assert!((5.9..6.1).contains(&minutes), "{minutes}");
    assert_eq!(world.core.estimated_end(job(2)), world.record(2).attempts[0].expected_end);
}
