//! The cache directory as a whole: which files are in it, how much space they may take, which are evicted.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock, statvfs};
use trainyard_types::size;

use super::CacheDir;
use super::format::{Entry, Header};
use crate::dataset::scan_cache;
use crate::files::checksum;

/// Extension of cache files.
pub const SUFFIX: &str = "tycache";
/// Extension of the lock files of those who fill them.
pub const LOCK_SUFFIX: &str = "lock";

/// A file of decoded images, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFile {
    /// Its name without extension, for `rm` and `verify`.
    pub key: String,
    /// The path of the cache file.
    pub path: PathBuf,
    /// What it says of itself; `None` when it is damaged.
    pub header: Option<Header>,
    /// Number of images that are in it.
    pub filled: u64,
    /// Bytes that it takes on disk.
    pub disk_bytes: u64,
    /// When it was last opened.
    pub used: SystemTime,
}

/// How many images of a cache file are whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// Number of images that are whole.
    pub good: u64,
    /// Number of images that are not filled yet.
    pub empty: u64,
    /// Number of images that are damaged; a training would make them again.
    pub bad: u64,
}

/// All cache files of a directory, the one used last first. Empty when there is no such directory.
pub fn list(directory: &Path) -> Vec<CacheFile> {
    let mut found: Vec<CacheFile> = files(directory).into_iter().filter_map(describe).collect();
    found.sort_by_key(|file| std::cmp::Reverse(file.used));
    found
}

fn files(directory: &Path) -> Vec<PathBuf> {
    kept_files(directory).into_iter().filter(|path| path.extension().is_some_and(|e| e == SUFFIX)).collect()
}

/// The files that count for the quota: cached images, and results of scans.
fn kept_files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let kept = |path: &PathBuf| path.extension().is_some_and(|e| e == SUFFIX || e == scan_cache::SUFFIX);
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

/// Removes all results of scans; the next job scans again.
///
/// # Errors
/// When a file cannot be removed.
pub fn remove_labels(directory: &Path) -> std::io::Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == scan_cache::SUFFIX) {
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

/// Whether `path` names the open file.
pub fn is_named(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// The space that a cache file needs.
#[derive(Debug, Clone, Copy)]
pub struct SpaceRequest<'a> {
    /// The file; it may not exist yet.
    pub file: &'a Path,
    /// Its length once it is filled, bytes.
    pub full_bytes: u64,
    /// Whether it is being written: then it needs no more than is free, and goes on until the disk is full.
    pub is_begun: bool,
}

/// A file of a cache directory, as far as space is concerned.
struct KeptFile {
    used: SystemTime,
    path: PathBuf,
    /// Bytes that it takes on disk now.
    disk_bytes: u64,
    /// Bytes that it will take once it is filled.
    full_bytes: u64,
}

impl KeptFile {
    fn read(path: PathBuf) -> Option<Self> {
        let file = File::open(&path).ok()?;
        let metadata = file.metadata().ok()?;
        let disk_bytes = metadata.blocks() * 512;
        let promised = if path.extension().is_some_and(|e| e == SUFFIX) { Header::read(&file) } else { None };
        let full_bytes = disk_bytes.max(promised.map_or(0, |header| header.file_bytes));
        Some(Self { used: metadata.modified().ok()?, path, disk_bytes, full_bytes })
    }

    /// All files of a directory but `except`, the one used longest ago first; and the bytes that `except` takes on disk.
    fn all(directory: &Path, except: &Path) -> (Vec<Self>, u64) {
        let found = kept_files(directory).into_iter().filter_map(Self::read);
        let (own, mut others): (Vec<_>, Vec<_>) = found.partition(|kept| kept.path == except);
        others.sort_by_key(|kept| kept.used);
        (others, own.first().map_or(0, |own| own.disk_bytes))
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

/// Locks a directory against other processes that measure it and take space there, until the file is dropped. `None`
/// where there is no directory, or no locks.
pub fn lock(directory: &Path) -> Option<File> {
    let directory = File::open(directory).ok()?;
    flock(&directory, FlockOperation::LockExclusive).ok()?;
    Some(directory)
}

/// Makes space within quota and disk: files used longest ago are evicted first, files in use stay. Returns why the space
/// cannot be had, as the end of a sentence; `None` when it can, or when the system does not tell.
pub fn make_space(dir: &CacheDir, request: &SpaceRequest<'_>) -> Option<String> {
    space_shortage(dir, request)?;
    let (others, own) = KeptFile::all(&dir.directory, request.file);
    let all: u64 = others.iter().map(|kept| kept.disk_bytes).sum();
    let more = if request.is_begun { 0 } else { request.full_bytes.saturating_sub(own) };
    let hopeless = quota(dir).is_some_and(|quota| request.full_bytes > quota)
        || Disk::of(dir).is_some_and(|disk| disk.free.saturating_add(all) < disk.floor.saturating_add(more));
    // Nothing is evicted for what cannot be had even so; but the directory keeps its limits.
    let asked = if hopeless { SpaceRequest { full_bytes: 0, is_begun: true, ..*request } } else { *request };
    for kept in &others {
        if space_shortage(dir, &asked).is_none() {
            break;
        }
        kept.remove();
    }
    space_shortage(dir, request)
}

/// Bytes that all files of a directory may take; `None` when the system does not tell.
pub fn quota(dir: &CacheDir) -> Option<u64> {
    if dir.limits.quota_bytes.is_some() {
        return dir.limits.quota_bytes;
    }
    let disk = statvfs(&dir.directory).ok()?;
    Some(disk.f_blocks.saturating_mul(disk.f_frsize) / 2)
}

/// The space of a file system, bytes.
struct Disk {
    free: u64,
    /// How much has to stay free.
    floor: u64,
}

impl Disk {
    fn of(dir: &CacheDir) -> Option<Self> {
        let disk = statvfs(&dir.directory).ok()?;
        let (size, free) =
            (disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize));
        Some(Self { free, floor: dir.limits.floor_bytes.unwrap_or((size / 20).min(10 << 30)) })
    }
}

/// Why the space cannot be had, as the end of a sentence; `None` when it can, or when the system does not tell. Files that
/// are being filled count as full, as that space was promised to them.
fn space_shortage(dir: &CacheDir, request: &SpaceRequest<'_>) -> Option<String> {
    let (others, own) = KeptFile::all(&dir.directory, request.file);
    let taken: u64 = others.iter().map(|kept| kept.full_bytes).sum();
    let full = request.full_bytes.max(own);
    if let Some(quota) = quota(dir).filter(|quota| taken.saturating_add(full) > *quota) {
        return Some(format!(
            "needs {} for this data set beside the {} of others, more than its quota of {}",
            size::bytes(full),
            size::bytes(taken),
            size::bytes(quota)
        ));
    }
    let more = full - own;
    let promised: u64 = others.iter().map(|kept| kept.full_bytes - kept.disk_bytes).sum();
    let asked = if request.is_begun { 0 } else { more.saturating_add(promised) };
    let Disk { free, floor } = Disk::of(dir)?;
    (free < asked.saturating_add(floor)).then(|| {
        format!(
            "needs {} more for this data set, its disk has {} free, of which {} are kept free and {} are promised to \
             others",
            size::bytes(more),
            size::bytes(free),
            size::bytes(floor),
            size::bytes(promised)
        )
    })
}
