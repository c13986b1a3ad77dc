//! Tests of training batches: the same pixels for any workers, batch size, cache and start, and errors on the way.

use sha2::{Digest, Sha256};

use super::*;
use crate::cache::{CacheMode, RamBudget};
use crate::dataset::Split;
use crate::loader::batch::Batch;
use crate::loader::worker_pool::WorkerCount;
use crate::test_data::TestData;

const AUGMENT: AugmentConfig = AugmentConfig {
    hsv_h: 0.015,
    hsv_s: 0.7,
    hsv_v: 0.4,
    translate: 0.1,
    scale: 0.5,
    fliplr: 0.5,
    mosaic: 1.0,
    mixup: 0.2,
    ..AugmentConfig::NONE
};

fn loader(data: &TestData, workers: usize, mode: CacheMode) -> TrainLoader {
    let store = Arc::new(ImageStore::new(data.open(Split::Train), 64, mode));
    TrainLoader::new(store, LoaderConfig { imgsz: 64, workers, prefetch: 2, seed: 11, augment: AUGMENT })
}

fn plan(batch_size: usize, first_sample: usize) -> EpochPlan {
    EpochPlan { epoch: 2, batch_size, first_sample, mosaic: true }
}

/// One digest for each image with its objects, in order.
fn digests(batches: impl Iterator<Item = Result<Batch, LoadError>>) -> Vec<String> {
    let mut digests = Vec::new();
    for batch in batches {
        let batch = batch.unwrap();
        assert_eq!(batch.images.len(), batch.n * 3 * batch.height * batch.width);
        assert_eq!(batch.indices.len(), batch.n);
        for image in 0..batch.n {
            let mut hash = Sha256::new();
            hash.update(batch.indices[image].to_le_bytes());
            hash.update(&batch.image(image).rgb);
            for target in batch.targets.iter().filter(|target| target.image as usize == image) {
                hash.update(target.class.to_le_bytes());
                target.cxcywh.iter().for_each(|value| hash.update(value.to_le_bytes()));
            }
            digests.push(hex::encode(hash.finalize()));
        }
    }
    digests
}

#[test]
fn batches_are_the_same_for_any_workers_batch_size_cache_and_start() {
    let data = TestData::new(23, 1);
    let expected = digests(loader(&data, 0, CacheMode::None).epoch(&plan(5, 0)));
    assert_eq!(expected.len(), 23);
    for workers in [0, 1, 2, 8] {
        let disk = data.cache();
        let ram = CacheMode::Ram { budget: RamBudget::new(100_000), overflow: None };
        for mode in [CacheMode::None, ram, disk] {
            let loader = loader(&data, workers, mode);
            for (batch_size, first) in [(8, 0), (24, 0), (1, 0), (4, 12), (64, 0), (7, 21), (5, 40)] {
                let found = digests(loader.epoch(&plan(batch_size, first)));
                assert_eq!(found, expected[first.min(23)..], "{workers} {batch_size} {first}");
            }
        }
    }
}

#[test]
fn workers_that_come_and_go_during_a_pass_change_no_pixel() {
    let data = TestData::new(23, 1);
    let expected = digests(loader(&data, 0, CacheMode::None).epoch(&plan(1, 0)));
    let count = WorkerCount::new(4);
    let loader = loader(&data, 4, CacheMode::None).with_worker_count(&count);
    for wishes in [[1, 8, 2], [3, 1, 5], [7, 2, 1]] {
        let mut batches = loader.epoch(&plan(1, 0));
        let mut found = Vec::new();
        for workers in wishes {
            found.extend(digests(batches.by_ref().take(6)));
            count.request(workers);
        }
        found.extend(digests(batches));
        assert_eq!(found, expected, "{wishes:?}");
    }
}

#[test]
fn a_stop_at_any_step_and_a_resume_change_nothing() {
    let data = TestData::new(23, 1);
    let expected = digests(loader(&data, 2, CacheMode::None).epoch(&plan(8, 0)));
    let seed = u64::from(std::process::id()) << 32
        | u64::from(
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos(),
        );
    println!("seed {seed}");
    for seed in (0..6).chain([seed]) {
        let mut draw = SampleRng::new(seed, 0, 0, Stream::Order);
        let (before, after) = (1 + draw.below(8), 1 + draw.below(24));
        let done = draw.below(23_usize.div_ceil(before));
        let loader = loader(&data, 1 + draw.below(8), CacheMode::None);
        let mut found = digests(loader.epoch(&plan(before, 0)).take(done));
        found.extend(digests(loader.epoch(&plan(after, found.len()))));
        assert_eq!(found, expected, "seed {seed}: {done} batches of {before}, then batches of {after}");
    }
}

#[test]
fn every_image_comes_once_in_an_order_of_its_epoch_and_the_last_batch_is_smaller() {
    let data = TestData::new(11, 1);
    let loader = loader(&data, 2, CacheMode::None);
    let batches: Vec<Batch> = loader.epoch(&plan(4, 0)).map(Result::unwrap).collect();
    assert_eq!(loader.batches(4), 3);
    assert_eq!(
        batches.iter().map(|batch| (batch.number, batch.n)).collect::<Vec<_>>(),
        [(0, 4), (1, 4), (2, 3)]
    );
    let indices: Vec<usize> = batches.iter().flat_map(|batch| batch.indices.clone()).collect();
    assert_eq!(indices, loader.order(2).iter().map(|index| *index as usize).collect::<Vec<_>>());
    assert_ne!(loader.order(2), loader.order(3));
    let mut sorted = indices;
    sorted.sort_unstable();
    assert_eq!(sorted, (0..11).collect::<Vec<_>>());
    let resumed: Vec<usize> = loader.epoch(&plan(4, 8)).map(|batch| batch.unwrap().number).collect();
    assert_eq!(resumed, [2]);
}

