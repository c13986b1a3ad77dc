//! What is learned from a trainer's events, and what the next batch size makes of it.

use trainyard_types::trainer::{BatchSizeChanged, Epoch, Phase};
use trainyard_types::{Batch, GpuUuid, JobId, ModelScale};
use uuid::Uuid;

use super::*;
use crate::memory::batch_size::{BatchRequest, choose};

const MODEL: &str = "NVIDIA GeForce RTX 5070";

fn attempt(number: u32) -> AttemptId {
    AttemptId { job: JobId(Uuid::from_u128(7)), number }
}

fn run(free_mib: u64) -> FitRun {
    FitRun {
        slot: Slot::Gpu(GpuUuid("GPU-1".into())),
        device: MODEL.into(),
        workload: Workload { model: ModelScale::M, imgsz: 640, multi_scale: false, amp: true },
        memory: DeviceMemory::Gpu {
            total_mib: 12227,
            free_mib: Some(free_mib),
            reserved_mib: None,
            others_mib: None,
        },
        trainer: "1-2-3".into(),
    }
}

fn started() -> TrainerEvent {
    TrainerEvent::Started(Started {
        precision: "fp16".into(),
        libtorch: "2.13.0".into(),
        ..Started::default()
    })
}

fn measured() -> TrainerEvent {
    TrainerEvent::Memory(MemoryMeasured {
        batch_size: 16,
        fixed_mib: 900,
        step_peak_mib: 900 + 16 * 300,
        densest_objects: 40,
        validation_peak_mib: 3000,
        beside_mib: None,
    })
}

fn out_of_memory(from: u32) -> TrainerEvent {
    TrainerEvent::BatchSize(BatchSizeChanged {
        from,
        to: from / 2,
        message: String::new(),
        phase: Phase::Forward,
    })
}

const NOW: Time = Time(1_000_000_000_000);

/// What a trainer tells while others hold what they held when it began.
fn tell(store: &mut FitStore, number: u32, event: &TrainerEvent) -> bool {
    store.observe(NOW, attempt(number), event, None).unwrap()
}

fn guess(store: &FitStore, run: &FitRun) -> u32 {
    guess_at(store, run, NOW)
}

fn guess_at(store: &FitStore, run: &FitRun, now: Time) -> u32 {
    let record = store.record(run, now);
    let request = BatchRequest {
        memory: run.memory,
        workload: run.workload,
        batch: Batch::Auto,
        nominal: 64,
        record: record.as_ref(),
        cuda_state_mib: store.cuda_state_mib(run),
        former_limit: store.former_limit(run),
    };
    choose(&request).batch_size
}

#[test]
fn a_measured_run_makes_the_next_guess_right_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = FitStore::load(folder.path());
    assert!(store.wants_measurement(&run(12000)));
    assert_eq!(guess(&store, &run(12000)), 16, "by the estimate");
    store.begin(attempt(1), run(12000));
    assert!(tell(&mut store, 1, &started()));
    assert!(tell(&mut store, 1, &measured()));
    assert!(!tell(&mut store, 1, &measured()), "nothing new");
    let store = FitStore::load(folder.path());
    assert!(!store.wants_measurement(&run(12000)));
    assert_eq!(guess(&store, &run(12000)), 24, "300 MiB an image leave room for the table's 24");
    assert_eq!(guess(&store, &run(4000)), 6);
    let record = &store.records(NOW)[0];
    assert_eq!((record.key.precision.as_str(), record.key.libtorch.as_str()), ("fp16", "2.13.0"));
    assert_eq!(record.peak_mib(16), 5700);
}

#[test]
fn what_ran_out_of_memory_with_the_gpu_to_itself_is_never_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = FitStore::load(folder.path());
    for (number, size) in [(1, 24), (2, 16)] {
        store.begin(attempt(number), run(12000));
        tell(&mut store, number, &started());
        tell(&mut store, number, &out_of_memory(size));
    }
    assert_eq!(guess(&store, &run(12000)), 12);
    assert_eq!(store.records(NOW)[0].failed_batch_size, Some(16));
    assert!(store.wants_measurement(&run(12000)), "an estimate is no measurement");
}

#[test]
fn beside_others_running_out_of_memory_says_what_an_image_takes() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = FitStore::load(folder.path());
    store.begin(attempt(1), run(6000));
    tell(&mut store, 1, &started());
    tell(&mut store, 1, &measured());
    assert_eq!(guess(&store, &run(6000)), 12);
    tell(&mut store, 1, &out_of_memory(12));
    assert_eq!(store.records(NOW)[0].failed_batch_size, None);
    assert_eq!(guess(&store, &run(6000)), 8);
    assert_eq!(guess(&store, &run(12000)), 16, "an empty GPU still takes more");
}

#[test]
fn what_others_hold_when_memory_runs_out_counts_and_not_what_they_held_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = FitStore::load(folder.path());
    // Another process came while it ran.
    store.begin(attempt(1), run(12000));
    tell(&mut store, 1, &started());
    tell(&mut store, 1, &measured());
    for size in [24, 16, 12, 8, 6, 4, 3, 2] {
        store.observe(NOW, attempt(1), &out_of_memory(size), Some(9000)).unwrap();
    }
    assert_eq!((guess(&store, &run(12000)), store.records(NOW)[0].failed_batch_size), (24, None));
    // One that was there at the start has gone.
    store.begin(attempt(2), run(6000));
    tell(&mut store, 2, &started());
    store.observe(NOW, attempt(2), &out_of_memory(24), Some(100)).unwrap();
    assert_eq!(store.records(NOW)[0].failed_batch_size, Some(24));
}

