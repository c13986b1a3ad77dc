//! Batches in order, made by worker threads ahead of their consumer.
//!
//! [`TrainLoader`] makes augmented samples, [`ValLoader`] letterboxed images. Both describe a pass as batches of sample
//! tasks and leave the rest to [`Batches`]: workers take tasks from a shared queue (`ordered`) and write pixels where
//! they stay (`batch_buffer`), in memory that may be another's
//! (`pixel_memory`); a collator puts samples together. The number of workers may change meanwhile
//! (`worker_pool`).

pub mod batch;
pub mod batch_buffer;
mod ordered;
mod pixel_memory;
pub mod rect_batches;
pub mod thread_hook;
pub mod train;
pub mod val;
pub mod worker_pool;

pub use self::batch::{Batch, Batches, Target};
pub use self::batch_buffer::Pixels;
pub use self::pixel_memory::{PixelBuffer, PixelMemory};
pub use self::train::{EpochPlan, LoaderConfig, TrainLoader};
pub use self::val::{ValConfig, ValLoader};
pub use self::worker_pool::WorkerCount;
