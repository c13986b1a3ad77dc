//! That the cache directory keeps its quota and its disk's floor, and who makes room for whom.

use std::path::PathBuf;

use super::tests::{disk, entries, store};
use super::*;
use crate::cache::disk::directory::{self, Verified};
use crate::cache::disk::{CacheDir, Limits};
use crate::dataset::Split;
use crate::test_data::{TestData, roomy};

fn limited(data: &TestData, limits: Limits) -> CacheMode {
    CacheMode::Disk(CacheDir { directory: data.path("cache"), limits })
}

fn of_size(data: &TestData, imgsz: usize, limits: Limits) -> ImageStore {
    ImageStore::new(data.open(Split::Train), imgsz, limited(data, limits))
}

fn fill(cached: &ImageStore) {
    (0..cached.len()).for_each(|index| drop(cached.load(index).unwrap()));
}

fn quota(bytes: u64) -> Limits {
    Limits { quota_bytes: Some(bytes), floor_bytes: Some(0) }
}

fn unlimited() -> Limits {
    roomy(PathBuf::new()).limits
}

/// Makes the files older than anything that comes, by whole days, which file systems with coarse clocks tell apart.
fn age(data: &TestData) {
    let files = entries(data);
    for (days, file) in (1..=files.len() as u64).rev().zip(&files) {
        let past = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 86_400);
        std::fs::File::open(&file.path).unwrap().set_modified(past).unwrap();
    }
}

fn sizes(data: &TestData) -> Vec<u32> {
    entries(data).iter().map(|file| file.header.as_ref().unwrap().imgsz).collect()
}

fn file_bytes(file: &directory::CacheFile) -> u64 {
    file.header.as_ref().unwrap().file_bytes
}

#[test]
fn the_quota_evicts_what_was_used_longest_ago_and_nothing_in_use() {
    let data = TestData::new(8, 1);
    let of_size = |imgsz: usize, limits: Limits| {
        let cached = of_size(&data, imgsz, limits);
        fill(&cached);
        cached
    };
    let sizes = || sizes(&data);
    drop(of_size(64, unlimited()));
    let in_use = of_size(96, unlimited());
    drop(of_size(80, unlimited()));
    age(&data);
    assert_eq!(sizes(), [64, 96, 80]);
    let used: u64 = entries(&data).iter().map(|file| file.disk_bytes).sum();
    drop(of_size(72, quota(used + 60_000)));
    assert_eq!(sizes(), [96, 80, 72], "the oldest went");
    drop(of_size(88, quota(420_000)));
    assert!(sizes().starts_with(&[96]), "the one in use stays: {:?}", sizes());
    drop(in_use);
    let none = of_size(48, quota(1000));
    assert!(sizes().is_empty(), "{:?}", sizes());
    let warnings = none.take_warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("more than its quota"), "{warnings:?}");
}

#[test]
fn a_disk_that_is_too_full_costs_one_warning() {
    let data = TestData::new(3, 1);
    let limits = Limits { quota_bytes: None, floor_bytes: Some(1 << 60) };
    let cached = store(&data, limited(&data, limits));
    for index in 0..3 {
        assert_eq!(cached.load(index).unwrap().index, index);
    }
    let warnings = cached.take_warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("are kept free"), "{warnings:?}");
    assert!(entries(&data).is_empty());
}

#[test]
fn what_another_has_begun_to_fill_counts_as_full() {
    let data = TestData::new(8, 1);
    fill(&of_size(&data, 96, unlimited()));
    let other = file_bytes(&entries(&data)[0]);
    directory::remove(&entries(&data)[0]).unwrap();
    // One image of eight, by a training that goes on.
    let begun = of_size(&data, 64, unlimited());
    begun.load(0).unwrap();
    let both = file_bytes(&entries(&data)[0]) + other;
    let refused = of_size(&data, 96, quota(both - 1));
    fill(&refused);
    assert_eq!(sizes(&data), [64]);
    let warnings = refused.take_warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("more than its quota"), "{warnings:?}");
    // The block at the end of each file is a whole one.
    let accepted = of_size(&data, 96, quota(both + 8192));
    fill(&accepted);
    fill(&begun);
    assert_eq!((accepted.take_warnings(), begun.take_warnings()), (Vec::new(), Vec::new()));
    assert_eq!(entries(&data).iter().map(|file| file.filled).collect::<Vec<_>>(), [8, 8]);
}

#[test]
fn what_goes_on_after_a_stop_makes_room_for_the_rest() {
    let data = TestData::new(8, 1);
    of_size(&data, 64, unlimited()).load(0).unwrap();
    fill(&of_size(&data, 96, unlimited()));
    age(&data);
    let files = entries(&data);
    let limits = quota(file_bytes(&files[0]) + 8192);
    assert!(files[0].disk_bytes + files[1].disk_bytes > limits.quota_bytes.unwrap());
    let resumed = of_size(&data, 64, limits);
    fill(&resumed);
    assert_eq!(resumed.take_warnings(), Vec::<String>::new());
    assert_eq!((sizes(&data), entries(&data)[0].filled), (vec![64], 8));
}

#[test]
fn nothing_goes_for_what_would_not_fit_even_so() {
    let data = TestData::new(8, 1);
    fill(&of_size(&data, 64, unlimited()));
    let used = entries(&data)[0].disk_bytes;
    let large = of_size(&data, 96, quota(used + 1000));
    fill(&large);
    assert_eq!(large.take_warnings().len(), 1);
    assert_eq!(sizes(&data), [64]);
}

#[test]
fn whoever_gives_up_leaves_the_filling_to_others() {
    let data = TestData::new(6, 1);
    let (plain, first) = (store(&data, CacheMode::None), store(&data, disk(&data)));
    fill(&first);
    let path = entries(&data)[0].path.clone();
    std::fs::File::options().write(true).open(path).unwrap().set_len(9000).unwrap();
    fill(&first);
    assert_eq!(first.take_warnings().len(), 1);
    // The first one lives on.
    let second = store(&data, disk(&data));
    for index in 0..6 {
        assert_eq!(second.load(index).unwrap().image, plain.load(index).unwrap().image);
    }
    assert_eq!(second.take_warnings(), Vec::<String>::new());
    assert_eq!(directory::verify(&entries(&data)[0]).unwrap(), Verified { good: 6, ..Verified::default() });
    fill(&first);
}
