//! Room in the store: what goes when a fetch needs some, or the disk becomes full.
//!
//! Blobs without a version go first, then versions that were used longest ago. What an attempt needs never goes.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tracing::{info, warn};
use trainyard_content::Digest;
use trainyard_types::size;

use super::layout::{entries, is_partial, on_disk};
use super::store::Store;
use super::{blob, manifest_file, tree, unfinished};

/// What the configuration says of the store's size, in GiB; `None` for the defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// What all blobs may take; a quarter of the disk.
    pub quota_gib: Option<u32>,
    /// What stays free on the disk; a twentieth of it, at most 10.
    pub floor_gib: Option<u32>,
}

/// The disk, and what of it the store may take, in bytes.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    quota: u64,
    floor: u64,
    free: u64,
}

impl Limits {
    /// `None` where the system does not tell: then the disk itself says when it is full.
    fn bounds(self, folder: &Path) -> Option<Bounds> {
        let disk = statvfs(folder).ok()?;
        let unit = disk.fragment_size();
        let (size, free) = (disk.blocks().saturating_mul(unit), disk.blocks_available().saturating_mul(unit));
        let bytes = |gib: u32| u64::from(gib) << 30;
        Some(Bounds {
            quota: self.quota_gib.map_or(size / 4, bytes),
            floor: self.floor_gib.map_or((size / 20).min(10 << 30), bytes),
            free,
        })
    }
}

/// Why there is no room, the end of a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error(
        "{} are missing here, and `fetched_quota_gib` allows {} in all; raise the key",
        size::bytes(*needed), size::bytes(*quota)
    )]
    TooLarge { needed: u64, quota: u64 },
    #[error(
        "{} are missing here, and the store takes {} of the {} that `fetched_quota_gib` allows, which is held by {by}; \
         raise the key{}",
        size::bytes(*needed),
        size::bytes(*used),
        size::bytes(*quota),
        by.way_out()
    )]
    Quota { needed: u64, used: u64, quota: u64, by: Holders },
    #[error(
        "{} are missing here, and the disk of `cache_dir` has {} free, of which `cache_floor_gib` keeps {}; make room \
         there",
        size::bytes(*needed), size::bytes(*free), size::bytes(*floor)
    )]
    Disk { needed: u64, free: u64, floor: u64 },
}

/// What keeps room in the store that may not go now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holders {
    /// Versions that attempts need.
    pub by_jobs: usize,
    /// Versions that nobody needs.
    pub unneeded: usize,
    /// Bytes that fetches under way will still take.
    pub promised: u64,
    /// How long a version must have been unused to go.
    pub least_unused: Duration,
}

impl Holders {
    const fn way_out(&self) -> &'static str {
        match (self.by_jobs, self.unneeded) {
            (0, 0) => "",
            (0, _) => ", or wait: a job that starts here takes the room of what was used longest ago",
            _ => ", or wait for those jobs",
        }
    }
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut by = Vec::new();
        if self.by_jobs > 0 {
            by.push(format!("{} that jobs use", size::counted(self.by_jobs, "version")));
        }
        if self.unneeded > 0 {
            let hours = self.least_unused.as_secs() / 3600;
            let versions = size::counted(self.unneeded, "version");
            by.push(format!("{versions} that no job uses, used in the last {hours} h"));
        }
        if self.promised > 0 {
            by.push(format!("{} that are being fetched", size::bytes(self.promised)));
        }
        if by.is_empty() {
            by.push("what was fetched of other versions".to_owned());
        }
        f.write_str(&by.join(", and "))
    }
}

/// Room that was promised to a fetch, until it is dropped.
#[derive(Debug)]
pub struct Promise {
    store: Arc<Store>,
    left: std::sync::Mutex<u64>,
}

impl Promise {
    /// So much of it is used.
    pub fn used(&self, bytes: u64) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let used = bytes.min(*left);
        *left -= used;
        self.store.promise(|promised| promised.saturating_sub(used));
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.used(u64::MAX);
    }
}

/// Makes room for blobs of these lengths, and promises it. Versions go that were unused for so long.
///
/// # Errors
/// There is none, whatever goes that may go.
pub fn make(
    store: &Arc<Store>,
    limits: Limits,
    lengths: impl Iterator<Item = u64>,
    least_unused: Duration,
) -> Result<Promise, NoRoom> {
    let needed = lengths.map(on_disk).sum();
    let _one = store.making_room.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(hopeless) = hopeless(store, limits, needed) {
        return Err(hopeless);
    }
    let mut has_swept = false;
    while let Some(shortage) = shortage(store, limits, needed, least_unused) {
        if !has_swept {
            has_swept = true;
            remove_without_version(store);
        } else if !remove_oldest(store, least_unused) {
            return Err(shortage);
        }
    }
    store.promise(|promised| promised.saturating_add(needed));
    Ok(Promise { store: Arc::clone(store), left: needed.into() })
}

