//! Decoded images at training size: made when asked for, kept in memory or on disk if so configured.
//!
//! An image that cannot be decoded is reported once and replaced by the next one that can, always the
//! same, so that a damaged file neither ends nor changes a training from run to run. An image that cannot be read for
//! now only is tried again at its next use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::disk::{CacheDir, DiskCache, SourceFile};
use super::ram_budget::RamBudget;
use crate::dataset::Dataset;
use crate::decode::{self, DecodeError};
use crate::files::{self, FileStamp};
use crate::image::PlanarImage;
use crate::labels::Label;
use crate::load_error::LoadError;
use crate::resample::resize::{load_resize, loaded_size};

/// Unreadable images in a row after which the data must be gone.
const MAX_UNREADABLE: usize = 64;

/// Warnings kept until someone takes them.
const MAX_WARNINGS: usize = 100;

/// Where decoded images are kept.
#[derive(Debug, Clone)]
pub enum CacheMode {
    /// Nowhere: each use decodes.
    None,
    /// In main memory, as far as it goes.
    Ram {
        /// How much memory may be taken.
        budget: RamBudget,
        /// Where images are kept for which memory has no room; without it, those are decoded at each use.
        overflow: Option<CacheDir>,
    },
    /// On disk, in one file of this directory.
    Disk(CacheDir),
}

/// The images of a data set at training size.
#[derive(Debug)]
pub struct ImageStore {
    dataset: Arc<Dataset>,
    imgsz: usize,
    cache: Cache,
    /// The images that failed, by index.
    failures: Mutex<BTreeMap<usize, Failure>>,
    /// Warnings that the user has not been told of yet.
    warnings: Mutex<Vec<String>>,
    /// The disk cache's file, once it was seen to be complete.
    complete: OnceLock<PathBuf>,
}

/// Why an image cannot be loaded.
#[derive(Debug, Clone)]
struct Failure {
    message: String,
    /// Whether another try would fail, too; such an image is not tried again.
    is_permanent: bool,
}

impl Failure {
    fn of(path: &Path, error: &DecodeError) -> Self {
        let is_transient = matches!(error, DecodeError::Read(error) if !files::is_gone(error));
        Self { message: format!("{}: {error}", path.display()), is_permanent: !is_transient }
    }
}

#[derive(Debug)]
enum Cache {
    None,
    /// Images are boxed, as there may be a million of which memory has room for few.
    Ram {
        images: Vec<OnceLock<Box<PlanarImage>>>,
        budget: RamBudget,
        overflow: Option<DiskCache>,
    },
    Disk(DiskCache),
}

/// A decoded image of a data set, with its labels.
#[derive(Debug, Clone)]
pub struct LoadedImage {
    /// Its index in the data set: another than was asked for if that image is unreadable.
    pub index: usize,
    /// Its pixels; the long side is the training size.
    pub image: PlanarImage,
    dataset: Arc<Dataset>,
}

impl LoadedImage {
    /// Its objects, as shares of the image.
    pub fn labels(&self) -> &[Label] {
        self.dataset.images.labels(self.index)
    }
}

