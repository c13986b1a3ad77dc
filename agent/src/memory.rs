//! Batch sizes: how many images go through the model at once, and the memory that such training was seen to need.

pub mod batch_size;
pub mod fit_records;
pub mod need;