#[test]
fn a_batch_size_that_failed_is_tried_again_when_it_has_worked_since_or_after_a_week() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = FitStore::load(folder.path());
    let began = |batch_size| match started() {
        TrainerEvent::Started(started) => TrainerEvent::Started(Started { batch_size, ..started }),
        other => other,
    };
    let epoch = TrainerEvent::Epoch(Epoch::default());
    store.begin(attempt(1), run(12000));
    tell(&mut store, 1, &began(12));
    tell(&mut store, 1, &measured());
    tell(&mut store, 1, &out_of_memory(12));
    tell(&mut store, 1, &epoch);
    assert_eq!(guess(&store, &run(12000)), 8, "an epoch with a smaller one says nothing");
    let later = |days: u64| NOW + Duration::from_secs(days * 24 * 3600);
    assert_eq!([6, 7].map(|days| guess_at(&store, &run(12000), later(days))), [8, 24]);
    // Its user asked for it, and it worked.
    store.begin(attempt(2), run(12000));
    tell(&mut store, 2, &began(12));
    assert!(tell(&mut store, 2, &epoch));
    assert_eq!(guess(&FitStore::load(folder.path()), &run(12000)), 24);
}

#[test]
fn another_trainer_or_gpu_has_records_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = FitStore::load(folder.path());
    store.begin(attempt(1), run(12000));
    tell(&mut store, 1, &started());
    tell(&mut store, 1, &measured());
    assert!(store.wants_measurement(&FitRun { trainer: "4-5-6".into(), ..run(12000) }));
    assert!(store.wants_measurement(&FitRun { device: "NVIDIA GeForce RTX 4060".into(), ..run(12000) }));
    let other = Slot::Gpu(GpuUuid("GPU-2".into()));
    assert!(!store.wants_measurement(&FitRun { slot: other, ..run(12000) }), "a second GPU of the model");
    // What ran on a slot before is over when another run begins there.
    store.begin(attempt(2), run(12000));
    assert!(!tell(&mut store, 1, &out_of_memory(2)));
}

#[test]
fn what_former_versions_remembered_still_counts_and_becomes_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let former = r#"{"GPU-1 yolov8m 640 one-scale amp": 8, "cpu yolov8n 320 one-scale amp": 4}"#;
    fs::write(folder.path().join("batch-limits.json"), former).unwrap();
    let mut store = FitStore::load(folder.path());
    assert_eq!(guess(&store, &run(12000)), 8);
    store.begin(attempt(1), run(12000));
    tell(&mut store, 1, &started());
    assert_eq!(store.records(NOW)[0].failed_batch_size, Some(12));
    let store = FitStore::load(folder.path());
    assert_eq!((guess(&store, &run(12000)), store.former_limit(&run(12000))), (8, None));
    let cpu = FitRun { slot: Slot::Cpu(1), ..run(12000) };
    let cpu = FitRun { workload: Workload { model: ModelScale::N, imgsz: 320, ..cpu.workload }, ..cpu };
    assert_eq!(store.former_limit(&cpu), Some(4));
}

#[test]
fn a_damaged_file_costs_what_it_held_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("fit.json"), "{\"records\": [").unwrap();
    let mut store = FitStore::load(folder.path());
    store.begin(attempt(1), run(12000));
    assert!(tell(&mut store, 1, &started()));
    assert!(FitStore::load(folder.path()).record(&run(12000), NOW).is_none());
}

/// A measurement on a GPU of which so much is in use beside the allocator's memory.
fn measured_beside(mib: u64) -> TrainerEvent {
    let TrainerEvent::Memory(measured) = measured() else { panic!("a measurement") };
    TrainerEvent::Memory(MemoryMeasured { beside_mib: Some(mib), ..measured })
}

#[test]
fn what_cuda_takes_is_what_is_in_use_beside_the_allocator_less_what_others_hold() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = FitStore::load(folder.path());
    store.begin(attempt(1), run(12000));
    tell(&mut store, 1, &started());
    let mut seen = |beside, others| {
        store.observe(NOW, attempt(1), &measured_beside(beside), others).unwrap();
        store.cuda_state_mib(&run(12000))
    };
    assert_eq!(seen(980, None), None, "without the others' share nothing is known");
    assert_eq!(seen(980, Some(200)), Some(780));
    assert_eq!(seen(720, Some(0)), Some(720), "the newest counts");
    assert_eq!(seen(500, Some(450)), Some(720), "others have gone meanwhile: CUDA takes more than that");
    assert_eq!(seen(9500, Some(450)), Some(720), "others have come meanwhile: CUDA takes less than that");
    let again = FitStore::load(folder.path());
    assert_eq!(again.cuda_state_mib(&run(12000)), Some(720), "it survives a restart");
    // It is another kind of run's, too, but no other GPU's.
    let other = Workload { model: ModelScale::N, ..run(12000).workload };
    assert_eq!(again.cuda_state_mib(&FitRun { workload: other, ..run(12000) }), Some(720));
    assert_eq!(again.cuda_state_mib(&FitRun { device: "NVIDIA H200".into(), ..run(12000) }), None);
}
