//! The cache directory as a whole: what is in it, what may go, how much room there is.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock, statvfs};

use super::Place;
use super::format::{Entry, Header, checksum};
use crate::label_cache;

/// Of cache files.
pub const SUFFIX: &str = "tycache";
/// Of the locks of those who fill them.
pub const LOCK_SUFFIX: &str = "lock";

/// A cache file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFile {
    /// Its name without suffix, for `rm` and `verify`.
    pub key: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it says of itself; `None` when it is damaged.
    pub header: Option<Header>,
    /// Images that are in it.
    pub filled: u64,
    /// Blocks that it has on disk, bytes.
    pub disk_bytes: u64,
    /// When it was last opened.
    pub used: SystemTime,
}

/// What a file's pixels are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// Images that are whole.
    pub good: u64,
    /// Images not filled yet.
    pub empty: u64,
    /// Images that are damaged; they would be made again.
    pub bad: u64,
}

/// All cache files of a directory, the one used last first. None when there is no such directory.
pub fn list(directory: &Path) -> Vec<CacheFile> {
    let mut found: Vec<CacheFile> = files(directory).into_iter().filter_map(describe).collect();
    found.sort_by_key(|file| std::cmp::Reverse(file.used));
    found
}

fn files(directory: &Path) -> Vec<PathBuf> {
    kept_files(directory).into_iter().filter(|path| path.extension().is_some_and(|e| e == SUFFIX)).collect()
}

/// Cached images, and what is known of labels.
fn kept_files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let kept = |path: &PathBuf| path.extension().is_some_and(|e| e == SUFFIX || e == label_cache::SUFFIX);
    paths.filter(kept).collect()
}

fn describe(path: PathBuf) -> Option<CacheFile> {
    let file = File::open(&path).ok()?;
    let metadata = file.metadata().ok()?;
    let header = Header::read(&file);
    let images = header.as_ref().map_or(0, |header| header.images);
    let indices = 0..usize::try_from(images).unwrap_or(0);
    let filled = indices.filter(|index| Entry::read(&file, *index).is_some()).count() as u64;
    let key = path.file_stem()?.to_string_lossy().into_owned();
    let used = metadata.modified().ok()?;
    Some(CacheFile { key, path, header, filled, disk_bytes: metadata.blocks() * 512, used })
}

/// Removes a cache file. A training that uses it keeps it until its end.
///
/// # Errors
/// When the file cannot be removed.
pub fn remove(file: &CacheFile) -> std::io::Result<()> {
    fs::remove_file(&file.path)?;
    // The lock may be held by a training that still fills what was removed; it is remade when needed.
    let _ = fs::remove_file(file.path.with_extension(LOCK_SUFFIX));
    Ok(())
}

/// Removes what is known of labels; the next job reads them again.
///
/// # Errors
/// When a file cannot be removed.
pub fn remove_labels(directory: &Path) -> std::io::Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == label_cache::SUFFIX) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Reads every image of a file and compares checksums.
///
/// # Errors
/// When the file cannot be read.
pub fn verify(file: &CacheFile) -> std::io::Result<Verified> {
    let opened = File::open(&file.path)?;
    let (mut found, mut pixels) = (Verified::default(), Vec::new());
    let Some(header) = &file.header else { return Ok(Verified { bad: 1, ..found }) };
    let length = opened.metadata()?.len();
    for index in 0..usize::try_from(header.images).unwrap_or(0) {
        let Some(entry) = Entry::read(&opened, index) else {
            let empty = Entry::is_empty(&opened, index);
            *(if empty { &mut found.empty } else { &mut found.bad }) += 1;
            continue;
        };
        let fits = entry.offset.saturating_add(entry.bytes() as u64) <= length;
        // A damaged entry must not make us reserve the machine's memory.
        pixels.resize(if fits { entry.bytes() } else { 0 }, 0);
        let whole = fits && opened.read_exact_at(&mut pixels, entry.offset).is_ok();
        let good = whole && checksum(&pixels) == entry.checksum;
        *(if good { &mut found.good } else { &mut found.bad }) += 1;
    }
    Ok(found)
}

/// Whether `path` is a name of the open file.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Room that a cache file asks for.
#[derive(Debug, Clone, Copy)]
pub struct Need<'a> {
    /// The file; it may not be there yet.
    pub file: &'a Path,
    /// Its length, bytes.
    pub full: u64,
    /// Whether it is being written: then it goes on until the disk is full.
    pub begun: bool,
}

/// A file of a cache directory, as far as room is concerned.
struct Kept {
    used: SystemTime,
    path: PathBuf,
    /// Blocks that it has on disk, bytes.
    blocks: u64,
    /// What it has, or will have when it is filled.
    full: u64,
}