impl ImageStore {
    /// Images of `dataset` with a long side of `imgsz` pixels. Nothing is loaded yet.
    pub fn new(dataset: Arc<Dataset>, imgsz: usize, mode: CacheMode) -> Self {
        let disk = |place| DiskCache::new(place, &dataset.images, imgsz);
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

    /// Number of images in the data set.
    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    /// Bytes of memory that this takes, without the data set and without pixels.
    pub fn memory_bytes(&self) -> usize {
        let slots = match &self.cache {
            Cache::Ram { images, .. } => images.capacity() * size_of::<OnceLock<Box<PlanarImage>>>(),
            Cache::Disk(_) | Cache::None => 0,
        };
        slots + self.disk().map_or(0, DiskCache::memory_bytes)
    }

    /// Never true, as a data set without images is not opened.
    pub fn is_empty(&self) -> bool {
        self.dataset.is_empty()
    }

    /// The data set of the images.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// The long side of the images, pixels.
    pub fn imgsz(&self) -> usize {
        self.imgsz
    }

    /// Number of images found unreadable so far.
    pub fn failed(&self) -> usize {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What the user should know since the last call: unreadable images, a cache that does not work. One sentence each.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut warnings = std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner));
        warnings.extend(self.disk().map(DiskCache::take_warnings).unwrap_or_default());
        warnings
    }

    fn warn(&self, message: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < MAX_WARNINGS {
            warnings.push(message);
        }
    }

    /// Image `index`, or the next readable one after it.
    ///
    /// # Errors
    /// [`LoadError::NothingReadable`] when none of 64 images in a row is readable.
    ///
    /// # Panics
    /// When `index` is not below [`ImageStore::len`].
    pub fn load(&self, index: usize) -> Result<LoadedImage, LoadError> {
        let tried = self.len().min(MAX_UNREADABLE);
        let mut last = String::new();
        for offset in 0..tried {
            let index = (index + offset) % self.len();
            match self.load_exactly(index) {
                Ok(image) => return Ok(LoadedImage { index, image, dataset: Arc::clone(&self.dataset) }),
                Err(message) => last = message,
            }
        }
        let first = self.dataset.images.path(index).display().to_string();
        Err(LoadError::NothingReadable { first, tried, last })
    }

    /// Image `index` itself; the error is for the user, and the failure has been noted.
    fn load_exactly(&self, index: usize) -> Result<PlanarImage, String> {
        let failures = || self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = failures().get(&index).filter(|failure| failure.is_permanent) {
            return Err(failure.message.clone());
        }
        let made = match &self.cache {
            Cache::None => self.decode(index),
            Cache::Ram { images, budget, overflow } => {
                self.load_by_ram(index, &images[index], budget, overflow.as_ref())
            }
            Cache::Disk(cache) => self.load_by_disk(index, cache),
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

    /// Calls `make`, and calls it again if the cache's file was truncated meanwhile: what it has read may be zeros then.
    pub fn retry_if_truncated<T>(&self, mut make: impl FnMut() -> T) -> T {
        loop {
            let before = self.is_truncated();
            let made = make();
            // A file is truncated only once: then it is not used any more.
            if self.is_truncated() == before {
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

    /// The disk cache's file once it holds every readable image, so that another run need not decode any. Images in
    /// memory do not count, as they are of no use to another run.
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

    fn is_truncated(&self) -> bool {
        self.disk().is_some_and(DiskCache::is_truncated)
    }

    fn decode(&self, index: usize) -> Result<PlanarImage, Failure> {
        let path = self.dataset.images.path(index);
        let image = files::read_with_retries(&path)
            .map_err(DecodeError::Read)
            .and_then(|bytes| decode::decode(&bytes));
        let image = image.map_err(|error| Failure::of(&path, &error))?;
        Ok(PlanarImage::from(&load_resize(image, self.imgsz)))
    }

    fn load_by_ram(
        &self,
        index: usize,
        slot: &OnceLock<Box<PlanarImage>>,
        budget: &RamBudget,
        overflow: Option<&DiskCache>,
    ) -> Result<PlanarImage, Failure> {
        if let Some(image) = slot.get() {
            return Ok(PlanarImage::clone(image));
        }
        let [width, height] = loaded_size(self.dataset.images.size(index), self.imgsz);
        if let Some(disk) = overflow.filter(|_| !budget.has((3 * width * height) as u64)) {
            return self.load_by_disk(index, disk);
        }
        let image = self.decode(index)?;
        let bytes = image.bytes().len() as u64;
        if budget.take(bytes) && slot.set(Box::new(image.clone())).is_err() {
            // Another thread was faster and paid for the same image.
            budget.give_back(bytes);
        }
        Ok(image)
    }

    fn load_by_disk(&self, index: usize, cache: &DiskCache) -> Result<PlanarImage, Failure> {
        let path = &self.dataset.images.path(index);
        if let Some(planes) = cache.read(index, path) {
            return Ok(planes);
        }
        let stamp = FileStamp::of(path);
        let failed = |error: DecodeError| Failure::of(path, &error);
        let bytes = files::read_with_retries(path).map_err(|error| failed(error.into()))?;
        let planes = PlanarImage::from(&load_resize(decode::decode(&bytes).map_err(failed)?, self.imgsz));
        cache.write(index, &SourceFile { path, stamp, bytes: &bytes }, &planes);
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
