//! Speed of the data path on this machine, one line `name value unit` each. Everything runs on one
//! thread but the last figure.

use std::hint::black_box;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::{ImageFormat, Rgb, RgbImage};
use trainyard_trainer::data::{
    AugmentConfig, CacheMode, DataYaml, Dataset, EpochPlan, ImageStore, LoaderConfig, OpenOptions, Split,
    TrainLoader, decode, letterbox,
};
use trainyard_trainer::eval::{NmsConfig, suppress};
use trainyard_types::model::ModelScale;
use trainyard_types::train::TrainSpec;

const IMGSZ: usize = 640;
const IMAGES: u32 = 64;

fn main() {
    let folder = std::env::temp_dir().join(format!("trainyard-bench-{}", std::process::id()));
    let dataset = Arc::new(write_data_set(&folder));
    bench_decode(&dataset);
    bench_loader(&dataset, &folder);
    bench_nms();
    std::fs::remove_dir_all(&folder).expect("the bench made it");
}

/// Prints how often `work` runs in a second of this thread's wall time; the best of three runs.
fn rate(name: &str, unit: &str, mut work: impl FnMut()) {
    work();
    let mut best: f64 = 0.0;
    for _ in 0..3 {
        let (start, mut done) = (Instant::now(), 0_u32);
        while start.elapsed() < Duration::from_millis(700) {
            work();
            done += 1;
        }
        best = best.max(f64::from(done) / start.elapsed().as_secs_f64());
    }
    println!("{name} {best:.1} {unit}");
}

/// Photographs in size and compressibility: smooth shapes with some noise, 640 x 480.
fn photograph(number: u32) -> RgbImage {
    let mut noise = number.wrapping_mul(2_654_435_761) | 1;
    RgbImage::from_fn(640, 480, |x, y| {
        noise ^= noise << 13;
        noise ^= noise >> 17;
        noise ^= noise << 5;
        let wave = |scale: f32, phase: f32| {
            let angle = (x as f32 + number as f32 * 9.0) / scale + y as f32 / (scale * 1.7) + phase;
            (angle.sin() * 90.0 + 120.0 + (noise % 16) as f32) as u8
        };
        Rgb([wave(41.0, 0.0), wave(57.0, 1.0), wave(73.0, 2.0)])
    })
}

fn write_data_set(folder: &Path) -> Dataset {
    for split in ["images", "labels"] {
        std::fs::create_dir_all(folder.join(split)).expect("the temporary folder is writable");
    }
    for number in 0..IMAGES {
        let mut bytes = Cursor::new(Vec::new());
        photograph(number).write_to(&mut bytes, ImageFormat::Jpeg).expect("memory takes any image");
        std::fs::write(folder.join(format!("images/{number}.jpg")), bytes.into_inner()).expect("as above");
        let boxes: String = (1..9).map(|k| format!("0 0.{k} 0.5 0.1 0.2\n")).collect();
        std::fs::write(folder.join(format!("labels/{number}.txt")), boxes).expect("as above");
    }
    let yaml = folder.join("data.yaml");
    std::fs::write(&yaml, "train: images\nval: images\nnames: [thing]\n").expect("as above");
    let yaml = DataYaml::read(&yaml).expect("it was just written");
    Dataset::open(&yaml, Split::Train, &OpenOptions::default()).expect("it was just written")
}

fn bench_decode(dataset: &Dataset) {
    let files: Vec<Vec<u8>> =
        dataset.items.iter().map(|item| std::fs::read(&item.path).expect("just written")).collect();
    let mut next = 0;
    rate("decode_jpeg_640x480", "images/s", || {
        next = (next + 1) % files.len();
        black_box(decode::decode(&files[next]).expect("a good JPEG"));
    });
    let image = decode::decode(&files[0]).expect("a good JPEG");
    rate("resize_640x480_to_416", "images/s", || {
        black_box(letterbox::load_resize(image.clone(), 416));
    });
}

fn bench_loader(dataset: &Arc<Dataset>, folder: &Path) {
    let spec = TrainSpec::new(ModelScale::N, "/data.yaml");
    let disk = |name: &str| CacheMode::Disk { directory: PathBuf::from(folder).join(name) };
    let no_colour = AugmentConfig { hsv_h: 0.0, hsv_s: 0.0, hsv_v: 0.0, ..AugmentConfig::from(&spec) };
    let rotated = AugmentConfig { degrees: 10.0, ..AugmentConfig::from(&spec) };
    let ram = CacheMode::Ram { budget_bytes: 1 << 30 };
    for (name, mode, augment, workers) in [
        ("loader_mosaic_640_ram", ram.clone(), AugmentConfig::from(&spec), 0),
        ("loader_mosaic_640_ram_no_hsv", ram.clone(), no_colour, 0),
        ("loader_mosaic_640_ram_rotated", ram.clone(), rotated, 0),
        ("loader_mosaic_640_disk", disk("cache"), AugmentConfig::from(&spec), 0),
        ("loader_mosaic_640_uncached", CacheMode::None, AugmentConfig::from(&spec), 0),
        ("loader_mosaic_640_ram_2_workers", ram, AugmentConfig::from(&spec), 2),
    ] {
        let store = Arc::new(ImageStore::new(Arc::clone(dataset), IMGSZ, mode));
        let config = LoaderConfig { imgsz: IMGSZ, workers, prefetch: 2, seed: 1, augment };
        let loader = TrainLoader::new(store, config);
        // The first pass fills the cache.
        let mut epoch = 0;
        let mut pass = || {
            epoch += 1;
            let plan = EpochPlan { epoch, batch_size: 16, first_sample: 0, mosaic: true };
            loader.epoch(&plan).map(|batch| batch.expect("all images are good").n).sum::<usize>()
        };
        pass();
        let mut best: f64 = 0.0;
        for _ in 0..3 {
            let start = Instant::now();
            let made = pass();
            best = best.max(made as f64 / start.elapsed().as_secs_f64());
        }
        println!("{name} {best:.1} images/s");
    }
}

/// An untrained model's output at 640: thousands of weak candidates everywhere.
fn bench_nms() {
    let (classes, anchors) = (80, 8400);
    let mut state = 1_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let mut pred = Vec::with_capacity((4 + classes) * anchors);
    pred.extend((0..2 * anchors).map(|_| random() * 640.0));
    pred.extend((0..2 * anchors).map(|_| 8.0 + random() * 200.0));
    pred.extend((0..classes * anchors).map(|_| random().powi(16)));
    rate("nms_validation_80_classes_8400_anchors", "images/s", || {
        black_box(suppress(&pred, classes, anchors, &NmsConfig::validation()));
    });
}
