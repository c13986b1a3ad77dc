//! Batches, and the collator that puts them together from samples ahead of their consumer.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};

use super::batch_buffer::{BufferPool, ImageSlot, Pixels};
use super::ordered::{OrderedResults, Work};
use super::pixel_memory::PixelMemory;
use super::thread_hook;
use super::worker_pool::{PrefetchGate, WorkerCount};
use crate::augment::Sample;
use crate::image::Image;
use crate::labels::Object;
use crate::load_error::LoadError;
use crate::resample::Letterbox;

/// One object of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Position of the image in the batch, from 0.
    pub image: u32,
    /// Class id, below the number of classes.
    pub class: u32,
    /// Centre and size as shares of the batch's width and height, `[cx, cy, w, h]`.
    pub cxcywh: [f32; 4],
}

impl Target {
    /// Corners in pixels of a batch of `height` x `width`, `[x1, y1, x2, y2]`.
    pub fn xyxy(&self, height: usize, width: usize) -> [f32; 4] {
        let (width, height) = (width as f32, height as f32);
        let [cx, cy, w, h] = self.cxcywh;
        [(cx - w / 2.0) * width, (cy - h / 2.0) * height, (cx + w / 2.0) * width, (cy + h / 2.0) * height]
    }
}

/// A batch, to train on or to validate with.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Its number in the epoch, from 0 (a resumed epoch starts above 0).
    pub number: usize,
    /// `[n, 3, height, width]`, RGB, 0 to 255.
    pub images: Pixels,
    /// Number of images; the last batch of an epoch may have fewer than the others.
    pub n: usize,
    /// Height of each image, pixels.
    pub height: usize,
    /// Width of each image, pixels.
    pub width: usize,
    /// The objects of all its images, in image order.
    pub targets: Vec<Target>,
    /// Index in the data set of each image (of a mosaic: of its first image), length `n`.
    pub indices: Vec<usize>,
    /// How each image was letterboxed, length `n`; empty when training.
    pub placements: Vec<Letterbox>,
}

impl Batch {
    /// The objects of the image at position `image`, corners in pixels of the batch.
    pub fn truths(&self, image: usize) -> Vec<Object> {
        let of_image = self.targets.iter().filter(|target| target.image as usize == image);
        of_image
            .map(|target| Object { class: target.class, xyxy: target.xyxy(self.height, self.width) })
            .collect()
    }

    /// The image at position `image`, interleaved, for people to look at.
    ///
    /// # Panics
    /// When `image` is not below `n`.
    pub fn image(&self, image: usize) -> Image {
        let bytes = 3 * self.height * self.width;
        Image::from_planes(&self.images[image * bytes..(image + 1) * bytes], self.height, self.width)
    }
}

/// A batch to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchShape {
    /// The place of the batch in the pass, [`Batch::number`].
    pub number: usize,
    /// Positions of its samples in the pass; each batch goes on where the one before it ends.
    pub samples: Range<usize>,
    /// The height of an image, in pixels.
    pub height: usize,
    /// The width of an image, in pixels.
    pub width: usize,
}

/// One sample to make, and where to write it.
#[derive(Debug)]
pub(super) struct SampleTask {
    /// Its position in the pass.
    pub position: usize,
    /// The height of an image, in pixels.
    pub height: usize,
    /// The width of an image, in pixels.
    pub width: usize,
    /// Its range of the batch's buffer.
    pub slot: ImageSlot,
}

/// A finished [`SampleTask`]: its slot holds the pixels.
#[derive(Debug)]
pub(super) struct Produced {
    pub sample: Sample,
    pub slot: ImageSlot,
}

/// How far ahead of the consumer a pass works.
#[derive(Debug, Clone)]
pub(super) struct Prefetch {
    /// Threads that make samples; with 0 batches are made on the consumer's thread.
    pub workers: WorkerCount,
    /// Finished batches that may wait, as far as there are as many workers.
    pub batches: usize,
    /// Where the memory of batches comes from; none: it is the process's own.
    pub memory: Option<Arc<dyn PixelMemory>>,
}

