//! Tests of the image store with every cache: equal pixels, damaged files, files that others truncate or remove.

use std::path::PathBuf;

use super::*;
use crate::cache::disk::directory::{self, Verified};
use crate::dataset::Split;
use crate::test_data::{TestData, roomy, truncate};

pub(super) fn store(data: &TestData, mode: CacheMode) -> ImageStore {
    ImageStore::new(data.open(Split::Train), 64, mode)
}

pub(super) fn disk(data: &TestData) -> CacheMode {
    data.cache()
}

fn in_ram(bytes: u64, overflow: Option<CacheDir>) -> CacheMode {
    CacheMode::Ram { budget: RamBudget::new(bytes), overflow }
}

/// The files of the cache, oldest first.
pub(super) fn entries(data: &TestData) -> Vec<directory::CacheFile> {
    let mut found = directory::list(&data.path("cache"));
    found.reverse();
    found
}

#[test]
fn pixels_are_the_same_through_every_cache() {
    let data = TestData::new(4, 1);
    let plain = store(&data, CacheMode::None);
    for mode in [in_ram(30_000, None), disk(&data)] {
        let cached = store(&data, mode);
        // The first pass fills, the second reads.
        for index in [0, 1, 2, 3, 0, 1, 2, 3] {
            assert_eq!(cached.load(index).unwrap().image, plain.load(index).unwrap().image);
        }
        assert_eq!(cached.take_warnings(), Vec::<String>::new());
    }
    let files = entries(&data);
    assert_eq!((files.len(), files[0].filled), (1, 4));
    assert_eq!(directory::verify(&files[0]).unwrap(), Verified { good: 4, ..Verified::default() });
    let image = plain.load(1).unwrap().image;
    assert_eq!((image.width, image.height), (64, 61), "the long side is the training size");
}

#[test]
fn memory_holds_no_more_than_its_budget() {
    let data = TestData::new(6, 1);
    let one = store(&data, CacheMode::None).load(0).unwrap().image.bytes().len() as u64;
    let cached = store(&data, in_ram(2 * one + one / 2, None));
    for index in (0..6).cycle().take(12) {
        cached.load(index).unwrap();
    }
    let Cache::Ram { images, .. } = &cached.cache else { unreachable!() };
    assert!((2..=3).contains(&images.iter().filter(|image| image.get().is_some()).count()));
}

#[test]
fn stores_that_share_a_budget_hold_no_more_than_it_together() {
    let data = TestData::new(6, 6);
    let one = store(&data, CacheMode::None).load(0).unwrap().image.bytes().len() as u64;
    let mode = in_ram(3 * one, None);
    let stores = [Split::Train, Split::Val].map(|split| ImageStore::new(data.open(split), 64, mode.clone()));
    let mut bytes = 0;
    for cached in &stores {
        (0..6).for_each(|index| drop(cached.load(index).unwrap()));
        let Cache::Ram { images, .. } = &cached.cache else { unreachable!() };
        bytes += images.iter().filter_map(OnceLock::get).map(|image| image.bytes().len() as u64).sum::<u64>();
    }
    assert!((one..=3 * one).contains(&bytes), "{bytes}, {one} each");
}

#[test]
fn what_memory_has_no_room_for_goes_to_disk() {
    let data = TestData::new(6, 1);
    let plain = store(&data, CacheMode::None);
    let overflow = Some(roomy(data.path("cache")));
    let cached = store(&data, in_ram(20_000, overflow));
    for index in (0..6).cycle().take(12) {
        assert_eq!(cached.load(index).unwrap().image, plain.load(index).unwrap().image);
    }
    let filled = entries(&data)[0].filled;
    assert!((3..6).contains(&filled), "{filled}");
}

#[test]
fn the_file_is_named_once_it_holds_every_readable_image() {
    let data = TestData::new(4, 1);
    let cached = store(&data, disk(&data));
    truncate(&data.path("images/train/003.jpg"));
    for index in 0..3 {
        assert_eq!(cached.cached_file(), None);
        cached.load(index).unwrap();
    }
    assert_eq!(cached.cached_file(), None, "nobody knows yet that the last one cannot be read");
    cached.load(3).unwrap();
    assert_eq!(cached.cached_file(), Some(entries(&data)[0].path.clone()));
    let plain = store(&data, CacheMode::None);
    plain.load(0).unwrap();
    assert_eq!(plain.cached_file(), None);
}

/// Opens the cache until a store has filled it again. One cannot as long as another has its lock: a process that another
/// test starts holds the locks of this one until it runs its own program.
fn is_filled_again(data: &TestData, is_filled: impl Fn() -> bool) -> bool {
    (0..1000).any(|_| {
        store(data, disk(data)).load(0).unwrap();
        is_filled()
    })
}

