//! GPUs that a test describes.

use trainyard_types::{Gpu, GpuTelemetry};

use super::GpuProbe;

/// Answers with what it was given.
#[derive(Debug, Clone, Default)]
pub struct FakeGpus {
    /// The cards.
    pub gpus: Vec<Gpu>,
    /// Their readings.
    pub telemetry: Vec<GpuTelemetry>,
}

impl GpuProbe for FakeGpus {
    fn gpus(&self) -> Vec<Gpu> {
        self.gpus.clone()
    }

    fn telemetry(&self) -> Vec<GpuTelemetry> {
        self.telemetry.clone()
    }

    fn driver_version(&self) -> String {
        "fake".into()
    }
}
