//! The agent: owns a machine's GPUs, runs trainers on them and reports to the scheduler.
//!
//! Must not know: libtorch, Redis, what a placement is. [`core`] decides and is pure; [`driver`] does what it
//! says; the other modules are its edges.

pub mod advert;
pub mod backoff;
pub mod banner;
pub mod batch;
pub mod closings;
pub mod config;
pub mod connection;
pub mod core;
pub mod crew;
pub mod data_roots;
pub mod disk;
pub mod driver;
pub mod evidence;
pub mod fit;
pub mod gpu;
pub mod guest;
pub mod host;
pub mod http;
pub mod identity;
pub mod job_dir;
pub mod metrics;
pub mod mounts;
pub mod others;
pub mod paths;
pub mod prepare;
pub mod run;
pub mod self_test;
pub mod spool;
pub mod telemetry;
pub mod trainer;
pub mod transfer;
pub mod warm;
