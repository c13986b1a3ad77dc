//! Training batches: worker threads make samples ahead of the consumer, batches come in order.
//!
//! Which pixels a sample has is a function of (seed, epoch, sample index), so they do not depend on the
//! number of workers, on the batch size, or on where an epoch is resumed.

use std::ops::Range;
use std::sync::Arc;

use crate::augment::AugmentConfig;
use crate::batch::{Ahead, BatchShape, Batches, Made, Task};
use crate::cache::ImageStore;
use crate::crew::Crew;
use crate::pipeline::Work;
use crate::random::{Draw, Purpose};
use crate::sample::{Recipe, Scratch};
use crate::slots::Pool;

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
    /// Threads to begin with; 0 makes batches on the calling thread.
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
#[derive(Clone)]
pub struct TrainLoader {
    store: Arc<ImageStore>,
    config: LoaderConfig,
    ahead: Ahead,
    pool: Arc<Pool>,
}

impl std::fmt::Debug for TrainLoader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrainLoader").field("config", &self.config).finish_non_exhaustive()
    }
}

impl TrainLoader {
    /// Batches of the images of `store`.
    pub fn new(store: Arc<ImageStore>, config: LoaderConfig) -> Self {
        let ahead = Ahead { crew: Crew::new(config.workers), batches: config.prefetch };
        let pool = ahead.pool();
        Self { store, config, ahead, pool }
    }

    /// With the threads of `crew`, whose number may change.
    #[must_use]
    pub fn with_crew(self, crew: &Crew) -> Self {
        let ahead = Ahead { crew: crew.clone(), ..self.ahead };
        Self { pool: ahead.pool(), ahead, ..self }
    }

    /// Batches of a whole epoch; the last may be smaller.
    ///
    /// # Panics
    /// When `batch_size` is 0.
    pub fn batches(&self, batch_size: usize) -> usize {
        self.store.len().div_ceil(batch_size)
    }

    /// The order of an epoch's images, as indices in the data set.
    pub fn order(&self, epoch: u32) -> Vec<u32> {
        Draw::new(self.config.seed, epoch, 0, Purpose::Order).permutation(self.store.len())
    }

    /// Starts a pass. Threads load at once; dropping the result cancels them.
    ///
    /// # Panics
    /// When `plan.batch_size` is 0.
    pub fn epoch(&self, plan: &EpochPlan) -> Batches {
        assert!(plan.batch_size > 0, "a batch has images");
        let images = self.store.len();
        let starts = (plan.first_sample.min(images)..images).step_by(plan.batch_size);
        let cuts = starts.map(|start| start..(start + plan.batch_size).min(images)).collect();
        self.epoch_in(plan, cuts)
    }

    /// [`TrainLoader::epoch`] with batches of one's own: `cuts` are the samples of each, one going on where
    /// the one before ends. Of `plan`, only the epoch and the mosaic count.
    pub fn epoch_in(&self, plan: &EpochPlan, cuts: Vec<Range<usize>>) -> Batches {
        let side = self.config.imgsz;
        let recipe = Recipe {
            store: Arc::clone(&self.store),
            augment: self.config.augment,
            imgsz: side,
            seed: self.config.seed,
            epoch: plan.epoch,
            mosaic: plan.mosaic,
        };
        let order = self.order(plan.epoch);
        let shapes = cuts
            .into_iter()
            .map(|samples| {
                let number = samples.start / plan.batch_size.max(1);
                BatchShape { number, samples, height: side, width: side }
            })
            .collect();
        let work = Arc::new(TrainWork { recipe, order });
        Batches::start(work, shapes, self.ahead.clone(), &self.pool)
    }
}

struct TrainWork {
    recipe: Recipe,
    order: Vec<u32>,
}

impl Work for TrainWork {
    type Scratch = Scratch;
    type Task = Task;
    type Output = Made;

    fn make(&self, mut task: Task, scratch: &mut Scratch) -> Made {
        let index = self.order[task.position] as usize;
        let make = || self.recipe.make(index, scratch, task.slot.pixels());
        Ok((self.recipe.store.steadily(make)?, task.slot))
    }
}

#[cfg(test)]
mod tests;
