//! From a data.yaml to batches of pixels and boxes. Knows nothing of tensors or models.
//!
//! [`DataYaml::read`] → [`Dataset::open`] (a preflight of every header and label) → [`ImageStore`]
//! (decoded images, cached) → [`TrainLoader`] or [`ValLoader`] ([`Batches`]).

// What tests read is written by a file that trainyard-trainer's tests use as well.
#[cfg(test)]
extern crate self as trainyard_data;

pub mod affine;
pub mod augment;
pub mod batch;
pub mod cache;
pub mod canvas;
pub mod check;
pub mod crew;
pub mod dataset;
pub mod decode;
pub mod disk_cache;
mod elsewhere;
pub mod gather;
pub mod image;
pub mod image_list;
pub mod items;
pub mod kernels;
pub mod label_cache;
mod label_places;
pub mod labels;
pub mod letterbox;
pub mod listing;
pub mod loader;
pub mod memory;
mod parts;
pub mod patterns;
pub mod pipeline;
pub mod planes;
pub mod pulse;
pub mod random;
#[cfg(test)]
pub(crate) mod reference;
pub mod remarks;
pub mod sample;
pub mod sampler;
pub mod scan;
pub mod slots;
pub mod source;
pub mod spelling;
#[cfg(test)]
pub(crate) mod test_data;
pub mod threads;
pub mod val_loader;
pub mod yaml;
mod yaml_values;

pub use self::augment::{AugmentConfig, MosaicTiles};
pub use self::batch::{Batch, Batches, Target};
pub use self::cache::{CacheMode, ImageStore, RamBudget};
pub use self::canvas::Object;
pub use self::crew::Crew;
pub use self::dataset::{DataError, Dataset, OpenOptions, Split};
pub use self::image::Image;
pub use self::items::{Item, Items};
pub use self::labels::Label;
pub use self::letterbox::Letterbox;
pub use self::loader::{EpochPlan, LoadError, LoaderConfig, TrainLoader};
pub use self::planes::Planes;
pub use self::scan::ScanReport;
pub use self::slots::Pixels;
pub use self::val_loader::{ValConfig, ValLoader};
pub use self::yaml::{DataYaml, YamlError};
