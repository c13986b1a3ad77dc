//! The machine's GPUs: what there is, what they do now, and whether they may be used.

pub mod fake;
pub mod health;
pub mod monitor;
pub mod nvml;
pub mod oom_cause;
pub mod other_processes;
pub mod owner_mode;
pub mod quarantine;
pub mod reading;
pub mod states;
pub mod support;
pub mod telemetry;
pub mod xid;

use tokio::sync::mpsc;
use trainyard_types::{Gpu, GpuUuid};

use reading::{GpuAnswer, ProbeError, RecoveryAction};

/// An error that the driver tells of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XidEvent {
    /// The GPU; `None` if the driver cannot tell any more.
    pub gpu: Option<GpuUuid>,
    /// The error's number in NVIDIA's catalogue.
    pub xid: u64,
}

/// Asks a machine for its GPUs. Calls may block, so they belong on a thread that may.
pub trait GpuProbe: Send + Sync {
    /// The GPUs that answer, by index; a GPU that does not is left out.
    fn gpus(&self) -> Vec<Gpu>;

    /// What each GPU that was ever seen does now.
    ///
    /// # Errors
    /// None of them can be asked.
    fn readings(&self) -> Result<Vec<GpuAnswer>, ProbeError>;

    /// The driver's version; empty without one.
    fn driver_version(&self) -> String;

    /// The newest CUDA that the driver can run, `(13, 0)`.
    fn cuda_version(&self) -> Option<(u32, u32)>;

    /// Memory that is free on one GPU now, in MiB.
    fn memory_free_mib(&self, uuid: &GpuUuid) -> Option<u64> {
        let answer = self.readings().ok()?.into_iter().find(|answer| answer.uuid == *uuid)?;
        answer.reading.ok()?.memory_free_mib
    }

    /// What the driver wants done with a GPU; `None` if it does not tell.
    fn recovery_action(&self, uuid: &GpuUuid) -> Option<RecoveryAction>;

    /// Sends every XID from now on until nobody receives any more, from a thread of its own.
    fn watch_xids(&self, found: mpsc::Sender<XidEvent>);
}