impl Prefetch {
    /// Finished batches that may wait now: with few workers there is little memory to spare.
    fn limit(&self) -> usize {
        self.batches.min(self.workers.wanted()).max(1)
    }

    /// Buffers for the batches that wait, the one that the consumer has, and the one or two in the making.
    fn buffers(&self) -> usize {
        self.limit() + 3
    }

    /// A pool that keeps as many buffers as a pass needs at a time.
    pub fn buffer_pool(&self) -> Arc<BufferPool> {
        BufferPool::new(self.buffers(), self.memory.clone())
    }
}

/// The batches of one pass, in order.
pub struct Batches {
    source: BatchSource,
    /// Batches still to come.
    left: usize,
    waited: Duration,
    /// Tells the collator, who may be in the middle of a batch, that nobody wants it any more.
    abandoned: Arc<AtomicBool>,
}

enum BatchSource {
    /// Batches are made on the consumer's thread.
    Inline(Box<dyn Iterator<Item = Result<Batch, LoadError>> + Send>),
    /// A collator thread puts together what workers make.
    Threads {
        ready: Receiver<Result<Batch, LoadError>>,
        gate: Arc<PrefetchGate>,
        collator: Option<JoinHandle<()>>,
    },
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batches").field("waited", &self.waited).finish_non_exhaustive()
    }
}

impl Batches {
    /// Starts workers that make samples by `work`, and a collator that puts them together in batches of `shapes`.
    pub(super) fn start<W>(
        work: Arc<W>,
        shapes: Vec<BatchShape>,
        prefetch: Prefetch,
        pool: &Arc<BufferPool>,
    ) -> Self
    where
        W: Work<Task = SampleTask, Output = Result<Produced, LoadError>>,
        W::Scratch: 'static,
    {
        let (task_pool, pool) = (Arc::clone(pool), Arc::clone(pool));
        // A batch's memory is taken when its first task is submitted.
        let tasks = shapes.clone().into_iter().flat_map(move |shape| {
            let (height, width) = (shape.height, shape.width);
            let slots = ImageSlot::for_batch(&task_pool, shape.samples.len(), 3 * height * width);
            shape.samples.zip(slots).map(move |(position, slot)| SampleTask { position, height, width, slot })
        });
        let inline = prefetch.workers.wanted() == 0;
        let left = shapes.len();
        // Each worker has one sample in hand and one waiting for it.
        let mut samples = OrderedResults::start(work, tasks, &prefetch.workers, 2);
        let abandoned = Arc::new(AtomicBool::new(false));
        let is_abandoned = Arc::clone(&abandoned);
        let now = prefetch.clone();
        let batches = shapes.into_iter().map(move |shape| {
            pool.set_keep(now.buffers());
            collate(&shape, &mut samples, &pool, &is_abandoned)
        });
        let source = if inline {
            BatchSource::Inline(Box::new(batches))
        } else {
            let (finished, ready) = unbounded();
            let gate = PrefetchGate::open();
            let entrance = Arc::clone(&gate);
            let collator = std::thread::spawn(move || {
                thread_hook::run();
                for batch in batches {
                    // The consumer's going away is how a pass is cancelled.
                    if !entrance.enter(|| prefetch.limit()) || finished.send(batch).is_err() {
                        return;
                    }
                }
            });
            BatchSource::Threads { ready, gate, collator: Some(collator) }
        };
        Self { source, left, waited: Duration::ZERO, abandoned }
    }

    /// How long the consumer has waited for batches so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = Instant::now();
        let batch = match &mut self.source {
            BatchSource::Inline(batches) => batches.next(),
            BatchSource::Threads { ready, gate, .. } => ready.recv().ok().inspect(|_| gate.leave()),
        };
        self.waited += start.elapsed();
        // A collator that ended early must not look like the end of the pass.
        let missing = batch.is_none() && self.left > 0;
        self.left = if batch.is_some() { self.left.saturating_sub(1) } else { 0 };
        if missing { Some(Err(LoadError::WorkerGone)) } else { batch }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
        if let BatchSource::Threads { gate, collator, .. } = &mut self.source {
            gate.close();
            if let Some(collator) = collator.take() {
                // It ends at its next sample; a panic there has shown as an error already.
                let _ = collator.join();
            }
        }
    }
}

