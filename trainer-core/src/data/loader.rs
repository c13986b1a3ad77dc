//! Training batches: worker threads make samples ahead of the consumer, batches come in order.
//!
//! Which pixels a sample has is a function of (seed, epoch, sample index), so they do not depend on the
//! number of workers, on the batch size, or on where an epoch is resumed.

use std::sync::Arc;
use std::time::Duration;

use crate::data::augment::AugmentConfig;
use crate::data::cache::ImageStore;
use crate::data::dataset::Dataset;

/// One object of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Position of the image in the batch, from 0.
    pub image: u32,
    /// Class id.
    pub class: u32,
    /// Centre and size as shares of the batch's width and height, `[cx, cy, w, h]`.
    pub cxcywh: [f32; 4],
}

impl Target {
    /// Corners in pixels of a batch of `height` x `width`, `[x1, y1, x2, y2]`.
    pub fn xyxy(&self, height: usize, width: usize) -> [f32; 4] {
        let (width, height) = (width as f32, height as f32);
        let [cx, cy, w, h] = self.cxcywh;
        [
            (cx - w / 2.0) * width,
            (cy - h / 2.0) * height,
            (cx + w / 2.0) * width,
            (cy + h / 2.0) * height,
        ]
    }
}

/// A training batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Its number in the epoch, from 0 (a resumed epoch starts above 0).
    pub number: usize,
    /// `[n, 3, height, width]`, RGB, 0 to 255.
    pub images: Vec<u8>,
    /// Images in it; the last batch of an epoch may have fewer.
    pub n: usize,
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// The objects of all its images, in image order.
    pub targets: Vec<Target>,
    /// Index in the data set of each image (of a mosaic: of its first image).
    pub indices: Vec<usize>,
}

/// Why no batch can be made.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// So many images in a row cannot be decoded that the data must be gone.
    #[error("none of {tried} images from {first} on could be read; the last error was: {last}")]
    NothingReadable {
        /// The first image that failed.
        first: String,
        /// How many were tried.
        tried: usize,
        /// The last failure.
        last: String,
    },
    /// A bug of ours.
    #[error("a loader thread ended early")]
    WorkerGone,
}

/// How batches are made.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// Side of the square batch, pixels.
    pub imgsz: usize,
    /// Threads; 0 makes batches on the calling thread.
    pub workers: usize,
    /// Finished batches that may wait for the consumer.
    pub prefetch: usize,
    /// Seed of every random choice.
    pub seed: u64,
    /// What is done to images.
    pub augment: AugmentConfig,
}

/// One pass to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochPlan {
    /// Which epoch; any numbering, used as part of the seed.
    pub epoch: u32,
    /// Images per batch.
    pub batch_size: usize,
    /// The first sample to make: 0, or `batches done * batch_size` after a resume.
    pub first_sample: usize,
    /// Whether mosaic and mixup are still on (`close_mosaic`).
    pub mosaic: bool,
}

/// Makes training batches of a data set.
#[derive(Debug, Clone)]
pub struct TrainLoader {
    dataset: Arc<Dataset>,
    store: Arc<ImageStore>,
    config: LoaderConfig,
}
// Implementation follows:
//   TrainLoader::new(Arc<Dataset>, Arc<ImageStore>, LoaderConfig) -> Self
//   TrainLoader::batches(&self, batch_size) -> usize
//   TrainLoader::epoch(&self, EpochPlan) -> EpochBatches        // threads start at once; drop cancels
//   EpochBatches: Iterator<Item = Result<Batch, LoadError>> + Send
//   EpochBatches::waited(&self) -> Duration                     // consumer's time spent waiting so far
//   ImageStore::take_warnings(&self) -> Vec<String>             // images that failed to decode, counted
