//! A cluster of real processes for the scenarios: scheduler with its private Redis, agents, trainers.
//!
//! Nothing here sleeps to wait for something: it watches events, or asks until a deadline.

pub mod cluster;
pub mod jobs;
pub mod process;
