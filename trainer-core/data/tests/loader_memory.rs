//! A loader's memory is bounded by its batches and threads, not by the data set: counted at the allocator, so that
//! neither the system's caches nor other programs matter.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{Rgb, RgbImage};
use trainyard_data::cache::disk::{CacheDir, Limits};
use trainyard_data::{
    AugmentConfig, CacheMode, DataYaml, Dataset, EpochPlan, ImageStore, LoaderConfig, OpenOptions, Split,
    TrainLoader,
};
use trainyard_types::{ModelScale, TrainSpec};

/// The system's allocator, which counts.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: everything is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const IMGSZ: usize = 128;
const BATCH: usize = 8;

/// A data set of `images` files, of ten contents.
fn write(folder: &Path, images: usize) -> Dataset {
    for part in ["images", "labels"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
    }
    for number in 0..images {
        let image = folder.join(format!("images/{number:05}.jpg"));
        if number < 10 {
            let shade = u8::try_from(number * 20).unwrap();
            RgbImage::from_fn(160, 120, |x, y| Rgb([shade, x as u8, y as u8])).save(image).unwrap();
        } else {
            std::fs::copy(folder.join(format!("images/{:05}.jpg", number % 10)), image).unwrap();
        }
        std::fs::write(folder.join(format!("labels/{number:05}.txt")), "0 0.5 0.5 0.2 0.2\n").unwrap();
    }
    let yaml = folder.join("data.yaml");
    std::fs::write(&yaml, "train: images\nval: images\nnames: [a]\n").unwrap();
    Dataset::open(&DataYaml::read(&yaml).unwrap(), Split::Train, &OpenOptions::default()).unwrap()
}

/// The most that a loader has at a time beside the index: two epochs, the first of which fills the cache.
fn peak(dataset: &Arc<Dataset>, mode: CacheMode, workers: usize) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let store = Arc::new(ImageStore::new(Arc::clone(dataset), IMGSZ, mode));
    let augment = AugmentConfig::from(&TrainSpec::new(ModelScale::N, "/data.yaml"));
    let loader =
        TrainLoader::new(store, LoaderConfig { imgsz: IMGSZ, workers, prefetch: 2, seed: 1, augment });
    for epoch in 0..2 {
        let plan = EpochPlan { epoch, batch_size: BATCH, first_sample: 0, mosaic: true };
        let images: usize = loader.epoch(&plan).map(|batch| batch.unwrap().n).sum();
        assert_eq!(images, dataset.len());
    }
    PEAK.load(Ordering::Relaxed) - before
}

#[test]
fn memory_does_not_grow_with_the_data_set() {
    const FEW: usize = 200;
    const MANY: usize = 2000;
    let folder = tempfile::tempdir().unwrap();
    let few = Arc::new(write(&folder.path().join("few"), FEW));
    let many = Arc::new(write(&folder.path().join("many"), MANY));
    let image = 3 * IMGSZ * IMGSZ;
    for workers in [1, 8] {
        for cache in [None, Some(folder.path().join(format!("cache-{workers}")))] {
            let mode = |name: &str| match &cache {
                Some(cache) => {
                    let limits = Limits { quota_bytes: Some(u64::MAX), floor_bytes: Some(0) };
                    CacheMode::Disk(CacheDir { directory: cache.join(name), limits })
                }
                None => CacheMode::None,
            };
            let peaks = [peak(&few, mode("few"), workers), peak(&many, mode("many"), workers)];
            // How far threads get ahead of one another, and when they decode, differs from run to run.
            let allowed = peaks[0] + 2 * (BATCH + workers) * image + 100 * (MANY - FEW);
            assert!(peaks[1] < allowed, "{workers} workers: {peaks:?}, {allowed} allowed");
            // A tenth of the images, had they been kept, would be more than that.
            assert!((MANY - FEW) / 10 * image > allowed - peaks[0]);
            // The batches that may wait, those in the making, and what each thread has in hand.
            assert!(peaks[1] < (6 * BATCH + 10 * workers) * image + 100 * MANY + (4 << 20), "{peaks:?}");
        }
    }
    assert!(few.images.memory_bytes() / FEW < 100 && many.images.memory_bytes() / MANY < 100);
}
