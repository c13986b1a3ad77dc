//! Real disks that are full or cannot be written. Each test runs itself again in a mount namespace of its own, where it
//! may mount what it needs; root and ordinary users may do that on most machines. Where neither may, it says so on
//! the terminal and goes on with what every system has.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::tests::{disk, entries, store};
use super::*;
use crate::cache::disk::directory::{self, Verified};
use crate::cache::disk::{DiskCache, Limits};
use crate::dataset::data_yaml::DataYaml;
use crate::dataset::{OpenOptions, Split};
use crate::test_data::{TestData, settle};

/// Names the folder of the data set to the copy of a test that runs in the namespace.
const FOLDER: &str = "TRAINYARD_TEST_NAMESPACE_FOLDER";

/// Tells that copy that there is no namespace: that it has to limit itself.
const LIMITED: &str = "TRAINYARD_TEST_LIMIT_FILES";

/// In a namespace, the folder that the test before has made.
fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Runs test `name` of this module again in a mount namespace. `false` if the machine refuses namespaces.
fn passes_in_a_namespace(name: &str, data: &TestData) -> bool {
    for rights in [&["--mount"][..], &["--user", "--map-root-user", "--mount"]] {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(rights);
            command
        };
        let probe = unshare().args(["mount", "-t", "tmpfs", "none", "/tmp"]).stderr(Stdio::null()).status();
        if !probe.is_ok_and(|status| status.success()) {
            continue;
        }
        let status = again(name, data, Some(unshare())).status().unwrap();
        assert!(status.success(), "{name} failed in its namespace");
        return true;
    }
    // Not by a macro, whose output a passing test swallows.
    let text = format!("{name}: this machine refuses mount namespaces; going on without\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    false
}

/// Test `name` of this module once more, by way of another program if there is one.
fn again(name: &str, data: &TestData, by: Option<Command>) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match by {
        Some(mut by) => {
            by.arg(this);
            by
        }
        None => Command::new(this),
    };
    let module = module_path!().split_once("::").unwrap().1;
    let test = format!("{module}::{name}");
    command.args(["--exact", "--nocapture", &test]).env(FOLDER, data.path("")).stdout(Stdio::null());
    command
}

fn a_limit_of_file_sizes_is_no_matter(folder: &Path) {
    // SAFETY: nothing else in this process cares about the signal that comes with the limit.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let most = rustix::process::Rlimit { current: Some(20_000), maximum: Some(20_000) };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, most).unwrap();
    let cached = on(folder, 0);
    all_agree(&cached, folder);
    let warnings = cached.take_warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("cannot be written (File too large"), "{warnings:?}");
}

fn mount(arguments: &[&str], target: &Path) {
    let status = Command::new("mount").args(arguments).arg(target).status().unwrap();
    assert!(status.success(), "mount {arguments:?}");
}

fn open(folder: &Path) -> Arc<Dataset> {
    let yaml = DataYaml::read(&folder.join("data.yaml")).unwrap();
    Arc::new(Dataset::open(&yaml, Split::Train, &OpenOptions::default()).unwrap())
}

fn on(folder: &Path, floor_bytes: u64) -> ImageStore {
    let limits = Limits { quota_bytes: Some(u64::MAX), floor_bytes: Some(floor_bytes) };
    let place = CacheDir { directory: folder.join("cache"), limits };
    ImageStore::new(open(folder), 64, CacheMode::Disk(place))
}

/// All images come, whatever the cache does.
fn all_agree(cached: &ImageStore, folder: &Path) {
    let plain = ImageStore::new(open(folder), 64, CacheMode::None);
    for index in 0..plain.len() {
        assert_eq!(cached.load(index).unwrap().image, plain.load(index).unwrap().image, "{index}");
    }
}

fn fill_up(disk: &Path) {
    let mut filler = std::fs::File::create(disk.join("filler")).unwrap();
    for block in [65536, 4096, 512, 1] {
        while filler.write_all(&vec![1; block]).is_ok() {}
    }
    assert_eq!(filler.write(&[1]).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn a_disk_that_fills_while_the_cache_is_written_costs_one_warning() {
    let name = "a_disk_that_fills_while_the_cache_is_written_costs_one_warning";
    if let Some(folder) = folder() {
        let cache = folder.join("cache");
        if std::env::var_os(LIMITED).is_some() {
            return a_limit_of_file_sizes_is_no_matter(&folder);
        }
        mount(&["-t", "tmpfs", "-o", "size=1m", "none"], &cache);
        let cached = on(&folder, 0);
        // What was written before the disk was full is of use; the rest is decoded.
        for index in 0..5 {
            cached.load(index).unwrap();
        }
        fill_up(&cache);
        for _ in 0..3 {
            all_agree(&cached, &folder);
        }
        let warnings = cached.take_warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("cannot be written (No space left on device"), "{warnings:?}");
        let found = directory::verify(&directory::list(&cache)[0]).unwrap();
        assert!(found.good >= 5 && found.bad == 0 && found.empty > 10, "{found:?}");
        drop(cached);
        // The next job finds the disk full from the beginning, or goes on when there is room again.
        let again = on(&folder, 0);
        all_agree(&again, &folder);
        assert_eq!(again.take_warnings().len(), 1);
        drop(again);
        std::fs::remove_file(cache.join("filler")).unwrap();
        let roomy = on(&folder, 0);
        all_agree(&roomy, &folder);
        assert_eq!(roomy.take_warnings(), Vec::<String>::new());
        let found = directory::verify(&directory::list(&cache)[0]).unwrap();
        assert_eq!(found, Verified { good: 30, ..Verified::default() });
        return;
    }
    let data = TestData::new(30, 1);
    std::fs::create_dir(data.path("cache")).unwrap();
    passes_in_a_namespace(name, &data);
    // Another wall that the kernel puts up, for any user: files may not become larger than this.
    let status = again(name, &data, None).env(LIMITED, "1").status().unwrap();
    assert!(status.success(), "{name} failed with a limit of file sizes");
}

#[test]
fn a_disk_that_is_full_from_the_beginning_costs_one_warning() {
    let name = "a_disk_that_is_full_from_the_beginning_costs_one_warning";
    if let Some(folder) = folder() {
        let cache = folder.join("cache");
        mount(&["-t", "tmpfs", "-o", "size=64k", "none"], &cache);
        let cached = on(&folder, 0);
        all_agree(&cached, &folder);
        let warnings = cached.take_warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("its disk has"), "{warnings:?}");
        assert!(directory::list(&cache).is_empty());
        return;
    }
    let data = TestData::new(30, 1);
    std::fs::create_dir(data.path("cache")).unwrap();
    if !passes_in_a_namespace(name, &data) {
        let cached = on(&data.path(""), 1 << 60);
        all_agree(&cached, &data.path(""));
        assert_eq!(cached.take_warnings().len(), 1);
    }
}