#[test]
fn damage_is_noticed_and_repaired() {
    let data = TestData::new(1, 1);
    let expected = store(&data, disk(&data)).load(0).unwrap().image;
    let file = entries(&data).remove(0);
    let whole = std::fs::read(&file.path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    // The header's sizes, the index entry's width and checksum, the pixels; then what is cut off.
    for at in [10, 70, 4096, 4096 + 20, 9000] {
        std::fs::write(&file.path, flipped(at)).unwrap();
        assert_eq!(store(&data, disk(&data)).load(0).unwrap().image, expected, "{at}");
        let verified = || directory::verify(&entries(&data)[0]).unwrap();
        let good = Verified { good: 1, ..Verified::default() };
        assert!(is_filled_again(&data, || verified() == good), "{at}: {:?}", verified());
    }
    for keep in [0, 3, 4100, 8192, 9000, whole.len() - 1] {
        std::fs::write(&file.path, &whole[..keep]).unwrap();
        let again = store(&data, disk(&data));
        assert_eq!(again.load(0).unwrap().image, expected, "{keep}");
        assert_eq!(again.take_warnings(), Vec::<String>::new());
        drop(again);
        let length = || std::fs::metadata(&file.path).unwrap().len();
        assert!(is_filled_again(&data, || length() == whole.len() as u64), "{keep}: {} bytes", length());
    }
}

#[test]
fn another_source_or_size_is_another_file() {
    let data = TestData::new(2, 1);
    let before = store(&data, disk(&data)).load(0).unwrap().image;
    data.write_image("images/train/000.jpg", 9);
    assert_ne!(store(&data, disk(&data)).load(0).unwrap().image, before);
    assert_eq!(entries(&data).len(), 2);
    ImageStore::new(data.open(Split::Train), 32, disk(&data)).load(0).unwrap();
    assert_eq!(entries(&data).len(), 3);
}

#[test]
fn an_image_that_changes_while_training_is_not_cached_under_its_old_name() {
    let data = TestData::new(3, 1);
    let cached = store(&data, disk(&data));
    cached.load(0).unwrap();
    data.write_image("images/train/001.jpg", 30);
    // Its size is another now than that of the scan.
    let changed = cached.load(1).unwrap().image;
    assert_eq!(cached.load(1).unwrap().image, changed);
    cached.load(2).unwrap();
    let file = &entries(&data)[0];
    let layout = crate::cache::disk::format::Layout::new(&cached.dataset.images, 64);
    assert!(file.filled == 2 || layout.fits(1, changed.bytes().len()), "{file:?}");
}

#[test]
fn a_cache_that_is_cut_or_deleted_under_a_training_costs_time_only() {
    let data = TestData::new(4, 1);
    let plain = store(&data, CacheMode::None);
    let cached = store(&data, disk(&data));
    let pixels_agree = || {
        for index in 0..4 {
            assert_eq!(cached.load(index).unwrap().image, plain.load(index).unwrap().image);
        }
    };
    pixels_agree();
    let path = entries(&data)[0].path.clone();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5000).unwrap();
    pixels_agree();
    pixels_agree();
    let warnings = cached.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("was cut short by somebody"), "{warnings:?}");
    std::fs::remove_dir_all(data.path("cache")).unwrap();
    pixels_agree();
    // A deleted file lives on for whoever has it open.
    let other = store(&data, disk(&data));
    other.load(0).unwrap();
    std::fs::remove_dir_all(data.path("cache")).unwrap();
    assert_eq!(other.load(0).unwrap().image, plain.load(0).unwrap().image);
    assert_eq!(other.load(1).unwrap().image, plain.load(1).unwrap().image);
    assert_eq!(other.take_warnings(), Vec::<String>::new());
}

#[test]
fn what_is_cut_off_within_a_page_is_noticed_though_no_signal_tells() {
    let data = TestData::new(1, 1);
    let expected = store(&data, CacheMode::None).load(0).unwrap().image;
    store(&data, disk(&data)).load(0).unwrap();
    let path = entries(&data)[0].path.clone();
    let cached = store(&data, disk(&data));
    let mut calls = 0;
    let found = cached.retry_if_truncated(|| {
        calls += 1;
        let image = cached.load(0).unwrap().image;
        // The last byte is in the same page as the one before it: the system answers zero.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(std::fs::metadata(&path).unwrap().len() - u64::from(calls == 1)).unwrap();
        image.bytes().to_vec()
    });
    assert_eq!((found, calls), (expected.bytes().to_vec(), 2));
}

#[test]
fn of_two_jobs_on_one_cold_cache_one_fills_and_both_are_right() {
    let data = TestData::new(12, 1);
    let plain = store(&data, CacheMode::None);
    let stores = [store(&data, disk(&data)), store(&data, disk(&data))];
    let gate = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for cached in stores.iter().chain(&stores) {
            scope.spawn(|| {
                gate.wait();
                for index in (0..12).cycle().take(36) {
                    assert_eq!(cached.load(index).unwrap().image, plain.load(index).unwrap().image);
                }
            });
        }
    });
    let files = entries(&data);
    assert_eq!(files.len(), 1);
    assert_eq!(directory::verify(&files[0]).unwrap(), Verified { good: 12, ..Verified::default() });
    for cached in &stores {
        assert_eq!(cached.take_warnings(), Vec::<String>::new());
    }
}

