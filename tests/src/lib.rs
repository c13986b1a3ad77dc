//! A cluster of real processes for the scenarios: scheduler with its private Redis, agents, trainers.
//!
//! Nothing here sleeps to wait for something: it watches events, or asks until a deadline.
//! `faults` has a cluster of its own, with several schedulers and trainers that only pretend.

pub mod cluster;
pub mod faults;
pub mod images;
pub mod jobs;
pub mod process;
pub mod stand_in;
