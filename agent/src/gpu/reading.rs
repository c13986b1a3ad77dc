//! What a GPU told at one moment, as the driver gave it.
//!
//! Must not know: what follows from a value.

use trainyard_types::gpu::THROTTLE_REASONS;
use trainyard_types::{GpuTelemetry, GpuUuid};

/// One GPU's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuAnswer {
    /// The GPU that was read.
    pub uuid: GpuUuid,
    /// What the GPU told, or why it cannot be read.
    pub reading: Result<GpuReading, ReadError>,
}

/// Why one GPU cannot be read while others may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The GPU has fallen off the bus.
    #[error("GPU is lost")]
    Lost,
    /// The driver refuses, in its words.
    #[error("{0}")]
    Failed(String),
}

/// Why no GPU can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// NVML answers every call with its error 999.
    #[error("Unknown Error")]
    Unknown,
    /// The driver refuses, in its words.
    #[error("{0}")]
    Failed(String),
}

/// What one GPU told. A value that the driver refuses is `None`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GpuReading {
    /// Its PCI address, such as `00000000:01:00.0`.
    pub pci_bus_id: String,
    /// The number of its device file, such as 0 of `/dev/nvidia0`.
    pub minor: Option<u32>,
    /// All of its memory, in MiB.
    pub memory_total_mib: Option<u64>,
    /// Memory that processes hold, in MiB.
    pub memory_used_mib: Option<u64>,
    /// Memory that nobody holds, in MiB.
    pub memory_free_mib: Option<u64>,
    /// Memory that the driver keeps for itself, in MiB.
    pub memory_reserved_mib: Option<u64>,
    /// Share of time a kernel ran, 0 to 1.
    pub utilization_ratio: Option<f64>,
    /// Temperature of the die, in degrees Celsius.
    pub temperature_celsius: Option<u32>,
    /// Power drawn, in watts.
    pub power_watts: Option<f64>,
    /// Energy since the driver was loaded, in joules.
    pub energy_joules: Option<f64>,
    /// Clock of the streaming multiprocessors, in MHz.
    pub clock_mhz: Option<u32>,
    /// Why its clock is held down.
    pub throttle_reasons: Vec<&'static str>,
    /// PCIe lanes in use.
    pub pcie_link_width: Option<u32>,
    /// PCIe lanes that GPU and slot have.
    pub pcie_link_width_max: Option<u32>,
    /// Memory errors since the driver was loaded that were not corrected.
    pub ecc_uncorrected: Option<u64>,
    /// The processes that use it, computing or drawing.
    pub processes: Option<Vec<GpuProcess>>,
}

/// A process on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuProcess {
    /// The process id on the host, outside of any container.
    pub pid: u32,
    /// Memory that it holds, in MiB; some drivers do not tell.
    pub memory_mib: Option<u64>,
    /// Its use of the multiprocessors over the last second, in percent; some drivers do not tell.
    pub utilization_percent: Option<u32>,
}

/// Why a GPU's clock is held down, as NVML's bits; being idle or set so by its user counts as no reason.
pub fn throttle_reasons(bits: u64) -> Vec<&'static str> {
    const BITS: [u64; 7] = [0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x100];
    BITS.into_iter().zip(THROTTLE_REASONS).filter(|(bit, _)| bits & bit != 0).map(|(_, word)| word).collect()
}

/// What the driver wants done with a GPU that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryAction {
    /// Nothing is to be done.
    None,
    /// The GPU is to be reset.
    Reset,
    /// The machine is to be restarted.
    Reboot,
}

impl RecoveryAction {
    /// The action of a number of `nvmlDeviceGpuRecoveryAction_t`. What is drained first is reset afterwards.
    pub const fn from_nvml(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 | 3 | 4 => Some(Self::Reset),
            2 => Some(Self::Reboot),
            _ => None,
        }
    }
}

impl GpuReading {
    /// The reading for the wire, without what the agent concludes: memory of other processes, and whether the GPU takes
    /// jobs.
    pub fn telemetry(&self, uuid: GpuUuid) -> GpuTelemetry {
        GpuTelemetry {
            uuid,
            unavailable: None,
            memory_reserved_mib: self.memory_reserved_mib,
            memory_foreign_mib: None,
            energy_joules: self.energy_joules,
            clock_mhz: self.clock_mhz,
            throttle_reasons: self.throttle_reasons.iter().map(ToString::to_string).collect(),
            pcie_link_width: self.pcie_link_width,
            pcie_link_width_max: self.pcie_link_width_max,
            memory_free_mib: self.memory_free_mib,
            utilization_ratio: self.utilization_ratio,
            temperature_celsius: self.temperature_celsius,
            power_watts: self.power_watts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_gpu_is_not_throttled_and_a_hot_one_says_so() {
        assert!(throttle_reasons(0x1 | 0x2).is_empty());
        assert_eq!(throttle_reasons(0x20 | 0x40 | 0x4), ["power", "thermal", "hardware_thermal"]);
        assert_eq!(throttle_reasons(0x08 | 0x80), ["hardware_slowdown", "power_brake"]);
    }
}