/// Whether a fetch of so many bytes may find room, as far as can be said without removing anything.
///
/// # Errors
/// The version is larger than the quota or the disk allows.
pub fn check(store: &Store, limits: Limits, needed: u64) -> Result<(), NoRoom> {
    hopeless(store, limits, needed).map_or(Ok(()), Err)
}

/// Removes versions while the disk has less room than stays free.
pub fn keep_floor(store: &Store, limits: Limits) {
    let Ok(_one) = store.making_room.try_lock() else { return };
    let mut has_swept = false;
    while limits.bounds(store.layout().content()).is_some_and(|bounds| bounds.free < bounds.floor) {
        if store.taken_and_promised().0 == 0 {
            return;
        }
        if !has_swept {
            has_swept = true;
            remove_without_version(store);
        } else if !remove_oldest(store, Duration::ZERO) {
            return;
        }
    }
}

/// Why there will be no room even if everything goes.
fn hopeless(store: &Store, limits: Limits, needed: u64) -> Option<NoRoom> {
    let Bounds { quota, floor, free } = limits.bounds(store.layout().content())?;
    let (taken, _) = store.taken_and_promised();
    if needed > quota {
        return Some(NoRoom::TooLarge { needed, quota });
    }
    let lacks = free.saturating_add(taken) < floor.saturating_add(needed);
    lacks.then_some(NoRoom::Disk { needed, free, floor })
}

fn shortage(store: &Store, limits: Limits, needed: u64, least_unused: Duration) -> Option<NoRoom> {
    let Bounds { quota, floor, free } = limits.bounds(store.layout().content())?;
    let (taken, promised) = store.taken_and_promised();
    let used = taken.saturating_add(promised);
    if needed > 0 && used.saturating_add(needed) > quota {
        let (by_jobs, unneeded) = store.needed_and_others();
        let by = Holders { by_jobs, unneeded, promised, least_unused };
        return Some(NoRoom::Quota { needed, used, quota, by });
    }
    let lacks = free < floor.saturating_add(needed).saturating_add(promised);
    (needed > 0 && lacks).then_some(NoRoom::Disk { needed, free, floor })
}

/// Removes the version that was used longest ago, and not for so long, with the blobs that are of no other. `false` if
/// there is none.
fn remove_oldest(store: &Store, least_unused: Duration) -> bool {
    let Some(id) = store.take_oldest(least_unused) else { return false };
    match remove(store, id) {
        Ok(bytes) => info!(version = %id, bytes, "room is needed: a fetched version is removed"),
        Err(error) => warn!(version = %id, %error, "a fetched version cannot be removed"),
    }
    true
}

fn remove(store: &Store, id: Digest) -> std::io::Result<u64> {
    let layout = store.layout();
    let manifest = manifest_file::read(layout, id);
    let gone = layout.tree_being_removed(id);
    fs::rename(layout.tree(id), &gone)?;
    let removed = tree::remove(&gone);
    let mut bytes = 0;
    // Without its list, its blobs are found when blobs without a version go.
    for entry in manifest.iter().flat_map(|manifest| manifest.entries()) {
        let blob = layout.blob(entry.digest);
        if fs::symlink_metadata(&blob).is_ok_and(|known| known.nlink() == 1) {
            store.remove_blob(&blob, entry.size_bytes)?;
            bytes += on_disk(entry.size_bytes);
        }
    }
    let _gone = fs::remove_file(layout.manifest(id));
    removed.map(|()| bytes)
}

/// Removes blobs of no version: what was fetched before a fetch was given up.
fn remove_without_version(store: &Store) {
    let layout = store.layout();
    for path in entries(layout.versions()) {
        let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        let is_unfinished = path.extension().is_some_and(|extension| extension == "part");
        if let Some(id) = id
            && is_unfinished
            && !store.is_needed(id)
            && let Err(error) = tree::remove(&path)
        {
            warn!(path = %path.display(), %error, "what was left of a version cannot be removed");
        }
    }
    store.each_blob(|path, known| {
        let removed = match known.nlink() {
            1 if is_partial(path) => unfinished::remove_idle(path).map(|removed| {
                let left = if removed { 0 } else { known.len() };
                store.partial_changed(known.len(), left);
            }),
            1 if blob::is_finished(path) => store.remove_blob(path, known.len()),
            _ => Ok(()),
        };
        if let Err(error) = removed {
            warn!(path = %path.display(), %error, "a content that no version has cannot be removed");
        }
    });
}
