use super::*;
use crate::data::dataset::Split;
use crate::data::test_data::{TestData, truncate};

fn store(data: &TestData, mode: CacheMode) -> ImageStore {
    ImageStore::new(data.open(Split::Train), 64, mode)
}

fn disk(data: &TestData) -> CacheMode {
    CacheMode::Disk { directory: data.path("cache") }
}

/// The files of the cache.
fn entries(data: &TestData) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(data.path("cache")).unwrap() {
        found.extend(std::fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    found.sort();
    found
}

#[test]
fn pixels_are_the_same_through_every_cache() {
    let data = TestData::new(4, 1);
    let plain = store(&data, CacheMode::None);
    for mode in [CacheMode::Ram { budget_bytes: 30_000 }, disk(&data)] {
        let cached = store(&data, mode);
        // The first pass fills, the second reads.
        for index in [0, 1, 2, 3, 0, 1, 2, 3] {
            assert_eq!(cached.load(index).unwrap().image, plain.load(index).unwrap().image);
        }
        assert_eq!(cached.take_warnings(), Vec::<String>::new());
    }
    assert_eq!(entries(&data).len(), 4);
    let image = plain.load(1).unwrap().image;
    assert_eq!((image.width, image.height), (64, 61), "the long side is the training size");
}

#[test]
fn memory_holds_no_more_than_its_budget() {
    let data = TestData::new(6, 1);
    let one = store(&data, CacheMode::None).load(0).unwrap().image.bytes().len() as u64;
    let cached = store(&data, CacheMode::Ram { budget_bytes: 2 * one + one / 2 });
    for index in (0..6).cycle().take(12) {
        cached.load(index).unwrap();
    }
    let Cache::Ram { images, .. } = &cached.cache else { unreachable!() };
    assert!((2..=3).contains(&images.iter().filter(|image| image.get().is_some()).count()));
}

#[test]
fn damaged_entries_are_filled_again_and_changed_sources_are_noticed() {
    let data = TestData::new(1, 1);
    let expected = store(&data, disk(&data)).load(0).unwrap().image;
    let entry = entries(&data).remove(0);
    let whole = std::fs::read(&entry).unwrap();
    let mut flipped = whole.clone();
    flipped[4000] ^= 1;
    let mut widened = whole.clone();
    widened[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    for damaged in [&flipped[..], &widened, &whole[..5000], &whole[..3], b""] {
        std::fs::write(&entry, damaged).unwrap();
        assert_eq!(store(&data, disk(&data)).load(0).unwrap().image, expected);
        assert_eq!(std::fs::read(&entry).unwrap(), whole, "filled again");
    }
    data.write_image("images/train/000.jpg", 9);
    assert_ne!(store(&data, disk(&data)).load(0).unwrap().image, expected);
    assert_eq!(entries(&data).len(), 2);
    // Another training size is another entry.
    ImageStore::new(data.open(Split::Train), 32, disk(&data)).load(0).unwrap();
    assert_eq!(entries(&data).len(), 3);
}

#[test]
fn a_cache_that_cannot_be_written_costs_one_warning() {
    let data = TestData::new(3, 1);
    // A file where the directory should be fails for every user, root included.
    data.write("cache", b"");
    let cached = store(&data, disk(&data));
    for index in 0..3 {
        assert_eq!(cached.load(index).unwrap().index, index);
    }
    let warnings = cached.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("cannot be written") && warnings[0].contains("cache`"), "{warnings:?}");
}

#[test]
fn an_image_that_breaks_later_is_replaced_and_reported_once() {
    let data = TestData::new(4, 1);
    let plain = store(&data, CacheMode::None);
    std::fs::write(data.path("images/train/001.jpg"), b"gone").unwrap();
    std::fs::remove_file(data.path("images/train/002.jpg")).unwrap();
    for _ in 0..3 {
        assert_eq!(plain.load(1).unwrap().index, 3);
    }
    assert_eq!(plain.failed(), 2);
    let warnings = plain.take_warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("001.jpg: is no readable image"), "{warnings:?}");
    assert!(warnings[1].contains("002.jpg: cannot be read"), "{warnings:?}");
    assert_eq!(plain.take_warnings(), Vec::<String>::new());
}

#[test]
fn a_data_set_that_vanished_is_an_error() {
    let data = TestData::new(3, 1);
    let plain = store(&data, CacheMode::None);
    truncate(&data.path("images/train/000.jpg"));
    std::fs::remove_dir_all(data.path("images")).unwrap();
    let error = plain.load(1).unwrap_err().to_string();
    assert!(error.starts_with("none of 3 images from"), "{error}");
    assert!(error.contains("001.jpg on could be read; the last error was: "), "{error}");
}
