//! The cache directory as a whole: what is in it, what may go, how much room there is.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock, statvfs};

use super::Place;
use super::format::{Entry, Header, checksum};
use crate::data::label_cache;

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

/// Makes room for `needed` bytes within the quota: the files used longest ago go first, those in use stay.
pub fn evict(place: &Place, needed: u64, keep: &Path) {
    let Some(quota) = quota(place) else { return };
    let mut found: Vec<(SystemTime, u64, PathBuf)> = kept_files(&place.directory)
        .into_iter()
        .filter(|path| path != keep)
        .filter_map(|path| {
            let metadata = fs::metadata(&path).ok()?;
            Some((metadata.modified().ok()?, metadata.blocks() * 512, path))
        })
        .collect();
    found.sort();
    let mut used: u64 = found.iter().map(|file| file.1).sum();
    for (_, bytes, path) in found {
        if used.saturating_add(needed) <= quota {
            return;
        }
        let Ok(file) = File::open(&path) else { continue };
        let free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if free && fs::remove_file(&path).is_ok() {
            // As in `remove`.
            let _ = fs::remove_file(path.with_extension(LOCK_SUFFIX));
            used = used.saturating_sub(bytes);
        }
    }
}

fn quota(place: &Place) -> Option<u64> {
    if place.limits.quota_bytes.is_some() {
        return place.limits.quota_bytes;
    }
    let disk = statvfs(&place.directory).ok()?;
    Some(disk.f_blocks.saturating_mul(disk.f_frsize) / 2)
}

/// Why `needed` more bytes cannot be had; `None` when they can, or when the system does not tell.
pub fn lacks_space(place: &Place, needed: u64) -> Option<String> {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let files = kept_files(&place.directory);
    let used: u64 = files.iter().filter_map(|path| fs::metadata(path).ok()).map(|m| m.blocks() * 512).sum();
    if let Some(quota) = quota(place).filter(|quota| used.saturating_add(needed) > *quota) {
        return Some(format!(
            "needs {:.1} GiB for this data set beside the {:.1} GiB in use, more than its quota of {:.1} GiB",
            gib(needed),
            gib(used),
            gib(quota)
        ));
    }
    let disk = statvfs(&place.directory).ok()?;
    let (size, free) =
        (disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize));
    let floor = place.limits.floor_bytes.unwrap_or((size / 20).min(10 << 30));
    (free < needed.saturating_add(floor)).then(|| {
        format!(
            "needs {:.1} GiB for this data set, its disk has {:.1} GiB free and {:.1} GiB of them are kept free",
            gib(needed), gib(free), gib(floor)
        )
    })
}
