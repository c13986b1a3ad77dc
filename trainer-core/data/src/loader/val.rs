//! Validation batches: images of like shape together, letterboxed without enlarging.

use std::sync::Arc;

use super::batch::{BatchShape, Batches, Prefetch, Produced, SampleTask};
use super::batch_buffer::BufferPool;
use super::ordered::Work;
use super::pixel_memory::PixelMemory;
use super::rect_batches::{RectBatches, rect_batches};
use super::worker_pool::WorkerCount;
use crate::augment::Sample;
use crate::cache::ImageStore;
use crate::labels::Label;
use crate::load_error::LoadError;
use crate::resample::letterbox::{Fit, Letterbox};

/// How validation batches are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValConfig {
    /// Long side of the images, pixels.
    pub imgsz: usize,
    /// Images per batch.
    pub batch_size: usize,
    /// Worker threads to begin with; 0 makes batches on the consumer's thread.
    pub workers: usize,
    /// Finished batches that may wait for the consumer.
    pub prefetch: usize,
}

/// Makes validation batches of a data set.
#[derive(Debug, Clone)]
pub struct ValLoader {
    store: Arc<ImageStore>,
    config: ValConfig,
    plan: Arc<RectBatches>,
    prefetch: Prefetch,
    pool: Arc<BufferPool>,
}

impl ValLoader {
    /// A loader of the images of `store`.
    ///
    /// # Panics
    /// When `config.batch_size` is 0.
    pub fn new(store: Arc<ImageStore>, config: ValConfig) -> Self {
        let sizes: Vec<[usize; 2]> =
            (0..store.len()).map(|index| store.dataset().images.size(index)).collect();
        let plan = Arc::new(rect_batches(&sizes, config.imgsz, config.batch_size));
        let (workers, batches) = (WorkerCount::new(config.workers), config.prefetch);
        let prefetch = Prefetch { workers, batches, memory: None };
        let pool = prefetch.buffer_pool();
        Self { store, config, plan, prefetch, pool }
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

    /// Number of batches of a pass; the last may be smaller.
    pub fn batches(&self) -> usize {
        self.plan.shapes.len()
    }

    /// The largest batch: its number of images, and its `[width, height]` in pixels. `None` without images.
    pub fn largest(&self) -> Option<(usize, [usize; 2])> {
        let size = self.config.batch_size;
        let images = |number: usize| size.min(self.store.len() - number * size);
        let batches = self.plan.shapes.iter().enumerate().map(|(number, shape)| (images(number), *shape));
        batches.max_by_key(|(images, [width, height])| images * width * height)
    }

    /// Starts a pass. Workers load at once; dropping the result cancels them.
    pub fn pass(&self) -> Batches {
        let (images, size) = (self.store.len(), self.config.batch_size);
        let shapes = self.plan.shapes.iter().enumerate().map(|(number, [width, height])| BatchShape {
            number,
            samples: number * size..((number + 1) * size).min(images),
            height: *height,
            width: *width,
        });
        let work = ValWork { store: Arc::clone(&self.store), plan: Arc::clone(&self.plan) };
        Batches::start(Arc::new(work), shapes.collect(), self.prefetch.clone(), &self.pool)
    }
}

/// Makes the samples of one pass.
struct ValWork {
    store: Arc<ImageStore>,
    plan: Arc<RectBatches>,
}

impl Work for ValWork {
    type Scratch = ();
    type Task = SampleTask;
    type Output = Result<Produced, LoadError>;

    fn run(&self, mut task: SampleTask, (): &mut ()) -> Self::Output {
        let outer = [task.width, task.height];
        let (loaded, mut placement) = self.store.retry_if_truncated(|| {
            let loaded = self.store.load(self.plan.order[task.position])?;
            let planes = &loaded.image;
            let placement = Letterbox::fit([planes.width, planes.height], outer, Fit::ShrinkOnly);
            placement.write(planes, task.slot.pixels());
            Ok((loaded, placement))
        })?;
        let to_letterbox =
            |label: &Label| Label { class: label.class, cxcywh: placement.to_letterbox(label.cxcywh) };
        let labels = loaded.labels().iter().map(to_letterbox).collect();
        // Boxes are mapped back to the file's own pixels.
        placement.original = self.store.dataset().images.size(loaded.index);
        let sample = Sample { index: loaded.index, labels, placement: Some(placement) };
        Ok(Produced { sample, slot: task.slot })
    }
}

#[cfg(test)]
mod tests;
