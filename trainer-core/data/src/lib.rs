//! From a data.yaml to batches of pixels and boxes. Knows nothing of tensors or models.
//!
//! [`DataYaml::read`] → [`Dataset::open`] (a scan of every image header and label file) → [`ImageStore`] (decoded
//! images, cached) → [`TrainLoader`] or [`ValLoader`] ([`Batches`]).
//!
//! A room knows only rooms further down:
//!
//! | room | what it is |
//! |---|---|
//! | [`packing`] | the files of a data set that goes elsewhere |
//! | [`check`](mod@check) | every problem of a data set at once |
//! | [`loader`] | worker threads, batches in order |
//! | [`augment`] | mosaic, affine, mixup, HSV: one training sample |
//! | [`cache`] | decoded images in memory and on disk |
//! | [`dataset`] | data.yaml, lists and folders of images, the scan and its cache, what the user is told of it |
//! | [`labels`] | label files: where they lie, how they are read |
//! | [`decode`] | image files to RGB |
//! | [`resample`] | resize, letterbox, inner loops of bilinear samples |
//! | [`image`] | pixels in memory, interleaved or as planes |
//! | [`files`] | reading, comparing, mapping and replacing files; other ways to write a path |
//! | [`random`], [`activity`] | random numbers by place; what the process is busy with |

// What tests read is written by a file that trainyard-trainer's tests use as well.
#[cfg(test)]
extern crate self as trainyard_data;

pub mod activity;
pub mod augment;
pub mod cache;
pub mod check;
mod chunks;
mod cpu;
pub mod dataset;
pub mod decode;
pub mod files;
pub mod image;
pub mod labels;
mod load_error;
pub mod loader;
pub mod packing;
pub mod random;
pub mod resample;
#[cfg(test)]
pub(crate) mod test_data;

pub use self::augment::{AugmentConfig, MosaicTiles};
pub use self::cache::{CacheMode, ImageStore, RamBudget};
pub use self::dataset::{
    DataError, DataYaml, Dataset, ImageIndex, IndexedImage, OpenOptions, ScanReport, Split, YamlError,
};
pub use self::image::{Image, PlanarImage};
pub use self::labels::{Label, Object};
pub use self::load_error::LoadError;
pub use self::loader::{
    Batch, Batches, EpochPlan, LoaderConfig, PixelBuffer, PixelMemory, Pixels, Target, TrainLoader,
    ValConfig, ValLoader, WorkerCount,
};
pub use self::resample::Letterbox;
