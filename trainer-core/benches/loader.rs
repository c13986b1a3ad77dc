//! Speed and size of the data path on this machine, one line `name value unit` each.
//!
//! `per_core` is images per second of CPU time of the one thread that makes them, which other load on the
//! machine does not change much; `2_threads` is by the clock. `TRAINYARD_BENCH_IMAGES` may name a folder of images, all
//! of which are used then instead of the few photographs in the repository.

use std::hint::black_box;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::{ImageFormat, Rgb, RgbImage};
use trainyard_data::cache::disk::{self, CacheDir, Limits};
use trainyard_data::resample::resize;
use trainyard_data::{
    AugmentConfig, CacheMode, DataYaml, Dataset, EpochPlan, ImageStore, LoaderConfig, MosaicTiles,
    OpenOptions, RamBudget, Split, TrainLoader, decode,
};
use trainyard_trainer::eval::{NmsConfig, suppress};
use trainyard_types::model::ModelScale;
use trainyard_types::train::TrainSpec;

const IMGSZ: usize = 640;
/// So many that their pixels, 450 MiB, fit in few processors' caches.
const IMAGES: usize = 512;
const BCCD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bccd-mini");

fn main() {
    let folder = std::env::temp_dir().join(format!("trainyard-bench-{}", std::process::id()));
    let generated =
        Arc::new(write_data_set(&folder.join("generated"), IMAGES, photograph_file, &photograph_labels()));
    let (real_name, real) = real(&folder.join("real"));
    let real = Arc::new(real);
    println!("images_generated {} images", generated.len());
    println!("images_{real_name} {} images", real.len());
    bench_memory(&real, &folder);
    bench_decode(real_name, &real);
    for (name, dataset) in [(real_name, &real), ("generated", &generated)] {
        bench_epochs(name, dataset, &folder);
    }
    bench_augmentations(&real, &folder.join(format!("cache-{real_name}")));
    for (name, folders) in [("index_1m", 1), ("index_1m_in_10000_folders", 10_000)] {
        bench_index(name, folders, &folder.join(name));
    }
    bench_nms();
    std::fs::remove_dir_all(&folder).expect("the bench made it");
}

/// CPU time of this thread, seconds; of no use for work that other threads do.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("this is Linux");
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.expect("its first number is the time on a CPU") / 1e9
}

/// Prints how often `work` runs in a second of this thread's CPU time; the best of three runs.
fn rate(name: &str, unit: &str, mut work: impl FnMut()) {
    work();
    let mut best: f64 = 0.0;
    for _ in 0..3 {
        let (start, cpu, mut done) = (Instant::now(), cpu_seconds(), 0_u32);
        while start.elapsed() < Duration::from_millis(500) {
            work();
            done += 1;
        }
        best = best.max(f64::from(done) / (cpu_seconds() - cpu));
    }
    println!("{name} {best:.1} {unit}");
}

/// Photographs in size and compressibility: smooth shapes with some noise, 640 x 480.
fn photograph(number: usize) -> RgbImage {
    let mut noise = (number as u32).wrapping_mul(2_654_435_761) | 1;
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

fn photograph_file(number: usize) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    photograph(number).write_to(&mut bytes, ImageFormat::Jpeg).expect("memory takes any image");
    bytes.into_inner()
}

fn photograph_labels() -> String {
    (1..9).map(|k| format!("0 0.{k} 0.5 0.1 0.2\n")).collect()
}

fn write_data_set(folder: &Path, images: usize, image: impl Fn(usize) -> Vec<u8>, labels: &str) -> Dataset {
    for part in ["images", "labels"] {
        std::fs::create_dir_all(folder.join(part)).expect("the temporary folder is writable");
    }
    for number in 0..images {
        std::fs::write(folder.join(format!("images/{number}.jpg")), image(number)).expect("as above");
        std::fs::write(folder.join(format!("labels/{number}.txt")), labels).expect("as above");
    }
    let yaml = folder.join("data.yaml");
    std::fs::write(&yaml, "train: images\nval: images\nnames: [a, b, c]\n").expect("as above");
    let yaml = DataYaml::read(&yaml).expect("it was just written");
    Dataset::open(&yaml, Split::Train, &OpenOptions::default()).expect("it was just written")
}

