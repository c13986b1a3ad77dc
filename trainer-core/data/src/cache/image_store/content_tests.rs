//! That what is cached is never of other content than what lies in the data set.

use std::path::Path;

use super::tests::{disk, entries, store};
use super::*;
use crate::cache::disk::directory::{self, Verified};
use crate::dataset::Split;
use crate::test_data::{TestData, settle};

/// Puts other bytes into a file of the same length, and its time of change back.
fn rewrite_secretly(file: &Path, bytes: &[u8]) {
    let before = std::fs::metadata(file).unwrap();
    assert_eq!(before.len(), bytes.len() as u64);
    std::fs::write(file, bytes).unwrap();
    std::fs::File::options()
        .append(true)
        .open(file)
        .unwrap()
        .set_modified(before.modified().unwrap())
        .unwrap();
}

/// A data set of bitmaps, all of one length.
fn bitmaps(count: usize) -> TestData {
    let data = TestData::new(0, 1);
    std::fs::create_dir_all(data.path("images/train")).unwrap();
    for index in 0..count {
        let shade = u8::try_from(40 * index).unwrap();
        let picture = image::RgbImage::from_pixel(64, 64, image::Rgb([shade, 5, 9]));
        picture.save(data.path(&format!("images/train/{index:03}.bmp"))).unwrap();
        data.write(&format!("labels/train/{index:03}.txt"), b"");
    }
    data
}

#[test]
fn an_image_that_is_rewritten_with_its_old_length_and_time_is_decoded_again() {
    let data = bitmaps(3);
    let file = data.path("images/train/001.bmp");
    settle(&file);
    let before = store(&data, disk(&data));
    (0..3).for_each(|index| drop(before.load(index).unwrap()));
    let mut bytes = std::fs::read(&file).unwrap();
    // In the middle, where the fingerprint does not look: the cache has the same name.
    bytes[6000..6200].fill(200);
    rewrite_secretly(&file, &bytes);
    for _ in 0..3 {
        let (plain, cached) = (store(&data, CacheMode::None), store(&data, disk(&data)));
        for index in [0, 1, 2, 1] {
            assert_eq!(cached.load(index).unwrap().image, plain.load(index).unwrap().image, "{index}");
        }
        assert_eq!(cached.take_warnings(), Vec::<String>::new());
    }
    let files = entries(&data);
    assert_eq!(files.len(), 1);
    assert_eq!(directory::verify(&files[0]).unwrap(), Verified { good: 3, ..Verified::default() });
    // At an end: a cache of its own.
    bytes[100..200].fill(200);
    rewrite_secretly(&file, &bytes);
    let (plain, cached) = (store(&data, CacheMode::None), store(&data, disk(&data)));
    assert_eq!(cached.load(1).unwrap().image, plain.load(1).unwrap().image);
    assert_eq!(entries(&data).len(), 2);
}

#[test]
fn new_pixels_of_a_changed_image_are_kept_for_the_next_training_and_disturb_no_other() {
    let data = bitmaps(2);
    let file = data.path("images/train/001.bmp");
    settle(&file);
    let other = store(&data, disk(&data));
    (0..2).for_each(|index| drop(other.load(index).unwrap()));
    let held = other.load(1).unwrap().image;
    let old = held.to_image();
    drop(other);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[6000..6200].fill(200);
    rewrite_secretly(&file, &bytes);
    settle(&file);
    let length = |files: &[directory::CacheFile]| std::fs::metadata(&files[0].path).unwrap().len();
    let before = length(&entries(&data));
    store(&data, disk(&data)).load(1).unwrap();
    assert_eq!(held.to_image(), old, "what was read already stays as it was");
    let grown = length(&entries(&data));
    assert!(grown >= before + 3 * 64 * 64, "{before} {grown}");
    // Of the new ones, the source is not read again: garbage of another length would not decode.
    let next = store(&data, disk(&data));
    let Cache::Disk(cache) = &next.cache else { unreachable!() };
    let pixels = cache.read(1, &file).unwrap();
    assert_ne!(pixels.to_image(), old);
    assert_eq!(length(&entries(&data)), grown);
    // It does not grow without end.
    for round in 0..8 {
        bytes[6000..6200].fill(round);
        rewrite_secretly(&file, &bytes);
        let (plain, cached) = (store(&data, CacheMode::None), store(&data, disk(&data)));
        assert_eq!(cached.load(1).unwrap().image, plain.load(1).unwrap().image);
    }
    assert!(length(&entries(&data)) <= 2 * before);
}

#[test]
fn a_data_set_that_was_moved_or_copied_finds_its_cache() {
    let data = TestData::new(4, 1);
    let first = store(&data, disk(&data));
    (0..4).for_each(|index| drop(first.load(index).unwrap()));
    drop(first);
    std::fs::rename(data.path("images"), data.path("moved")).unwrap();
    data.write("moved.yaml", b"train: moved/train\nval: moved/val\nnames: [square, disc]\n");
    let yaml = crate::DataYaml::read(&data.path("moved.yaml")).unwrap();
    let dataset = Dataset::open(&yaml, Split::Train, &crate::OpenOptions::default()).unwrap();
    let moved = ImageStore::new(Arc::new(dataset), 64, disk(&data));
    let Cache::Disk(cache) = &moved.cache else { unreachable!() };
    for index in 0..4 {
        let path = moved.dataset.images.path(index);
        assert!(path.starts_with(data.path("moved")), "{}", path.display());
        assert!(cache.read(index, &path).is_some());
    }
    assert_eq!(entries(&data).len(), 1);
    // The same bytes in new files.
    for index in 0..4 {
        let from = data.path(&format!("moved/train/{index:03}.jpg"));
        data.write(&format!("images/train/{index:03}.jpg"), &std::fs::read(from).unwrap());
    }
    let copied = store(&data, disk(&data));
    let Cache::Disk(cache) = &copied.cache else { unreachable!() };
    for index in 0..4 {
        assert!(cache.read(index, &copied.dataset.images.path(index)).is_some());
    }
    assert_eq!(entries(&data).len(), 1);
}

#[test]
fn a_changed_label_keeps_the_images_in_the_cache_and_is_used() {
    let data = TestData::new(2, 1);
    store(&data, disk(&data)).load(0).unwrap();
    data.write("labels/train/000.txt", b"1 0.5 0.5 0.4 0.3\n");
    let again = store(&data, disk(&data));
    assert_eq!(again.load(0).unwrap().labels()[0].class, 1);
    let Cache::Disk(cache) = &again.cache else { unreachable!() };
    assert!(cache.read(0, &data.path("images/train/000.jpg")).is_some());
    assert_eq!(entries(&data).len(), 1);
}
