//! The agent: owns a machine's GPUs, runs trainers on them and reports to the scheduler.
//!
//! Must not know: libtorch, Redis, what a placement is. [`core`] decides and is pure; the other modules are
//! its edges.

pub mod banner;
pub mod batch;
pub mod config;
pub mod gpu;

/// x
pub async fn run(_c: config::Config, _p: std::sync::Arc<dyn gpu::GpuProbe>) -> anyhow::Result<()> {
    Ok(())
}
