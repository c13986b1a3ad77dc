//! A validation on the GPU: what it finds, what the host waits for, and what is done at the same time.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use simulated_gpu::{Counts, SimulatedGpu};
use tch::Device;
use tempfile::TempDir;
use trainyard_data::{CacheMode, DataYaml, Dataset, ImageStore, OpenOptions, Split, ValConfig, ValLoader};
use trainyard_trainer::libtorch::{self, Precision};
use trainyard_trainer::loss::Gains;
use trainyard_trainer::model::Model;
use trainyard_trainer::train::memory::PhaseTracker;
use trainyard_trainer::train::upload::Uploader;
use trainyard_trainer::train::validate::{ValidationConfig, ValidationDetails, rehearse, validate_in_detail};
use trainyard_types::ModelScale;

use super::{GPU, alone, shapes};

const CLASSES: i64 = 2;
const BATCH: usize = 4;
/// Anchors of an image of 64 pixels, which half a stride more on each side makes 96 wide and high.
const ANCHORS: i64 = 12 * 12 + 6 * 6 + 3 * 3;

struct Bench {
    _folder: TempDir,
    loader: ValLoader,
    tracker: PhaseTracker,
}

impl Bench {
    fn new(batches: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let yaml = DataYaml::read(&shapes::write(folder.path(), batches * BATCH as u32)).unwrap();
        let dataset = Dataset::open(&yaml, Split::Val, &OpenOptions::default()).unwrap();
        let store = Arc::new(ImageStore::new(Arc::new(dataset), shapes::SIDE as usize, CacheMode::None));
        let config = ValConfig { imgsz: shapes::SIDE as usize, batch_size: BATCH, workers: 1, prefetch: 2 };
        Self { _folder: folder, loader: ValLoader::new(store, config), tracker: PhaseTracker::default() }
    }

    /// Validates a model that is the same on every device.
    fn validate(
        &self,
        device: Device,
        precision: Precision,
        show: fn(usize, usize),
    ) -> (ValidationDetails, Counts) {
        tch::manual_seed(0);
        let model = Model::new(ModelScale::N, CLASSES, 0, device);
        let uploader = &Uploader::new(device, precision);
        let config = self.config(precision, uploader, show);
        SimulatedGpu::get().reset();
        let details = validate_in_detail(&model, &self.loader, &config, &AtomicBool::new(false));
        (details.unwrap().unwrap(), SimulatedGpu::get().counts())
    }

    fn config<'a>(
        &'a self,
        precision: Precision,
        uploader: &'a Uploader,
        show: fn(usize, usize),
    ) -> ValidationConfig<'a> {
        let (gains, tracker) = (Gains::default(), &self.tracker);
        ValidationConfig { gains, precision, uploader, most_objects: 1, tracker, show }
    }
}

#[test]
fn a_batch_is_waited_for_once_and_all_that_is_found_is_what_the_cpu_finds_bit_by_bit() {
    let (_gpu, _alone) = alone();
    let bench = Bench::new(3);
    for (precision, bytes) in [
        (Precision::Fp32, 4 * (4 + CLASSES)),
        (Precision::Fp16, 4 * 4 + 2 * CLASSES),
        (Precision::Bf16, 4 * 4 + 2 * CLASSES),
    ] {
        let (on_cpu, _) = bench.validate(Device::Cpu, precision, |_, _| {});
        let (on_gpu, counts) = bench.validate(GPU, precision, |_, _| {});
        assert_eq!(on_gpu.result, on_cpu.result, "{precision:?}");
        let (found, expected) = (format!("{:?}", on_gpu.evaluator), format!("{:?}", on_cpu.evaluator));
        assert!(found == expected, "{precision:?}: other detections");
        // Each batch's predictions, and at the end the three losses.
        assert_eq!(counts.waits_by_cause["cudaEventSynchronize"], 3, "{counts:?}");
        assert_eq!((counts.waits, counts.staged, counts.hazards), (3 + 1, 0, 0), "{counts:?}");
        assert_eq!(counts.downloaded_bytes, 3 * BATCH as i64 * ANCHORS * bytes + 3 * 4, "{precision:?}");
    }
}

#[test]
fn the_next_batch_is_computed_before_the_boxes_of_the_one_before_are_looked_at() {
    static OPERATORS: Mutex<Vec<i64>> = Mutex::new(Vec::new());
    let (_gpu, _alone) = alone();
    let bench = Bench::new(4);
    let show = |_, _| OPERATORS.lock().unwrap().push(SimulatedGpu::get().counts().operators);
    let (_, counts) = bench.validate(GPU, Precision::Fp32, show);
    let each = counts.operators / 4;
    let begun: Vec<i64> = OPERATORS.lock().unwrap().iter().map(|operators| (operators + 10) / each).collect();
    assert_eq!(begun, [2, 3, 4, 4], "{counts:?}");
}

#[test]
fn a_pass_takes_no_more_memory_than_was_measured() {
    let (_gpu, _alone) = alone();
    let bench = Bench::new(4);
    let model = Model::new(ModelScale::N, CLASSES, 0, GPU);
    let uploader = Uploader::new(GPU, Precision::Fp32);
    let config = bench.config(Precision::Fp32, &uploader, |_, _| {});
    let peak = |work: &dyn Fn()| {
        libtorch::memory::reset_peak(GPU).unwrap();
        work();
        libtorch::memory_stats(GPU).unwrap().peak_allocated_bytes
    };
    let batch = bench.loader.pass().next().unwrap().unwrap();
    let measured = peak(&|| rehearse(&model, &batch, &config));
    let pass = peak(&|| {
        validate_in_detail(&model, &bench.loader, &config, &AtomicBool::new(false)).unwrap().unwrap();
    });
    // The sum of the losses is not of a batch.
    assert!(pass <= measured + 512, "{pass} bytes, measured {measured}");
}

#[test]
fn memory_that_runs_out_while_another_batch_is_on_its_way_makes_smaller_parts_and_finds_the_same() {
    let (gpu, _alone) = alone();
    let bench = Bench::new(3);
    let (whole, counts) = bench.validate(GPU, Precision::Fp32, |_, _| {});
    let first = |done, _| {
        if done == 1 {
            SimulatedGpu::get().fail_at(20);
        }
    };
    assert!(counts.allocations > 100, "{counts:?}");
    let (parts, _) = bench.validate(GPU, Precision::Fp32, first);
    gpu.fail_at(0);
    assert_eq!(bench.tracker.take_lowered_validation(), Some((4, 3)));
    assert_eq!(parts.result.metrics, whole.result.metrics);
}
