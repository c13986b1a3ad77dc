//! Trains YOLOv8 detectors on libtorch.
//!
//! Knows nothing of gRPC, Redis or the cluster: a spec goes in, events and a run directory come out.

pub mod checkpoint;
pub mod commands;
pub mod data;
pub mod eval;
pub mod events;
pub mod export;
pub mod import;
pub mod libtorch;
pub mod loss;
pub mod model;
pub mod optim;
pub mod pulse;
pub mod report;
pub mod train;
pub mod weights;
