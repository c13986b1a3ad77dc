//! What the agent tests, and closes, as one.

use trainyard_types::{GpuUuid, Slot};

/// A GPU, or all CPU slots together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// Every CPU slot.
    Cpu,
    /// One GPU.
    Gpu(GpuUuid),
}

impl From<&Slot> for Device {
    fn from(slot: &Slot) -> Self {
        match slot {
            Slot::Cpu(_) => Self::Cpu,
            Slot::Gpu(uuid) => Self::Gpu(uuid.clone()),
        }
    }
}
