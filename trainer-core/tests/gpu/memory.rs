//! A GPU's memory: copied to aside, measured, running out, and free again.

use tch::{Kind, Tensor};
use trainyard_trainer::libtorch;
use trainyard_trainer::libtorch::copies::{Copier, pinned};
use trainyard_types::trainer::{MemoryMeasured, Phase, TrainerEvent, exit_code};
use trainyard_types::{Batch, TrainSpec};

use super::golden::{CPU, alone};
use super::{epochs, gpu, shapes, sized, train};

/// What the GPU may have in the test of running out, in MiB: enough for one image, far too little for 64.
fn small_gpu_mib() -> u64 {
    sized(3072, 90)
}

/// A share of the GPU's memory, as libtorch's allocator is told of it.
fn share(mib: u64) -> [(&'static str, String); 2] {
    let total = libtorch::memory_stats(gpu()).unwrap().total_bytes >> 20;
    let share = format!("per_process_memory_fraction:{:.4}", (mib as f64 / total as f64).min(1.0));
    [("PYTORCH_CUDA_ALLOC_CONF", share.clone()), ("PYTORCH_ALLOC_CONF", share)]
}

/// Many images at once, of which few fit.
fn large(data: &std::path::Path) -> TrainSpec {
    let spec = shapes::spec(data, 1);
    let (imgsz, batch) = sized((640, 64), (64, 24));
    TrainSpec { imgsz, batch: Batch::Size(batch), amp: sized(true, false), ..spec }
}

/// Every change of the batch size, and where it was made.
fn changes(events: &[TrainerEvent]) -> Vec<(u32, u32, Phase)> {
    let change = |event: &TrainerEvent| match event {
        TrainerEvent::BatchSize(change) => Some((change.from, change.to, change.phase)),
        _ => None,
    };
    events.iter().filter_map(change).collect()
}

#[test]
fn page_locked_copies_aside_bring_the_same_bytes_and_the_allocator_tells_its_peak() {
    let _alone = alone();
    let gpu = gpu();
    libtorch::memory::reset_peak(gpu).unwrap();
    let bytes = 64 << 20;
    let mut locked = pinned(bytes).unwrap();
    locked.copy_(&Tensor::arange(bytes as i64, (Kind::Int64, CPU)).remainder(251));
    let copier = Copier::new(gpu).unwrap();
    for _ in 0..3 {
        let sent = copier.send(&[&locked]).unwrap();
        // The GPU has something to do meanwhile.
        let _ = Tensor::rand([1024, 1024], (Kind::Float, gpu))
            .matmul(&Tensor::rand([1024, 1024], (Kind::Float, gpu)));
        let there = copier.receive(sent).unwrap().remove(0);
        assert!(there.to_device(CPU).equal(&locked));
    }
    let stats = libtorch::memory_stats(gpu).unwrap();
    assert!(stats.peak_allocated_bytes >= bytes as u64 && stats.total_bytes > stats.free_bytes, "{stats:?}");
    libtorch::memory::release(gpu).unwrap();
    let after = libtorch::memory_stats(gpu).unwrap();
    assert!(after.reserved_bytes < stats.reserved_bytes, "{after:?}");
}

#[test]
fn a_gpu_whose_memory_really_runs_out_gets_a_smaller_batch_and_the_run_ends_well() {
    let _alone = alone();
    gpu();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), sized(64, 24));
    let spec = large(&data);
    let (code, events) = train(&spec, &folder.path().join("run"), &share(small_gpu_mib()));
    assert_eq!(code, exit_code::DONE, "{events:?}");
    let changes = changes(&events);
    assert!(changes.first().is_some_and(|first| Batch::Size(first.0) == spec.batch), "{events:?}");
    // Validation looks at fewer images at once, and training goes on as it was.
    let is_smaller = |(from, to, phase): &(u32, u32, Phase)| to < from || *phase == Phase::Validation;
    assert!(changes.iter().all(is_smaller), "{changes:?}");
    assert_eq!(epochs(&events).len(), 1);
}

#[test]
fn a_gpu_that_is_nearly_full_of_somebody_elses_memory_gets_smaller_batches_in_the_same_process() {
    let _alone = alone();
    if sized(false, true) {
        eprintln!("NOT REHEARSED: processes do not share a simulated GPU");
        return;
    }
    let device = gpu();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), 64);
    let free = libtorch::memory_stats(device).unwrap().free_bytes;
    // This process takes all but what some images need; the trainer is another one.
    let taken = free.saturating_sub(small_gpu_mib() << 20);
    let held = Tensor::zeros([taken as i64], (Kind::Uint8, device));
    let (code, events) = train(&large(&data), &folder.path().join("run"), &[]);
    drop(held);
    libtorch::memory::release(device).unwrap();
    assert_eq!(code, exit_code::DONE, "{events:?}");
    let changes = changes(&events);
    assert!(changes.iter().any(|(from, to, _)| to < from), "{events:?}");
    // Known before the first batch, and not later.
    assert!(changes.iter().all(|(_, _, phase)| *phase != Phase::Backward), "{changes:?}");
}

#[test]
fn memory_is_measured_by_the_allocators_peak_and_holds_for_the_run() {
    let _alone = alone();
    gpu();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), sized(32, 16));
    let sizes = sized([4, 32], [2, 8]);
    let spec = |batch: u32, epochs: u32| TrainSpec {
        imgsz: sized(320, 64),
        batch: Batch::Size(batch),
        mosaic: 1.0,
        amp: sized(true, false),
        ..shapes::spec(&data, epochs)
    };
    let measured = |batch: u32| -> MemoryMeasured {
        let (code, events) = train(&spec(batch, 1), &folder.path().join(format!("run{batch}")), &[]);
        assert_eq!(code, exit_code::DONE, "{events:?}");
        let found = events.into_iter().find_map(|event| match event {
            TrainerEvent::Memory(measured) => Some(measured),
            _ => None,
        });
        found.expect("a GPU is always measured")
    };
    let (small, large) = (measured(sizes[0]), measured(sizes[1]));
    println!("{small:?} {large:?}");
    for measured in [&small, &large] {
        assert!(measured.fixed_mib > 0 && measured.step_peak_mib > measured.fixed_mib, "{measured:?}");
        assert!(measured.validation_peak_mib > 0 && measured.densest_objects > 0, "{measured:?}");
    }
    assert!(large.step_peak_mib > small.step_peak_mib, "{large:?}, but {small:?}");

    // What was measured is enough: with it, and what CUDA itself takes, nothing runs out.
    let room = large.step_peak_mib.max(large.validation_peak_mib) + 512;
    let (code, events) = train(&spec(sizes[1], 2), &folder.path().join("enough"), &share(room));
    assert_eq!(code, exit_code::DONE);
    assert!(changes(&events).is_empty(), "{events:?}");
}