#[test]
fn a_dropped_pass_ends_its_threads() {
    let data = TestData::new(40, 1);
    let loader = loader(&data, 4, CacheMode::None);
    for taken in 0..4 {
        let mut batches = loader.epoch(&plan(4, 0));
        for _ in 0..taken {
            batches.next().unwrap().unwrap();
        }
        drop(batches);
        // Threads hold the store; with all of them gone only the loader does.
        assert_eq!(Arc::strong_count(&loader.store), 1);
    }
}

#[test]
fn images_that_break_during_training_are_replaced_and_reported() {
    let data = TestData::new(6, 1);
    let loader = loader(&data, 2, CacheMode::None);
    data.write("images/train/003.jpg", b"overwritten");
    let batches: Vec<Batch> = loader.epoch(&plan(3, 0)).map(Result::unwrap).collect();
    assert_eq!(batches.len(), 2);
    let warnings = loader.store.take_warnings();
    assert_eq!((warnings.len(), loader.store.failed()), (1, 1));
    assert!(warnings[0].contains("003.jpg"), "{warnings:?}");
    std::fs::remove_dir_all(data.path("images")).unwrap();
    let error = loader.epoch(&plan(3, 0)).next().unwrap().unwrap_err().to_string();
    assert!(error.contains("could be read"), "{error}");
}

/// One image of another size, one of the same, one cut, one gone, one new; other labels.
fn change(data: &TestData) {
    data.write_image("images/train/003.jpg", 17);
    data.write_image("images/train/004.jpg", 4);
    crate::test_data::truncate(&data.path("images/train/005.jpg"));
    std::fs::remove_file(data.path("images/train/006.jpg")).unwrap();
    data.write_image("images/train/new.jpg", 3);
    data.write("labels/train/007.txt", b"77 what is this");
}

#[test]
fn a_data_set_that_changes_while_it_trains_is_trained_on_as_it_began_and_told_of() {
    let data = TestData::new(24, 1);
    let loader = loader(&data, 3, CacheMode::None);
    let before = loader.store.dataset().images.clone();
    change(&data);
    for epoch in 2..5 {
        let batches = loader.epoch(&EpochPlan { epoch, ..plan(4, 0) });
        let made: Vec<Batch> = batches.map(Result::unwrap).collect();
        assert_eq!(made.len(), 6, "no batch is missing");
        assert!(made.iter().flat_map(|batch| &batch.targets).all(|target| target.class < 2));
    }
    assert_eq!(loader.store.dataset().images, before);
    let mut warnings = loader.store.take_warnings();
    warnings.sort();
    assert_eq!((warnings.len(), loader.store.failed()), (2, 2), "{warnings:?}");
    assert!(warnings[0].contains("/005.jpg: is truncated"), "{warnings:?}");
    assert!(warnings[1].contains("/006.jpg: cannot be read"), "{warnings:?}");
}

#[test]
fn after_a_data_set_changed_under_a_cache_the_next_training_has_it_as_it_is() {
    let data = TestData::new(24, 1);
    let disk = || data.cache();
    let loader = loader(&data, 3, disk());
    let mut batches = loader.epoch(&plan(4, 0));
    let mut made = batches.next().unwrap().unwrap().n;
    change(&data);
    made += batches.map(|batch| batch.unwrap().n).sum::<usize>();
    assert_eq!(made, 24, "no image is missing");
    // Whether one is met is chance: those used before are in the cache, and a rewrite may be read half done.
    let warnings = loader.store.take_warnings();
    let touched = |warning: &String| (3..7).any(|at| warning.contains(&format!("/00{at}.jpg: ")));
    assert!(warnings.len() == loader.store.failed() && warnings.iter().all(touched), "{warnings:?}");
    drop(loader);
    data.write("labels/train/007.txt", b"");
    let digest = |mode| digests(self::loader(&data, 2, mode).epoch(&plan(4, 0)));
    let plain = digest(CacheMode::None);
    assert_eq!(plain.len(), 23);
    for _ in 0..2 {
        assert_eq!(digest(disk()), plain);
    }
}

#[test]
fn time_spent_waiting_is_measured() {
    let data = TestData::new(4, 1);
    let loader = loader(&data, 0, CacheMode::None);
    let mut batches = loader.epoch(&plan(4, 0));
    assert!(batches.waited().is_zero());
    batches.next().unwrap().unwrap();
    assert!(!batches.waited().is_zero());
}

#[test]
fn a_cache_that_is_cut_while_all_workers_read_it_changes_no_pixel() {
    let data = TestData::new(23, 1);
    let expected = digests(loader(&data, 0, CacheMode::None).epoch(&plan(5, 0)));
    for keep in [9000, 100_000] {
        let loader = loader(&data, 8, data.cache());
        // Filled, and every page known to this process.
        assert_eq!(digests(loader.epoch(&plan(5, 0))), expected);
        assert_eq!(digests(loader.epoch(&plan(5, 0))), expected);
        let mut passes = 0;
        let mut cut = false;
        while loader.store.take_warnings().is_empty() {
            let mut batches = loader.epoch(&plan(5, 0));
            let mut found = digests(batches.by_ref().take(2));
            if !cut {
                for file in crate::cache::disk::directory::list(&data.path("cache")) {
                    std::fs::File::options().write(true).open(file.path).unwrap().set_len(keep).unwrap();
                }
                cut = true;
            }
            found.extend(digests(batches));
            assert_eq!(found, expected, "pass {passes}");
            passes += 1;
        }
        assert_eq!(digests(loader.epoch(&plan(5, 0))), expected);
    }
}