/// Real photographs, and what they are called in figures: all of a folder that is named, or the few in the
/// repository, again and again.
fn real(folder: &Path) -> (&'static str, Dataset) {
    let named = std::env::var_os("TRAINYARD_BENCH_IMAGES").map(PathBuf::from);
    let from = named.clone().unwrap_or_else(|| Path::new(BCCD).join("images"));
    let entries = std::fs::read_dir(from).expect("the folder is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    files.retain(|file| decode::is_image_name(file));
    files.sort();
    let images = if named.is_some() { files.len() } else { IMAGES };
    let image = |number: usize| std::fs::read(&files[number % files.len()]).expect("it was just there");
    let name = if named.is_some() { "folder" } else { "bccd" };
    (name, write_data_set(folder, images, image, &photograph_labels()))
}

fn bench_decode(name: &str, dataset: &Dataset) {
    let files: Vec<Vec<u8>> =
        dataset.images.iter().map(|item| std::fs::read(item.path).expect("just written")).collect();
    let mut next = 0;
    rate(&format!("decode_{name}_per_core"), "images/s", || {
        next = (next + 1) % files.len();
        black_box(decode::decode(&files[next]).expect("a good JPEG"));
    });
    let image = decode::decode(&files[0]).expect("a good JPEG");
    rate(&format!("resize_{name}_to_416_per_core"), "images/s", || {
        black_box(resize::load_resize(image.clone(), 416));
    });
}

fn augmentation() -> AugmentConfig {
    AugmentConfig::from(&TrainSpec::new(ModelScale::N, "/data.yaml"))
}

/// A disk cache that takes what it needs, however full the disk is: a figure without it would mislead.
fn on_disk(directory: PathBuf) -> CacheMode {
    CacheMode::Disk(CacheDir {
        directory,
        limits: Limits { quota_bytes: Some(u64::MAX), floor_bytes: Some(0) },
    })
}

fn in_ram() -> CacheMode {
    CacheMode::Ram { budget: RamBudget::new(u64::MAX), overflow: None }
}

fn store(dataset: &Arc<Dataset>, mode: CacheMode) -> Arc<ImageStore> {
    Arc::new(ImageStore::new(Arc::clone(dataset), IMGSZ, mode))
}

fn loader(store: &Arc<ImageStore>, augment: AugmentConfig, workers: usize) -> TrainLoader {
    let config = LoaderConfig { imgsz: IMGSZ, workers, prefetch: 2, seed: 1, augment };
    TrainLoader::new(Arc::clone(store), config)
}

/// Makes all samples of an epoch; images per second of `clock`.
fn pass(loader: &TrainLoader, epoch: u32, clock: fn() -> f64) -> f64 {
    let plan = EpochPlan { epoch, batch_size: 16, first_sample: 0, mosaic: true };
    let start = clock();
    let made: usize = loader.epoch(&plan).map(|batch| batch.expect("all images are good").n).sum();
    made as f64 / (clock() - start)
}

fn wall_seconds() -> f64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970").as_secs_f64()
}

fn best(passes: u32, mut rate: impl FnMut(u32) -> f64) -> f64 {
    (0..passes).map(&mut rate).fold(0.0, f64::max)
}

/// The first epoch, which fills the cache, against later ones, and against none.
fn bench_epochs(name: &str, dataset: &Arc<Dataset>, folder: &Path) {
    let directory = folder.join(format!("cache-{name}"));
    let disk = store(dataset, on_disk(directory.clone()));
    let one = loader(&disk, augmentation(), 0);
    let first = pass(&one, 0, cpu_seconds);
    println!("loader_mosaic_640_{name}_disk_epoch_1_per_core {first:.1} images/s");
    let later = best(8, |epoch| pass(&one, 1 + epoch, cpu_seconds));
    println!("loader_mosaic_640_{name}_disk_warm_per_core {later:.1} images/s");
    let two = loader(&disk, augmentation(), 2);
    println!(
        "loader_mosaic_640_{name}_disk_warm_2_threads {:.1} images/s",
        best(8, |e| pass(&two, 1 + e, wall_seconds))
    );
    let ram = loader(&store(dataset, in_ram()), augmentation(), 0);
    println!(
        "loader_mosaic_640_{name}_ram_per_core {:.1} images/s",
        best(8, |epoch| pass(&ram, epoch, cpu_seconds))
    );
    let none = loader(&store(dataset, CacheMode::None), augmentation(), 0);
    let uncached = best(2, |epoch| pass(&none, epoch, cpu_seconds));
    println!("loader_mosaic_640_{name}_uncached_per_core {uncached:.1} images/s");
    println!("loader_mosaic_640_{name}_disk_warm_over_uncached {:.2} times", later / uncached);
    assert_eq!(disk.take_warnings(), Vec::<String>::new(), "the disk cache works");
    let bytes: u64 = disk::directory::list(&directory).iter().map(|file| file.disk_bytes).sum();
    println!("cache_disk_640_{name} {:.0} bytes/image", bytes as f64 / dataset.len() as f64);
    let sources = dataset.images.iter().map(|item| std::fs::metadata(item.path).expect("just written").len());
    println!("source_files_{name} {:.0} bytes/image", sources.sum::<u64>() as f64 / dataset.len() as f64);
}

