//! What the loader costs a training: steps of yolov8n at 320 pixels, batch 16, 32 bits, on two threads of this
//! machine's CPU, fed from a warm disk cache by two more, against the same steps with one batch that is there
//! already. The cores are shared, so the loader's work itself shows, too. One line `name value unit` each.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tch::{Device, Kind};
use trainyard_data::cache::disk::{CacheDir, Limits};
use trainyard_data::{
    AugmentConfig, Batch, Batches, CacheMode, DataYaml, Dataset, EpochPlan, ImageStore, LoaderConfig,
    OpenOptions, Split, TrainLoader,
};
use trainyard_trainer::libtorch::{self, Precision};
use trainyard_trainer::loss::Gains;
use trainyard_trainer::model::Model;
use trainyard_trainer::optim::{Rule, Schedule};
use trainyard_trainer::train::batch_tensors::BatchTensors;
use trainyard_trainer::train::state::TrainState;
use trainyard_types::{ModelScale, TrainSpec};

const BATCH: usize = 16;
const IMGSZ: usize = 320;
const IMAGES: usize = 128;
/// Steps that are timed, of each kind.
const STEPS: usize = 8;
const THREADS: i32 = 2;
const BCCD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bccd-mini");

fn main() {
    let _ = libtorch::load_cuda();
    tch::set_num_threads(THREADS);
    tch::manual_seed(0);
    let folder = std::env::temp_dir().join(format!("trainyard-fed-step-{}", std::process::id()));
    let spec = TrainSpec {
        imgsz: IMGSZ as u32,
        nbs: BATCH as u32,
        warmup_epochs: 0.0,
        ..TrainSpec::new(ModelScale::N, "/")
    };
    let loader = loader(&spec, &folder);
    let model = Model::new(spec.model, 3, 0, Device::Cpu);
    let mut trainer =
        TrainState::new(model, Rule::Sgd, Schedule::new(&spec, 1600, 16), Gains::default(), Precision::Fp32);
    // Fills the cache.
    let mut last = None;
    for batch in pass(&loader, 0) {
        last = Some(batch.expect("all images are good"));
    }
    let constant = last.expect("an epoch has batches");
    (0..2).for_each(|_| step(&mut trainer, &constant));
    // By turns, as others may use the machine meanwhile.
    let (mut with_constant, mut fed, mut waited) = (f64::INFINITY, f64::INFINITY, 0.0);
    for epoch in 1..4 {
        let start = Instant::now();
        (0..STEPS).for_each(|_| step(&mut trainer, &constant));
        with_constant = with_constant.min(start.elapsed().as_secs_f64());
        let mut batches = pass(&loader, epoch);
        // The first batch is waited for; what follows is made while the model learns.
        step(&mut trainer, &batches.next().expect("as above").expect("as above"));
        let (start, before) = (Instant::now(), batches.waited());
        for batch in batches.by_ref().take(STEPS - 1) {
            step(&mut trainer, &batch.expect("as above"));
        }
        let seconds = start.elapsed().as_secs_f64() * STEPS as f64 / (STEPS - 1) as f64;
        if seconds < fed {
            fed = seconds;
            waited = (batches.waited() - before).as_secs_f64() / start.elapsed().as_secs_f64();
        }
    }
    let images = (STEPS * BATCH) as f64;
    println!("step_yolov8n_320_b16_constant_batch {:.2} images/s", images / with_constant);
    println!("step_yolov8n_320_b16_with_loader {:.2} images/s", images / fed);
    println!("step_yolov8n_320_b16_waited_for_loader {waited:.4} share");
    std::fs::remove_dir_all(&folder).expect("the bench made it");
}

fn step(trainer: &mut TrainState, batch: &Batch) {
    let BatchTensors { images, targets } = BatchTensors::new(batch, Device::Cpu, Kind::Float);
    trainer.forward_backward(&images, &targets);
    trainer.step(1);
}

fn pass(loader: &TrainLoader, epoch: u32) -> Batches {
    loader.epoch(&EpochPlan { epoch, batch_size: BATCH, first_sample: 0, mosaic: true })
}

/// A disk cache that takes what it needs, however full the disk is: a figure without it would mislead.
fn on_disk(directory: PathBuf) -> CacheMode {
    CacheMode::Disk(CacheDir {
        directory,
        limits: Limits { quota_bytes: Some(u64::MAX), floor_bytes: Some(0) },
    })
}

/// The few real photographs in the repository, again and again, in a disk cache.
fn loader(spec: &TrainSpec, folder: &Path) -> TrainLoader {
    let mut files: Vec<PathBuf> = std::fs::read_dir(Path::new(BCCD).join("images"))
        .expect("it is in the repository")
        .map(|entry| entry.expect("as above").path())
        .collect();
    files.sort();
    for part in ["images", "labels"] {
        std::fs::create_dir_all(folder.join(part)).expect("the temporary folder is writable");
    }
    for number in 0..IMAGES {
        let file = &files[number % files.len()];
        std::fs::copy(file, folder.join(format!("images/{number}.jpg"))).expect("as above");
        let label = "0 0.3 0.5 0.1 0.2\n1 0.6 0.4 0.2 0.2\n";
        std::fs::write(folder.join(format!("labels/{number}.txt")), label).expect("as above");
    }
    let yaml = folder.join("data.yaml");
    std::fs::write(&yaml, "train: images\nval: images\nnames: [a, b, c]\n").expect("as above");
    let yaml = DataYaml::read(&yaml).expect("it was just written");
    let dataset = Dataset::open(&yaml, Split::Train, &OpenOptions::default()).expect("it was just written");
    let mode = on_disk(folder.join("cache"));
    let store = Arc::new(ImageStore::new(Arc::new(dataset), IMGSZ, mode));
    let augment = AugmentConfig::from(spec);
    TrainLoader::new(store, LoaderConfig { imgsz: IMGSZ, workers: 2, prefetch: 4, seed: 1, augment })
}
