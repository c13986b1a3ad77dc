//! Decoded images at training size: made when asked for, kept in memory or on disk if so configured.
//!
//! An image that cannot be decoded is reported once and replaced by the next one that can, always the
//! same, so that a damaged file neither ends nor changes a training from run to run. One that only cannot be read for
//! now is tried again at its next use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::dataset::Dataset;
use crate::decode::{self, DecodeError};
use crate::disk_cache::{DiskCache, Place, Source};
use crate::labels::Label;
use crate::letterbox::load_resize;
use crate::loader::LoadError;
use crate::planes::Planes;
use crate::source::{self, Stamp};

/// Unreadable images in a row after which the data must be gone.
const GIVE_UP_AFTER: usize = 64;

/// Warnings kept until someone takes them.
const WARNINGS: usize = 100;

/// Where decoded images are kept.
#[derive(Debug, Clone)]
pub enum CacheMode {
    /// Nowhere.
    None,
    /// In memory.
    Ram {
        /// As far as this reaches.
        budget: RamBudget,
        /// For what memory has no room for; without it, that is decoded each time.
        overflow: Option<Place>,
    },
    /// In one file.
    Disk(Place),
}

/// Bytes of memory that are left for pixels; clones share them.
#[derive(Debug, Clone)]
pub struct RamBudget(Arc<AtomicU64>);

impl RamBudget {
    /// So many bytes, for all stores that have a clone.
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    fn has(&self, bytes: u64) -> bool {
        self.0.load(Ordering::Relaxed) >= bytes
    }

    fn take(&self, bytes: u64) -> bool {
        let take = |free: u64| free.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The images of a data set at training size.
#[derive(Debug)]
pub struct ImageStore {
    dataset: Arc<Dataset>,
    imgsz: usize,
    cache: Cache,
    /// Images that failed.
    failures: Mutex<BTreeMap<usize, Failure>>,
    /// For the user, not yet taken.
    warnings: Mutex<Vec<String>>,
    /// The disk cache's file, once it was seen to be complete.
    complete: OnceLock<PathBuf>,
}

/// Why an image could not be had.
#[derive(Debug, Clone)]
struct Failure {
    message: String,
    /// Whether it is the same at each use; such an image is not tried again.
    lasts: bool,
}

impl Failure {
    fn of(path: &Path, error: &DecodeError) -> Self {
        let passes = matches!(error, DecodeError::Read(error) if !source::is_gone(error));
        Self { message: format!("{}: {error}", path.display()), lasts: !passes }
    }
}

#[derive(Debug)]
enum Cache {
    None,
    /// Boxed, as there may be a million of which few have room.
    Ram {
        images: Vec<OnceLock<Box<Planes>>>,
        budget: RamBudget,
        overflow: Option<DiskCache>,
    },
    Disk(DiskCache),
}

/// An image and its labels.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Which item it is: another than was asked for if that one is unreadable.
    pub index: usize,
    /// Its long side is the training size.
    pub image: Planes,
    dataset: Arc<Dataset>,
}

impl Loaded {
    /// Pixels and labels.
    pub fn tile(&self) -> (&Planes, &[Label]) {
        (&self.image, self.dataset.items.labels(self.index))
    }
}

impl ImageStore {
    /// Images of `dataset` with a long side of `imgsz` pixels. Nothing is loaded yet.
    pub fn new(dataset: Arc<Dataset>, imgsz: usize, mode: CacheMode) -> Self {
        let disk = |place| DiskCache::new(place, &dataset.items, imgsz);
        let cache = match mode {
            CacheMode::None => Cache::None,
            CacheMode::Ram { budget, overflow } => Cache::Ram {
                images: (0..dataset.len()).map(|_| OnceLock::new()).collect(),
                budget,
                overflow: overflow.map(disk),
            },
            CacheMode::Disk(place) => Cache::Disk(disk(place)),
        };
        let (failures, warnings) = Default::default();
        Self { dataset, imgsz, cache, failures, warnings, complete: OnceLock::new() }
    }

    /// Images in the data set.
    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    /// Bytes of memory that this takes, but the data set's, and pixels.
    pub fn memory_bytes(&self) -> usize {
        let slots = match &self.cache {
            Cache::Ram { images, .. } => images.capacity() * size_of::<OnceLock<Box<Planes>>>(),
            Cache::Disk(_) | Cache::None => 0,
        };
        slots + self.disk().map_or(0, DiskCache::memory_bytes)
    }

    /// Never true, as a data set without images is not opened.
    pub fn is_empty(&self) -> bool {
        self.dataset.is_empty()
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// Its images' long side, pixels.
    pub fn imgsz(&self) -> usize {
        self.imgsz
    }

    /// Images found unreadable so far.
    pub fn failed(&self) -> usize {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What the user should know since the last call: unreadable images, a cache that does not work.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut warnings = std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner));
        warnings.extend(self.disk().map(DiskCache::take_warnings).unwrap_or_default());
        warnings
    }

