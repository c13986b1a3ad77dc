//! The agent: owns a machine's GPUs, runs trainers on them and reports to the scheduler.
//!
//! Must not know: libtorch, Redis, what a placement is. [`core`] decides and is pure; [`driver`] does what it
//! says; the other modules are its edges, and talk to each other by [`message`]s.

pub mod agent_status;
pub mod backoff;
pub mod closed_devices;
pub mod config;
pub mod connection;
pub mod content;
pub mod core;
pub mod data_check;
pub mod device;
pub mod disk;
pub mod driver;
pub mod enrolment;
pub mod gpu;
pub mod host;
pub mod identity;
pub mod memory;
pub mod message;
pub mod metrics;
pub mod prepare;
pub mod reload;
pub mod report;
pub mod run;
pub mod running_trainers;
pub mod self_test;
pub mod startup;
pub mod status_line;
pub mod trainer;
