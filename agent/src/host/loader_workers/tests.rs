//! How many loader workers a job gets at its start, and how their number changes.

use trainyard_types::ModelScale;

use super::*;

fn train() -> TrainSpec {
    TrainSpec::new(ModelScale::N, "/d.yaml")
}

fn workers(plan: &LoaderPlan) -> (u32, u32) {
    (plan.workers, plan.most_workers)
}

#[test]
fn a_large_machine_takes_the_spec_and_leaves_room_to_grow() {
    let plan = plan(&train(), 32, 64_000, 16, None);
    assert_eq!((workers(&plan), plan.notes.len()), ((8, 32), 0));
}

#[test]
fn workers_are_as_many_as_memory_has_room_for_and_the_user_is_told() {
    let plan = plan(&train(), 32, 3000, 16, None);
    assert_eq!(workers(&plan), (8, 18), "{plan:?}");
    let small = super::plan(&train(), 32, 2200, 16, None);
    assert_eq!(workers(&small), (2, 2), "{small:?}");
    assert_eq!(
        small.notes,
        [
            "Workers: 2 instead of 8, because 2200 MiB of main memory are available and each takes about 39 MiB at \
          640 px"
        ]
    );
    assert_eq!(super::plan(&train(), 32, 100, 16, None).workers, 1, "one is tried in any case");
}

#[test]
fn after_a_kill_there_are_half_the_workers_and_no_cache_in_memory() {
    let spec = TrainSpec { cache: Cache::Ram, ..train() };
    let killed = HostOomRecord { workers: 6, batch_size: 16 };
    let plan = plan(&spec, 32, 64_000, 16, Some(killed));
    assert_eq!((workers(&plan), plan.cache), ((3, 3), Cache::Disk));
    assert!(plan.notes[0].contains("with 6 workers"), "{plan:?}");
    let again = super::plan(&spec, 32, 64_000, 16, Some(HostOomRecord { workers: 1, ..killed }));
    assert_eq!(again.workers, 1);
}

#[test]
fn who_loads_on_the_training_thread_goes_on_doing_so() {
    let spec = TrainSpec { workers: 0, ..train() };
    assert_eq!(workers(&plan(&spec, 32, 64_000, 16, None)), (0, 0));
}

fn host(idle_ratio: f64) -> HostReading {
    HostReading { idle_ratio, ..HostReading::default() }
}

/// Feeds a position a second for `seconds` from `from` on; returns the changes.
fn feed(tuner: &mut WorkerTuner, from: u64, seconds: u64, wait: f64, idle: f64) -> Vec<(u64, u32)> {
    let step = |second| Some((second, tuner.on_step(Time(second * 1000), wait, &host(idle))?.workers));
    (from..from + seconds).filter_map(step).collect()
}

#[test]
fn while_the_device_waits_workers_are_added_up_to_the_limit() {
    let mut tuner = WorkerTuner::new(4, 10);
    assert_eq!(feed(&mut tuner, 0, 21, 0.5, 0.8), [(20, 6)]);
    assert_eq!(feed(&mut tuner, 21, 21, 0.3, 0.6), [(41, 9)]);
    assert_eq!(feed(&mut tuner, 42, 21, 0.2, 0.5), [(62, 10)]);
    assert_eq!(feed(&mut tuner, 63, 300, 0.15, 0.5), [], "the limit");
}

#[test]
fn workers_that_do_not_help_are_given_back_and_not_tried_again_for_long() {
    let mut tuner = WorkerTuner::new(4, 10);
    assert_eq!(feed(&mut tuner, 0, 21, 0.5, 0.8), [(20, 6)]);
    assert_eq!(feed(&mut tuner, 21, 21, 0.5, 0.8), [(41, 4)]);
    assert_eq!(feed(&mut tuner, 42, 1700, 0.5, 0.8), []);
    assert_eq!(feed(&mut tuner, 1742, 200, 0.5, 0.8)[0].1, 6);
}

#[test]
fn neither_busy_processors_nor_a_device_that_hardly_waits_add_workers() {
    assert_eq!(feed(&mut WorkerTuner::new(4, 10), 0, 300, 0.9, 0.05), []);
    assert_eq!(feed(&mut WorkerTuner::new(4, 10), 0, 300, 0.08, 0.9), []);
    assert_eq!(feed(&mut WorkerTuner::new(0, 0), 0, 300, 0.9, 0.9), []);
}

#[test]
fn a_few_positions_far_apart_say_nothing() {
    let mut tuner = WorkerTuner::new(4, 10);
    for second in [0, 30, 60, 90] {
        assert_eq!(tuner.on_step(Time(second * 1000), 0.9, &host(0.9)), None);
    }
}

#[test]
fn pressure_halves_the_workers_down_to_one_and_they_do_not_come_back() {
    let mut tuner = WorkerTuner::new(9, 16);
    let halves: Vec<u32> = std::iter::from_fn(|| tuner.on_pressure()).map(|change| change.workers).collect();
    assert_eq!(halves, [4, 2, 1]);
    assert_eq!(feed(&mut tuner, 0, 300, 0.9, 0.9), []);
    tuner.on_workers(1);
    assert_eq!(tuner.workers(), 1);
}