/// What each part of the augmentation costs, from a warm disk cache.
fn bench_augmentations(dataset: &Arc<Dataset>, cache: &Path) {
    let disk = store(dataset, on_disk(cache.to_owned()));
    let all = augmentation();
    for (name, augment) in [
        ("no_hsv", AugmentConfig { hsv_h: 0.0, hsv_s: 0.0, hsv_v: 0.0, ..all }),
        ("no_mosaic", AugmentConfig { mosaic: 0.0, ..all }),
        ("mosaic9", AugmentConfig { tiles: MosaicTiles::Nine, ..all }),
        ("mixup", AugmentConfig { mixup: 1.0, ..all }),
        ("rotated", AugmentConfig { degrees: 10.0, ..all }),
    ] {
        let loader = loader(&disk, augment, 0);
        println!(
            "loader_640_{name}_per_core {:.1} images/s",
            best(4, |epoch| pass(&loader, epoch, cpu_seconds))
        );
    }
}

/// Memory that is this process's own; mapped files are the system's to take back.
fn own_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// What a loader adds to this process's memory at most, between batches of 16; the first epoch fills the
/// cache. It runs before the others, whose freed memory would hide what this one takes.
fn bench_memory(dataset: &Arc<Dataset>, folder: &Path) {
    let (before, mut peak) = (own_memory(), 0);
    for workers in [1, 8] {
        let disk = store(dataset, on_disk(folder.join("cache-memory")));
        let loader = loader(&disk, augmentation(), workers);
        for epoch in 0..4 {
            let plan = EpochPlan { epoch, batch_size: 16, first_sample: 0, mosaic: true };
            for batch in loader.epoch(&plan) {
                black_box(batch.expect("all images are good"));
                peak = peak.max(own_memory().saturating_sub(before));
            }
        }
        println!("loader_640_batch_16_memory_{workers}_workers {:.1} MiB", peak as f64 / f64::from(1 << 20));
    }
}

/// Opens a data set of a million images: 10,000 files with labels of their own, each listed 100 times, in so many
/// folders, from one to the next.
fn bench_index(name: &str, folders: usize, set: &Path) {
    const FILES: usize = 10_000;
    const LISTED: usize = 1_000_000;
    let mut tiny = Cursor::new(Vec::new());
    RgbImage::new(16, 16).write_to(&mut tiny, ImageFormat::Bmp).expect("memory takes any image");
    let mut paths = Vec::with_capacity(FILES);
    for number in 0..FILES {
        let (folder, file) = (format!("{:05}", number % folders), format!("photograph-{number:06}"));
        for part in ["images", "labels"] {
            std::fs::create_dir_all(set.join(part).join(&folder)).expect("the temporary folder is writable");
        }
        let image = set.join(format!("images/{folder}/{file}.bmp"));
        std::fs::write(&image, tiny.get_ref()).expect("as above");
        let label = set.join(format!("labels/{folder}/{file}.txt"));
        std::fs::write(label, format!("0 0.5 0.5 0.{} 0.25\n", number + 1)).expect("as above");
        paths.push(image.display().to_string());
    }
    let list: String = (0..LISTED).flat_map(|index| [paths[index % FILES].as_str(), "\n"]).collect();
    std::fs::write(set.join("train.txt"), list).expect("as above");
    let yaml = set.join("data.yaml");
    std::fs::write(&yaml, "train: train.txt\nval: train.txt\nnames: [a]\n").expect("as above");
    let yaml = DataYaml::read(&yaml).expect("it was just written");
    let options = OpenOptions { threads: 2, ..OpenOptions::default() };
    // What young files are is not kept.
    std::thread::sleep(Duration::from_millis(50));
    let cache = set.join("labels-cache");
    let start = Instant::now();
    Dataset::open_cached(&yaml, Split::Train, &options, &cache).expect("it was just written");
    println!("{name}_first_open {:.2} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let dataset = Dataset::open_cached(&yaml, Split::Train, &options, &cache).expect("it was just written");
    println!("{name}_open {:.2} s", start.elapsed().as_secs_f64());
    let dataset = Arc::new(dataset);
    let place = || CacheDir::from(set.join("no-cache"));
    let disk = store(&dataset, CacheMode::Disk(place()));
    println!("{name}_open_with_disk_cache {:.2} s", start.elapsed().as_secs_f64());
    let ram = CacheMode::Ram { budget: RamBudget::new(0), overflow: Some(place()) };
    for (cache, store) in [("disk", disk), ("ram", store(&dataset, ram))] {
        let order = LISTED * size_of::<u32>();
        let bytes = dataset.images.memory_bytes() + store.memory_bytes() + order;
        println!("{name}_memory_{cache} {:.1} bytes/image", bytes as f64 / dataset.len() as f64);
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
    rate("nms_validation_80_classes_8400_anchors_per_core", "images/s", || {
        black_box(suppress(&pred, classes, anchors, &NmsConfig::validation()));
    });
}
