//! Training batches: which samples an epoch has, in which order, and how one is made.
//!
//! Which pixels a sample has is a function of (seed, epoch, sample index), so they do not depend on the
//! number of workers, on the batch size, or on where an epoch is resumed.

use std::ops::Range;
use std::sync::Arc;

use super::batch::{BatchShape, Batches, Prefetch, Produced, SampleTask};
use super::batch_buffer::BufferPool;
use super::ordered::Work;
use super::pixel_memory::PixelMemory;
use super::worker_pool::WorkerCount;
use crate::augment::AugmentConfig;
use crate::augment::sample::{SampleBuilder, Scratch};
use crate::cache::ImageStore;
use crate::load_error::LoadError;
use crate::random::{SampleRng, Stream};

/// How batches are made.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// Side of the square batch, pixels.
    pub imgsz: usize,
    /// Worker threads to begin with; 0 makes batches on the consumer's thread.
    pub workers: usize,
    /// Finished batches that may wait for the consumer.
    pub prefetch: usize,
    /// Seed of every random choice.
    pub seed: u64,
    /// Strength of each augmentation.
    pub augment: AugmentConfig,
}

/// One pass over the images.
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
#[derive(Clone)]
pub struct TrainLoader {
    store: Arc<ImageStore>,
    config: LoaderConfig,
    prefetch: Prefetch,
    pool: Arc<BufferPool>,
}

impl std::fmt::Debug for TrainLoader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrainLoader").field("config", &self.config).finish_non_exhaustive()
    }
}

impl TrainLoader {
    /// A loader of the images of `store`.
    pub fn new(store: Arc<ImageStore>, config: LoaderConfig) -> Self {
        let (workers, batches) = (WorkerCount::new(config.workers), config.prefetch);
        let prefetch = Prefetch { workers, batches, memory: None };
        let pool = prefetch.buffer_pool();
        Self { store, config, prefetch, pool }
    }

    /// The same loader with as many worker threads as `workers` asks for at any time.
    #[must_use]
    pub fn with_worker_count(self, workers: &WorkerCount) -> Self {
        let prefetch = Prefetch { workers: workers.clone(), ..self.prefetch };
        Self { pool: prefetch.buffer_pool(), prefetch, ..self }
    }

    /// The same loader, with batches in the memory of another, if there is one.
    #[must_use]
    pub fn with_memory(self, memory: Option<Arc<dyn PixelMemory>>) -> Self {
        let prefetch = Prefetch { memory, ..self.prefetch };
        Self { pool: prefetch.buffer_pool(), prefetch, ..self }
    }

    /// Number of batches of a whole epoch; the last may be smaller.
    ///
    /// # Panics
    /// When `batch_size` is 0.
    pub fn batches(&self, batch_size: usize) -> usize {
        self.store.len().div_ceil(batch_size)
    }

    /// The order of an epoch's images, as indices in the data set.
    pub fn order(&self, epoch: u32) -> Vec<u32> {
        SampleRng::new(self.config.seed, epoch, 0, Stream::Order).permutation(self.store.len())
    }

    /// Starts a pass. Workers load at once; dropping the result cancels them.
    ///
    /// # Panics
    /// When `plan.batch_size` is 0.
    pub fn epoch(&self, plan: &EpochPlan) -> Batches {
        assert!(plan.batch_size > 0, "a batch has images");
        let images = self.store.len();
        let starts = (plan.first_sample.min(images)..images).step_by(plan.batch_size);
        let batch_ranges = starts.map(|start| start..(start + plan.batch_size).min(images)).collect();
        self.epoch_with_ranges(plan, batch_ranges)
    }

    /// As [`TrainLoader::epoch`], with the caller's own batches: `batch_ranges` are the samples of each, and each goes on
    /// where the one before it ends. Of `plan`, `batch_size` serves to number the batches, and `first_sample` is not read.
    pub fn epoch_with_ranges(&self, plan: &EpochPlan, batch_ranges: Vec<Range<usize>>) -> Batches {
        let side = self.config.imgsz;
        let builder = SampleBuilder {
            store: Arc::clone(&self.store),
            augment: self.config.augment,
            imgsz: side,
            seed: self.config.seed,
            epoch: plan.epoch,
            mosaic: plan.mosaic,
        };
        let order = self.order(plan.epoch);
        let shapes = batch_ranges
            .into_iter()
            .map(|samples| {
                let number = samples.start / plan.batch_size.max(1);
                BatchShape { number, samples, height: side, width: side }
            })
            .collect();
        let work = Arc::new(TrainWork { builder, order });
        Batches::start(work, shapes, self.prefetch.clone(), &self.pool)
    }
}

/// Makes the samples of one epoch.
struct TrainWork {
    builder: SampleBuilder,
    /// The index in the data set of the sample at each position.
    order: Vec<u32>,
}

impl Work for TrainWork {
    type Scratch = Scratch;
    type Task = SampleTask;
    type Output = Result<Produced, LoadError>;

    fn run(&self, mut task: SampleTask, scratch: &mut Scratch) -> Self::Output {
        let index = self.order[task.position] as usize;
        let build = || self.builder.build(index, scratch, task.slot.pixels());
        let sample = self.builder.store.retry_if_truncated(build)?;
        Ok(Produced { sample, slot: task.slot })
    }
}

#[cfg(test)]
mod tests;
