//! The agent as a scheduler and a machine see it. One program, since each would link everything.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod agent;
mod dataset_room;
mod datasets;
mod disk;
mod fake_nvml;
mod gpus;
mod joining;
mod machine;
mod memory;
mod metrics;
mod prefetch;
mod spool;
mod stub;
mod supervision;
mod unheard;