    fn warn(&self, message: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < WARNINGS {
            warnings.push(message);
        }
    }

    /// Image `index`, or the next readable one after it.
    ///
    /// # Errors
    /// When none of many images is readable.
    ///
    /// # Panics
    /// When `index` is not below [`ImageStore::len`].
    pub fn load(&self, index: usize) -> Result<Loaded, LoadError> {
        let tried = self.len().min(GIVE_UP_AFTER);
        let mut last = String::new();
        for offset in 0..tried {
            let index = (index + offset) % self.len();
            match self.load_exactly(index) {
                Ok(image) => return Ok(Loaded { index, image, dataset: Arc::clone(&self.dataset) }),
                Err(message) => last = message,
            }
        }
        let first = self.dataset.items.path(index).display().to_string();
        Err(LoadError::NothingReadable { first, tried, last })
    }

    /// Image `index` itself; the error is for the user and has been counted.
    fn load_exactly(&self, index: usize) -> Result<Planes, String> {
        let failures = || self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = failures().get(&index).filter(|failure| failure.lasts) {
            return Err(failure.message.clone());
        }
        let made = match &self.cache {
            Cache::None => self.decode(index),
            Cache::Ram { images, budget, overflow } => {
                self.in_ram(index, &images[index], budget, overflow.as_ref())
            }
            Cache::Disk(cache) => self.on_disk(index, cache),
        };
        made.map_err(|failure| {
            let message = failure.message.clone();
            // It may have failed before, or two threads have met it at once.
            if failures().insert(index, failure).is_none() {
                self.warn(format!("{message}; another image takes its place"));
            }
            message
        })
    }

    /// Does `make`; does it again if a cached image was cut meanwhile, so that nobody sees what is left of it.
    pub fn steadily<T>(&self, mut make: impl FnMut() -> T) -> T {
        loop {
            let before = self.is_cut();
            let made = make();
            // It can be cut only once: then it is not used any more.
            if self.is_cut() == before {
                return made;
            }
        }
    }

    fn disk(&self) -> Option<&DiskCache> {
        match &self.cache {
            Cache::Disk(disk) | Cache::Ram { overflow: Some(disk), .. } => Some(disk),
            Cache::Ram { .. } | Cache::None => None,
        }
    }

    /// The file that holds every readable image decoded, once it does: another run need not decode any. What
    /// memory alone holds is of no use to another.
    pub fn cached_file(&self) -> Option<PathBuf> {
        let Cache::Disk(disk) = &self.cache else { return None };
        if self.complete.get().is_none() {
            let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if !disk.is_complete(|index| failures.contains_key(&index)) {
                return None;
            }
        }
        Some(self.complete.get_or_init(|| disk.path()).clone())
    }

    fn is_cut(&self) -> bool {
        self.disk().is_some_and(DiskCache::is_cut)
    }

    fn decode(&self, index: usize) -> Result<Planes, Failure> {
        let path = self.dataset.items.path(index);
        let image = source::read(&path).map_err(DecodeError::Read).and_then(|bytes| decode::decode(&bytes));
        let image = image.map_err(|error| Failure::of(&path, &error))?;
        Ok(Planes::from(&load_resize(image, self.imgsz)))
    }

    fn in_ram(
        &self,
        index: usize,
        slot: &OnceLock<Box<Planes>>,
        budget: &RamBudget,
        overflow: Option<&DiskCache>,
    ) -> Result<Planes, Failure> {
        if let Some(image) = slot.get() {
            return Ok(Planes::clone(image));
        }
        let [width, height] = self.loaded_size(index);
        if let Some(disk) = overflow.filter(|_| !budget.has((3 * width * height) as u64)) {
            return self.on_disk(index, disk);
        }
        let image = self.decode(index)?;
        let bytes = image.bytes().len() as u64;
        if budget.take(bytes) && slot.set(Box::new(image.clone())).is_err() {
            // Another thread was faster and paid for the same image.
            budget.give_back(bytes);
        }
        Ok(image)
    }

    fn loaded_size(&self, index: usize) -> [usize; 2] {
        crate::letterbox::loaded_size(self.dataset.items.size(index), self.imgsz)
    }

    fn on_disk(&self, index: usize, cache: &DiskCache) -> Result<Planes, Failure> {
        let path = &self.dataset.items.path(index);
        if let Some(planes) = cache.read(index, path) {
            return Ok(planes);
        }
        let stamp = Stamp::of(path);
        let failed = |error: DecodeError| Failure::of(path, &error);
        let bytes = source::read(path).map_err(|error| failed(error.into()))?;
        let planes = Planes::from(&load_resize(decode::decode(&bytes).map_err(failed)?, self.imgsz));
        cache.write(index, &Source { path, stamp, bytes: &bytes }, &planes);
        Ok(planes)
    }
}

#[cfg(test)]
mod content_tests;
#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod room_tests;
#[cfg(test)]
mod tests;