impl Kept {
    fn look(path: PathBuf) -> Option<Self> {
        let file = File::open(&path).ok()?;
        let metadata = file.metadata().ok()?;
        let blocks = metadata.blocks() * 512;
        let promised = if path.extension().is_some_and(|e| e == SUFFIX) { Header::read(&file) } else { None };
        let full = blocks.max(promised.map_or(0, |header| header.file_bytes));
        Some(Self { used: metadata.modified().ok()?, path, blocks, full })
    }

    /// All of a directory but `except`, the one used longest ago first; and the blocks of that one.
    fn all(directory: &Path, except: &Path) -> (Vec<Self>, u64) {
        let found = kept_files(directory).into_iter().filter_map(Self::look);
        let (own, mut others): (Vec<_>, Vec<_>) = found.partition(|kept| kept.path == except);
        others.sort_by_key(|kept| kept.used);
        (others, own.first().map_or(0, |own| own.blocks))
    }

    /// Removes it unless somebody uses it.
    fn remove(&self) -> bool {
        let Ok(file) = File::open(&self.path) else { return false };
        let free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        let removed = free && fs::remove_file(&self.path).is_ok();
        if removed {
            // As in `remove`.
            let _ = fs::remove_file(self.path.with_extension(LOCK_SUFFIX));
        }
        removed
    }
}

/// Holds back others who count what is in a directory to take room there, as long as the file lives. `None` where
/// there is no directory, or no locks.
pub fn alone(directory: &Path) -> Option<File> {
    let directory = File::open(directory).ok()?;
    flock(&directory, FlockOperation::LockExclusive).ok()?;
    Some(directory)
}

/// Makes room within quota and disk: the files used longest ago go first, those in use stay. Why it cannot be
/// had; `None` when it can, or when the system does not tell.
pub fn make_room(place: &Place, need: &Need<'_>) -> Option<String> {
    lacks_room(place, need)?;
    let (others, own) = Kept::all(&place.directory, need.file);
    let all: u64 = others.iter().map(|kept| kept.blocks).sum();
    let more = if need.begun { 0 } else { need.full.saturating_sub(own) };
    let hopeless = quota(place).is_some_and(|quota| need.full > quota)
        || Disk::of(place)
            .is_some_and(|disk| disk.free.saturating_add(all) < disk.floor.saturating_add(more));
    // Nothing goes for what cannot be had even so; but the directory keeps its limits.
    let asked = if hopeless { Need { full: 0, begun: true, ..*need } } else { *need };
    for kept in &others {
        if lacks_room(place, &asked).is_none() {
            break;
        }
        kept.remove();
    }
    lacks_room(place, need)
}

/// Bytes that a directory may have in all; `None` when the system does not tell.
pub fn quota(place: &Place) -> Option<u64> {
    if place.limits.quota_bytes.is_some() {
        return place.limits.quota_bytes;
    }
    let disk = statvfs(&place.directory).ok()?;
    Some(disk.f_blocks.saturating_mul(disk.f_frsize) / 2)
}

/// What the file system has, bytes.
struct Disk {
    free: u64,
    /// What stays free.
    floor: u64,
}

impl Disk {
    fn of(place: &Place) -> Option<Self> {
        let disk = statvfs(&place.directory).ok()?;
        let (size, free) =
            (disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize));
        Some(Self { free, floor: place.limits.floor_bytes.unwrap_or((size / 20).min(10 << 30)) })
    }
}

/// Why the room cannot be had; `None` when it can, or when the system does not tell. Files that are being filled
/// count as full: what they were promised is nobody else's.
fn lacks_room(place: &Place, need: &Need<'_>) -> Option<String> {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let (others, own) = Kept::all(&place.directory, need.file);
    let taken: u64 = others.iter().map(|kept| kept.full).sum();
    let full = need.full.max(own);
    if let Some(quota) = quota(place).filter(|quota| taken.saturating_add(full) > *quota) {
        return Some(format!(
            "needs {:.1} GiB for this data set beside the {:.1} GiB of others, more than its quota of {:.1} GiB",
            gib(full),
            gib(taken),
            gib(quota)
        ));
    }
    let more = full - own;
    let promised: u64 = others.iter().map(|kept| kept.full - kept.blocks).sum();
    let asked = if need.begun { 0 } else { more.saturating_add(promised) };
    let Disk { free, floor } = Disk::of(place)?;
    (free < asked.saturating_add(floor)).then(|| {
        format!(
            "needs {:.1} GiB more for this data set, its disk has {:.1} GiB free, of which {:.1} GiB are kept free \
             and {:.1} GiB are promised to others",
            gib(more),
            gib(free),
            gib(floor),
            gib(promised)
        )
    })
}
