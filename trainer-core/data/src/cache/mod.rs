//! Decoded images at training size, kept in memory ([`ram_budget`]) and on disk ([`disk`]). [`ImageStore`] is the door to
//! both. A cache that fails costs time, never a training.

pub mod disk;
pub mod image_store;
pub mod ram_budget;

pub use self::image_store::{CacheMode, ImageStore};
pub use self::ram_budget::RamBudget;
