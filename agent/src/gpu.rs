//! The machine's GPUs: what there is, and what they do now.

pub mod fake;
pub mod nvml;

use trainyard_types::{Gpu, GpuTelemetry, GpuUuid};

/// Asks a machine for its GPUs. Calls may block, so they belong on a thread that may.
pub trait GpuProbe: Send + Sync {
    /// The GPUs that answer, by index; a card that does not is left out.
    fn gpus(&self) -> Vec<Gpu>;

    /// What each GPU does now; a reading that the driver refuses is `None`.
    fn telemetry(&self) -> Vec<GpuTelemetry>;

    /// The driver's version; empty without one.
    fn driver_version(&self) -> String;

    /// Memory that is free on one card now, in MiB.
    fn memory_free_mib(&self, uuid: &GpuUuid) -> Option<u64> {
        self.telemetry().into_iter().find(|reading| reading.uuid == *uuid)?.memory_free_mib
    }
}

/// A machine without GPUs.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGpus;

impl GpuProbe for NoGpus {
    fn gpus(&self) -> Vec<Gpu> {
        Vec::new()
    }

    fn telemetry(&self) -> Vec<GpuTelemetry> {
        Vec::new()
    }

    fn driver_version(&self) -> String {
        String::new()
    }
}