#[test]
fn a_disk_without_room_is_made_room_on_by_what_was_used_longest_ago() {
    let name = "a_disk_without_room_is_made_room_on_by_what_was_used_longest_ago";
    if let Some(folder) = folder() {
        let cache = folder.join("cache");
        mount(&["-t", "tmpfs", "-o", "size=600k", "none"], &cache);
        let sizes = || {
            let found = directory::list(&cache).into_iter();
            found.map(|file| (file.header.unwrap().imgsz, file.filled)).collect::<Vec<_>>()
        };
        let of_size = |imgsz: usize| {
            let limits = Limits { quota_bytes: Some(u64::MAX), floor_bytes: Some(100_000) };
            let place = CacheDir { directory: cache.clone(), limits };
            let cached = ImageStore::new(open(&folder), imgsz, CacheMode::Disk(place));
            for index in 0..cached.len() {
                cached.load(index).unwrap();
            }
            assert_eq!(cached.take_warnings(), Vec::<String>::new(), "{imgsz}");
        };
        of_size(64);
        assert_eq!(sizes(), [(64, 30)]);
        of_size(60);
        assert_eq!(sizes(), [(60, 30)]);
        return;
    }
    let data = TestData::new(30, 1);
    std::fs::create_dir(data.path("cache")).unwrap();
    // Another way to a disk of a known size is not to be had.
    passes_in_a_namespace(name, &data);
}

#[test]
fn a_read_only_directory_serves_what_it_has_and_costs_one_warning_when_it_has_nothing() {
    let name = "a_read_only_directory_serves_what_it_has_and_costs_one_warning_when_it_has_nothing";
    if let Some(folder) = folder() {
        let cache = folder.join("cache");
        let path = cache.to_str().unwrap().to_owned();
        mount(&["--bind", &path], &cache);
        mount(&["-o", "remount,ro,bind"], &cache);
        // Root may not write there either.
        assert_eq!(
            std::fs::write(cache.join("x"), b"").unwrap_err().kind(),
            std::io::ErrorKind::ReadOnlyFilesystem
        );
        let filled = on(&folder, 0);
        all_agree(&filled, &folder);
        assert_eq!(filled.take_warnings(), Vec::<String>::new());
        let Cache::Disk(disk) = &filled.cache else { unreachable!() };
        for index in 0..filled.len() {
            assert!(disk.read(index, &filled.dataset.images.path(index)).is_some(), "{index}");
        }
        // Of another size nothing is there.
        let limits = Limits::DEFAULT;
        let other = DiskCache::new(CacheDir { directory: cache.clone(), limits }, &filled.dataset.images, 32);
        assert!(other.read(0, &filled.dataset.images.path(0)).is_none());
        let warnings = other.take_warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("Read-only file system"), "{warnings:?}");
        // Labels are read each time.
        let yaml = DataYaml::read(&folder.join("data.yaml")).unwrap();
        let open = OpenOptions::default();
        assert_eq!(Dataset::open_cached(&yaml, Split::Train, &open, &cache).unwrap().len(), 6);
        return;
    }
    let data = TestData::new(6, 1);
    settle(&data.path("images/val/000.jpg"));
    let first = store(&data, disk(&data));
    (0..6).for_each(|index| drop(first.load(index).unwrap()));
    drop(first);
    assert_eq!(entries(&data)[0].filled, 6);
    if !passes_in_a_namespace(name, &data) {
        // A directory that nobody can write, root included.
        let directory = PathBuf::from("/proc/self/fdinfo");
        let place = CacheDir { directory, limits: Limits::DEFAULT };
        let cached = store(&data, CacheMode::Disk(place));
        all_agree(&cached, &data.path(""));
        assert_eq!(cached.take_warnings().len(), 1);
    }
}
