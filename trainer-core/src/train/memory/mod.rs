//! The device's memory: what a step takes of it, how much is held, and what follows when it runs out.

pub mod alloc_retries;
pub mod memory_probe;
pub mod oom_retry;
pub mod peak_memory;
mod phase_tracker;

pub use self::memory_probe::ProbeWhen;
pub use self::phase_tracker::PhaseTracker;
