//! Decoded images at training size: made when asked for, kept in memory or on disk if so configured.
//!
//! An image that cannot be decoded is reported once and replaced by the next one that can, always the
//! same, so that a damaged file neither ends nor changes a training from run to run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::data::dataset::Dataset;
use crate::data::decode::{self, DecodeError};
use crate::data::disk_cache::{DiskCache, Place, Source};
use crate::data::labels::Label;
use crate::data::letterbox::load_resize;
use crate::data::loader::LoadError;
use crate::data::planes::Planes;
use crate::data::source::Stamp;

/// Unreadable images in a row after which the data must be gone.
const GIVE_UP_AFTER: usize = 64;

/// Warnings kept until someone takes them.
const WARNINGS: usize = 100;

/// Where decoded images are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheMode {
    /// Nowhere.
    None,
    /// In memory, up to this many bytes.
    Ram {
        /// For pixels alone.
        budget_bytes: u64,
        /// For what memory has no room for; without it, that is decoded each time.
        overflow: Option<Place>,
    },
    /// In one file.
    Disk(Place),
}

/// The images of a data set at training size.
#[derive(Debug)]
pub struct ImageStore {
    dataset: Arc<Dataset>,
    imgsz: usize,
    cache: Cache,
    /// Images that failed; they are not tried again.
    failures: Mutex<BTreeMap<usize, String>>,
    /// For the user, not yet taken.
    warnings: Mutex<Vec<String>>,
}

#[derive(Debug)]
enum Cache {
    None,
    Ram { images: Vec<OnceLock<Planes>>, free_bytes: AtomicU64, overflow: Option<DiskCache> },
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
            CacheMode::Ram { budget_bytes, overflow } => Cache::Ram {
                images: (0..dataset.len()).map(|_| OnceLock::new()).collect(),
                free_bytes: AtomicU64::new(budget_bytes),
                overflow: overflow.map(disk),
            },
            CacheMode::Disk(place) => Cache::Disk(disk(place)),
        };
        Self { dataset, imgsz, cache, failures: Mutex::default(), warnings: Mutex::default() }
    }

    /// Images in the data set.
    pub fn len(&self) -> usize {
        self.dataset.len()
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
        if let Some(message) = self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(&index) {
            return Err(message.clone());
        }
        let made = match &self.cache {
            Cache::None => self.decode(index),
            Cache::Ram { images, free_bytes, overflow } => {
                self.in_ram(index, &images[index], free_bytes, overflow.as_ref())
            }
            Cache::Disk(cache) => self.on_disk(index, cache),
        };
        made.inspect_err(|message| {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            // Two threads may have met the same image at once.
            if failures.insert(index, message.clone()).is_none() {
                self.warn(format!("{message}; another image takes its place"));
            }
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

    fn is_cut(&self) -> bool {
        self.disk().is_some_and(DiskCache::is_cut)
    }

    fn decode(&self, index: usize) -> Result<Planes, String> {
        let path = self.dataset.items.path(index);
        let image = decode::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Planes::from(&load_resize(image, self.imgsz)))
    }

    fn in_ram(
        &self,
        index: usize,
        slot: &OnceLock<Planes>,
        free_bytes: &AtomicU64,
        overflow: Option<&DiskCache>,
    ) -> Result<Planes, String> {
        if let Some(image) = slot.get() {
            return Ok(image.clone());
        }
        let [width, height] = self.loaded_size(index);
        let bytes = (3 * width * height) as u64;
        if let Some(disk) = overflow.filter(|_| free_bytes.load(Ordering::Relaxed) < bytes) {
            return self.on_disk(index, disk);
        }
        let image = self.decode(index)?;
        let bytes = image.bytes().len() as u64;
        let take = |free: u64| free.checked_sub(bytes);
        if free_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
            && slot.set(image.clone()).is_err()
        {
            // Another thread was faster and paid for the same image.
            free_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(image)
    }

    fn loaded_size(&self, index: usize) -> [usize; 2] {
        crate::data::letterbox::loaded_size(self.dataset.items.size(index), self.imgsz)
    }

    fn on_disk(&self, index: usize, cache: &DiskCache) -> Result<Planes, String> {
        let path = &self.dataset.items.path(index);
        if let Some(planes) = cache.read(index, path) {
            return Ok(planes);
        }
        let stamp = Stamp::of(path);
        let told = |error| format!("{}: {error}", path.display());
        let bytes = std::fs::read(path).map_err(|error| told(DecodeError::Read(error)))?;
        let planes = Planes::from(&load_resize(decode::decode(&bytes).map_err(told)?, self.imgsz));
        cache.write(index, &Source { path, stamp, bytes: &bytes }, &planes);
        Ok(planes)
    }
}

#[cfg(test)]
mod content_tests;
#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod tests;
