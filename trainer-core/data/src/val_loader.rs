//! Validation batches: images of like shape together, letterboxed without enlarging.

use std::sync::Arc;

use crate::batch::{Ahead, BatchShape, Batches, Made, Task};
use crate::cache::ImageStore;
use crate::crew::Crew;
use crate::labels::Label;
use crate::letterbox::{Fit, Letterbox, RectPlan, rect_plan};
use crate::pipeline::Work;
use crate::sample::Sample;
use crate::slots::Pool;

/// How validation batches are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValConfig {
    /// Long side of the images, pixels.
    pub imgsz: usize,
    /// Images per batch.
    pub batch_size: usize,
    /// Threads to begin with; 0 makes batches on the calling thread.
    pub workers: usize,
    /// Finished batches that may wait for the consumer.
    pub prefetch: usize,
}

/// Makes validation batches of a data set.
#[derive(Debug, Clone)]
pub struct ValLoader {
    store: Arc<ImageStore>,
    config: ValConfig,
    plan: Arc<RectPlan>,
    ahead: Ahead,
    pool: Arc<Pool>,
}

impl ValLoader {
    /// Batches of the images of `store`.
    ///
    /// # Panics
    /// When `config.batch_size` is 0.
    pub fn new(store: Arc<ImageStore>, config: ValConfig) -> Self {
        let sizes: Vec<[usize; 2]> =
            (0..store.len()).map(|index| store.dataset().items.size(index)).collect();
        let plan = Arc::new(rect_plan(&sizes, config.imgsz, config.batch_size));
        let ahead = Ahead { crew: Crew::new(config.workers), batches: config.prefetch };
        let pool = ahead.pool();
        Self { store, config, plan, ahead, pool }
    }

    /// With the threads of `crew`, whose number may change.
    #[must_use]
    pub fn with_crew(self, crew: &Crew) -> Self {
        let ahead = Ahead { crew: crew.clone(), ..self.ahead };
        Self { pool: ahead.pool(), ahead, ..self }
    }

    /// Batches of a pass; the last may be smaller.
    pub fn batches(&self) -> usize {
        self.plan.shapes.len()
    }

    /// The largest batch: its images, and its `[width, height]` in pixels. `None` without images.
    pub fn largest(&self) -> Option<(usize, [usize; 2])> {
        let size = self.config.batch_size;
        let images = |number: usize| size.min(self.store.len() - number * size);
        let batches = self.plan.shapes.iter().enumerate().map(|(number, shape)| (images(number), *shape));
        batches.max_by_key(|(images, [width, height])| images * width * height)
    }

    /// Starts a pass. Threads load at once; dropping the result cancels them.
    pub fn pass(&self) -> Batches {
        let (images, size) = (self.store.len(), self.config.batch_size);
        let shapes = self.plan.shapes.iter().enumerate().map(|(number, [width, height])| BatchShape {
            number,
            samples: number * size..((number + 1) * size).min(images),
            height: *height,
            width: *width,
        });
        let work = ValWork { store: Arc::clone(&self.store), plan: Arc::clone(&self.plan) };
        Batches::start(Arc::new(work), shapes.collect(), self.ahead.clone(), &self.pool)
    }
}

struct ValWork {
    store: Arc<ImageStore>,
    plan: Arc<RectPlan>,
}

impl Work for ValWork {
    type Scratch = ();
    type Task = Task;
    type Output = Made;

    fn make(&self, mut task: Task, (): &mut ()) -> Made {
        let outer = [task.width, task.height];
        let (loaded, mut placement) = self.store.steadily(|| {
            let loaded = self.store.load(self.plan.order[task.position])?;
            let planes = &loaded.image;
            let placement = Letterbox::fit([planes.width, planes.height], outer, Fit::ShrinkOnly);
            placement.write(planes, task.slot.pixels());
            Ok((loaded, placement))
        })?;
        let (_, labels) = loaded.tile();
        let labels = labels
            .iter()
            .map(|label| Label { class: label.class, cxcywh: placement.place(label.cxcywh) })
            .collect();
        // Boxes are mapped back to the file's own pixels.
        placement.original = self.store.dataset().items.size(loaded.index);
        Ok((Sample { index: loaded.index, labels, placement: Some(placement) }, task.slot))
    }
}

#[cfg(test)]
mod tests;
