use trainyard_types::trainer::{BatchSizeChanged, Phase};
use trainyard_types::{Batch, GpuUuid, JobId, ModelScale};
use uuid::Uuid;

use super::*;
use crate::batch::{Wish, choose};

const CARD: &str = "NVIDIA GeForce RTX 5070";

fn attempt(number: u32) -> AttemptId {
    AttemptId { job: JobId(Uuid::from_u128(7)), number }
}

fn run(free_mib: u64) -> Run {
    Run {
        slot: Slot::Gpu(GpuUuid("GPU-1".into())),
        device: CARD.into(),
        load: Load { model: ModelScale::M, imgsz: 640, multi_scale: false, amp: true },
        memory: Memory::Gpu {
            total_mib: 12227,
            free_mib: Some(free_mib),
            reserved_mib: None,
            foreign_mib: None,
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

fn guess(store: &FitStore, run: &Run) -> u32 {
    let wish = Wish {
        memory: run.memory,
        load: run.load,
        batch: Batch::Auto,
        nominal: 64,
        record: store.record(run),
        noted: store.noted(run),
    };
    choose(&wish).batch_size
}

#[test]
fn a_measured_run_makes_the_next_guess_right_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = FitStore::load(folder.path());
    assert!(store.wants_measurement(&run(12000)));
    assert_eq!(guess(&store, &run(12000)), 16, "by the estimate");
    store.begin(attempt(1), run(12000));
    assert!(store.observe(attempt(1), &started()).unwrap());
    assert!(store.observe(attempt(1), &measured()).unwrap());
    assert!(!store.observe(attempt(1), &measured()).unwrap(), "nothing new");
    let store = FitStore::load(folder.path());
    assert!(!store.wants_measurement(&run(12000)));
    assert_eq!(guess(&store, &run(12000)), 24, "300 MiB an image leave room for the table's 24");
    assert_eq!(guess(&store, &run(4000)), 6);
    let record = &store.records()[0];
    assert_eq!((record.key.precision.as_str(), record.key.libtorch.as_str()), ("fp16", "2.13.0"));
    assert_eq!(record.peak_mib(16), 5700);
}

#[test]
fn what_ran_out_of_memory_with_the_card_to_itself_is_never_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = FitStore::load(folder.path());
    for (number, size) in [(1, 24), (2, 16)] {
        store.begin(attempt(number), run(12000));
        store.observe(attempt(number), &started()).unwrap();
        store.observe(attempt(number), &out_of_memory(size)).unwrap();
    }
    assert_eq!(guess(&store, &run(12000)), 12);
    assert_eq!(store.records()[0].failed_batch_size, Some(16));
    assert!(store.wants_measurement(&run(12000)), "an estimate is no measurement");
}

#[test]
fn beside_others_running_out_of_memory_says_what_an_image_takes() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = FitStore::load(folder.path());
    store.begin(attempt(1), run(6000));
    store.observe(attempt(1), &started()).unwrap();
    store.observe(attempt(1), &measured()).unwrap();
    assert_eq!(guess(&store, &run(6000)), 12);
    store.observe(attempt(1), &out_of_memory(12)).unwrap();
    assert_eq!(store.records()[0].failed_batch_size, None);
    assert_eq!(guess(&store, &run(6000)), 8);
    assert_eq!(guess(&store, &run(12000)), 16, "an empty card still takes more");
}

#[test]
fn another_trainer_or_card_has_records_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = FitStore::load(folder.path());
    store.begin(attempt(1), run(12000));
    store.observe(attempt(1), &started()).unwrap();
    store.observe(attempt(1), &measured()).unwrap();
    assert!(store.wants_measurement(&Run { trainer: "4-5-6".into(), ..run(12000) }));
    assert!(store.wants_measurement(&Run { device: "NVIDIA GeForce RTX 4060".into(), ..run(12000) }));
    let other = Slot::Gpu(GpuUuid("GPU-2".into()));
    assert!(!store.wants_measurement(&Run { slot: other, ..run(12000) }), "a second card of the model");
    store.end(attempt(1));
    assert!(!store.observe(attempt(1), &out_of_memory(2)).unwrap());
}

#[test]
fn what_former_versions_remembered_still_counts_and_becomes_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let former = r#"{"GPU-1 yolov8m 640 one-scale amp": 8, "cpu yolov8n 320 one-scale amp": 4}"#;
    fs::write(folder.path().join("batch-limits.json"), former).unwrap();
    let mut store = FitStore::load(folder.path());
    assert_eq!(guess(&store, &run(12000)), 8);
    store.begin(attempt(1), run(12000));
    store.observe(attempt(1), &started()).unwrap();
    assert_eq!(store.records()[0].failed_batch_size, Some(12));
    let store = FitStore::load(folder.path());
    assert_eq!((guess(&store, &run(12000)), store.noted(&run(12000))), (8, None));
    let cpu = Run { slot: Slot::Cpu(1), ..run(12000) };
    let cpu = Run { load: Load { model: ModelScale::N, imgsz: 320, ..cpu.load }, ..cpu };
    assert_eq!(store.noted(&cpu), Some(4));
}

#[test]
fn a_damaged_file_costs_what_it_held_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("fit.json"), "{\"records\": [").unwrap();
    let mut store = FitStore::load(folder.path());
    store.begin(attempt(1), run(12000));
    assert!(store.observe(attempt(1), &started()).unwrap());
    assert!(FitStore::load(folder.path()).record(&run(12000)).is_none());
}
