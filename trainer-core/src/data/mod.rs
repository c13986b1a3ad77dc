//! From a data.yaml to batches of pixels and boxes. Knows nothing of tensors or models.
//!
//! `DataYaml::read` → `Dataset::open` (a preflight of every header and label) → `ImageStore` (decoded
//! images, cached) → `TrainLoader` or `ValLoader` (batches).

//pub mod affine;
//pub mod augment;
//pub mod cache;
//pub mod canvas;
pub mod dataset;
pub mod decode;
//pub mod hsv;
pub mod image;
pub mod labels;
pub mod letterbox;
//pub mod loader;
pub mod random;
//pub mod sample;
pub mod scan;
//pub mod val_loader;
pub mod yaml;

//pub use self::augment::AugmentConfig;
//pub use self::cache::{CacheConfig, CacheMode, ImageStore};
pub use self::dataset::{DataError, Dataset, Item, OpenOptions, Split};
pub use self::image::Image;
pub use self::labels::Label;
//pub use self::loader::{Batch, EpochPlan, LoadError, LoaderConfig, Target, TrainLoader};
pub use self::scan::ScanReport;
//pub use self::val_loader::{ValBatch, ValConfig, ValLoader};
pub use self::yaml::{DataYaml, YamlError};
