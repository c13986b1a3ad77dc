//! GPUs that a test describes.

use tokio::sync::mpsc;
use trainyard_types::{Gpu, GpuUuid};

use super::reading::{GpuAnswer, ProbeError, RecoveryAction};
use super::{GpuProbe, XidEvent};

/// A probe that answers with what it was given.
#[derive(Debug, Clone, Default)]
pub struct FakeGpus {
    /// The GPUs that answer.
    pub gpus: Vec<Gpu>,
    /// What they tell when they are read.
    pub answers: Vec<GpuAnswer>,
}

impl GpuProbe for FakeGpus {
    fn gpus(&self) -> Vec<Gpu> {
        self.gpus.clone()
    }

    fn readings(&self) -> Result<Vec<GpuAnswer>, ProbeError> {
        Ok(self.answers.clone())
    }

    fn driver_version(&self) -> String {
        "fake".into()
    }

    fn cuda_version(&self) -> Option<(u32, u32)> {
        Some((13, 0))
    }

    fn recovery_action(&self, _uuid: &GpuUuid) -> Option<RecoveryAction> {
        None
    }

    fn watch_xids(&self, _found: mpsc::Sender<XidEvent>) {}
}
