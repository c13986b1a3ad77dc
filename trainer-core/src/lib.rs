//! Trains YOLOv8 detectors on libtorch.
//!
//! Knows nothing of gRPC, Redis or the cluster: a spec goes in, events and a run directory come out.

pub mod activity;
pub mod checkpoint;
pub mod commands;
pub mod eval;
pub mod events;
pub mod export;
pub mod import;
pub mod libtorch;
pub mod loss;
pub mod model;
pub mod optim;
pub mod report;
#[cfg(test)]
#[allow(dead_code, reason = "trainyard-data's own tests use the rest")]
#[path = "../data/src/test_data.rs"]
mod test_data;
pub mod train;
pub mod weights;