/// Names the data set's folder to a copy of a test, which then is one of several jobs.
const JOB: &str = "TRAINYARD_TEST_JOB_FOLDER";

/// The data set of the copy of a test, opened.
fn job_dataset() -> Option<(PathBuf, Arc<Dataset>)> {
    let folder = PathBuf::from(std::env::var_os(JOB)?);
    let yaml = crate::dataset::data_yaml::DataYaml::read(&folder.join("data.yaml")).unwrap();
    let dataset = Dataset::open(&yaml, Split::Train, &crate::OpenOptions::default()).unwrap();
    Some((folder, Arc::new(dataset)))
}

/// Runs test `name` of this module once more, as a process of its own.
fn start_job(name: &str, data: &TestData) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{}::{name}", module_path!().split_once("::").unwrap().1)])
        .env(JOB, data.path(""))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_kill_while_the_cache_is_written_leaves_only_whole_images() {
    if let Some((folder, dataset)) = job_dataset() {
        // Fills the cache, and goes on until it is killed.
        let cached = ImageStore::new(dataset, 64, CacheMode::Disk(roomy(folder.join("cache"))));
        for index in (0..cached.len()).cycle() {
            cached.load(index).unwrap();
        }
    }
    let data = TestData::new(60, 1);
    let mut child = start_job("a_kill_while_the_cache_is_written_leaves_only_whole_images", &data);
    while !entries(&data).iter().any(|file| file.filled > 3) {
        assert!(child.try_wait().unwrap().is_none(), "the child ended");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let verified = directory::verify(&entries(&data)[0]).unwrap();
    assert!(verified.good > 3 && verified.bad == 0, "{verified:?}");
    // Its lock has died with it: the next one goes on.
    let (plain, cached) = (store(&data, CacheMode::None), store(&data, disk(&data)));
    for index in 0..60 {
        assert_eq!(cached.load(index).unwrap().image, plain.load(index).unwrap().image);
    }
    assert_eq!(directory::verify(&entries(&data)[0]).unwrap(), Verified { good: 60, ..Verified::default() });
}

#[test]
fn processes_that_start_on_one_cold_cache_in_the_same_moment_share_it() {
    if let Some((folder, dataset)) = job_dataset() {
        let gate = folder.join("gate");
        while !gate.exists() {
            std::thread::yield_now();
        }
        let plain = ImageStore::new(Arc::clone(&dataset), 64, CacheMode::None);
        let cached = ImageStore::new(dataset, 64, CacheMode::Disk(roomy(folder.join("cache"))));
        for index in (0..plain.len()).cycle().take(3 * plain.len()) {
            assert_eq!(cached.load(index).unwrap().image, plain.load(index).unwrap().image);
        }
        assert_eq!(cached.take_warnings(), Vec::<String>::new());
        return;
    }
    let data = TestData::new(30, 1);
    let name = "processes_that_start_on_one_cold_cache_in_the_same_moment_share_it";
    let children: Vec<_> = (0..3).map(|_| start_job(name, &data)).collect();
    data.write("gate", b"");
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let files = entries(&data);
    assert_eq!(files.len(), 1);
    assert_eq!(directory::verify(&files[0]).unwrap(), Verified { good: 30, ..Verified::default() });
}

#[test]
fn caches_are_listed_and_removed() {
    let data = TestData::new(3, 1);
    store(&data, disk(&data)).load(1).unwrap();
    let files = entries(&data);
    let header = files[0].header.as_ref().unwrap();
    assert_eq!((files[0].filled, header.images, header.imgsz), (1, 3, 64));
    assert!(header.name.ends_with("images/train"), "{}", header.name);
    directory::remove(&files[0]).unwrap();
    assert!(entries(&data).is_empty());
    assert!(directory::list(&data.path("nowhere")).is_empty());
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
fn a_jpeg_that_is_cut_later_is_replaced_and_not_trained_on_as_grey() {
    let data = TestData::new(3, 1);
    let plain = store(&data, CacheMode::None);
    truncate(&data.path("images/train/001.jpg"));
    for _ in 0..2 {
        assert_eq!(plain.load(1).unwrap().index, 2);
    }
    let warnings = plain.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("001.jpg: is truncated; another image takes its place"), "{warnings:?}");
}

#[test]
fn an_image_that_cannot_be_read_for_now_is_used_again_later() {
    let data = TestData::new(3, 1);
    let file = data.path("images/train/001.jpg");
    for mode in [CacheMode::None, in_ram(1 << 20, None), disk(&data)] {
        let cached = store(&data, mode);
        // A folder in its place is an error of reading for every user, root included.
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        for _ in 0..2 {
            assert_eq!(cached.load(1).unwrap().index, 2);
        }
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(cached.load(1).unwrap().index, 1);
        let warnings = cached.take_warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("001.jpg: cannot be read"), "{warnings:?}");
    }
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