/// Puts the next samples together in a batch of `shape`.
fn collate<W>(
    shape: &BatchShape,
    samples: &mut OrderedResults<W>,
    pool: &Arc<BufferPool>,
    abandoned: &AtomicBool,
) -> Result<Batch, LoadError>
where
    W: Work<Task = SampleTask, Output = Result<Produced, LoadError>>,
{
    let n = shape.samples.len();
    let (mut targets, mut placements) = (Vec::new(), Vec::new());
    let (mut indices, mut slots) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for image in 0..n {
        if abandoned.load(Ordering::Relaxed) {
            return Err(LoadError::WorkerGone);
        }
        let Produced { sample, slot } =
            samples.next().and_then(Result::ok).ok_or(LoadError::WorkerGone)??;
        slots.push(slot);
        indices.push(sample.index);
        placements.extend(sample.placement);
        targets.extend(sample.labels.iter().map(|label| Target {
            image: u32::try_from(image).unwrap_or(u32::MAX),
            class: label.class,
            cxcywh: label.cxcywh,
        }));
    }
    let images = ImageSlot::join(slots, pool).ok_or(LoadError::WorkerGone)?;
    let BatchShape { number, height, width, .. } = *shape;
    Ok(Batch { number, images, n, height, width, targets, indices, placements })
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Makes its first sample at once, and the others only for a pass that is abandoned.
    #[derive(Default)]
    struct Reluctant {
        abandoned: OnceLock<Arc<AtomicBool>>,
        made: AtomicUsize,
    }

    impl Work for Reluctant {
        type Scratch = ();
        type Task = SampleTask;
        type Output = Result<Produced, LoadError>;

        fn run(&self, task: SampleTask, (): &mut ()) -> Result<Produced, LoadError> {
            let position = task.position;
            let abandoned = || self.abandoned.get().is_some_and(|flag| flag.load(Ordering::Relaxed));
            while position > 0 && !abandoned() {
                std::thread::yield_now();
            }
            self.made.fetch_add(1, Ordering::Relaxed);
            let sample = Sample { index: position, labels: Vec::new(), placement: None };
            Ok(Produced { sample, slot: task.slot })
        }
    }

    #[test]
    fn a_dropped_pass_does_not_finish_the_batch_it_is_at() {
        let work = Arc::new(Reluctant::default());
        let shape = BatchShape { number: 0, samples: 0..500, height: 1, width: 1 };
        let prefetch = Prefetch { workers: WorkerCount::new(3), batches: 1, memory: None };
        let pool = prefetch.buffer_pool();
        let batches = Batches::start(Arc::clone(&work), vec![shape], prefetch, &pool);
        work.abandoned.set(Arc::clone(&batches.abandoned)).unwrap();
        drop(batches);
        // Each thread has at most one in hand and one waiting, and each sample taken hands out another.
        let made = work.made.load(Ordering::Relaxed);
        assert!(made <= 8, "{made}");
    }

    #[test]
    fn a_collator_that_panics_is_an_error_and_not_the_end_of_the_pass() {
        let work = Arc::new(Reluctant::default());
        work.abandoned.set(Arc::new(AtomicBool::new(true))).unwrap();
        let shape = |number, samples, height| BatchShape { number, samples, height, width: 1 };
        // No memory has room for the second batch, which is asked for when the first is being put together.
        let shapes = vec![shape(0, 0..9, 1), shape(1, 9..10, usize::MAX / 4)];
        let prefetch = Prefetch { workers: WorkerCount::new(2), batches: 1, memory: None };
        let pool = prefetch.buffer_pool();
        let found: Vec<_> = Batches::start(work, shapes, prefetch, &pool).collect();
        assert!(matches!(found.last(), Some(Err(LoadError::WorkerGone))), "{found:?}");
        assert!(found.len() <= 2);
    }
}
