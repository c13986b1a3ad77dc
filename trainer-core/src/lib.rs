//! Trains YOLOv8 detectors on libtorch.
//!
//! Knows nothing of gRPC, Redis or the cluster: a spec goes in, events and a run directory come out.

pub mod libtorch;
pub mod loss;
pub mod model;
pub mod optim;
pub mod weights;
