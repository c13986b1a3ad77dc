//! What a machine has to train on.

use serde::{Deserialize, Serialize};

use crate::ids::GpuUuid;

/// What kind of device a job trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// An NVIDIA GPU.
    #[default]
    Gpu,
    /// A CPU slot of an agent.
    Cpu,
}

/// One physical GPU, as it stays while the driver runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Identity; the index may change at a reboot, this does not.
    pub uuid: GpuUuid,
    /// NVML's index, for people.
    pub index: u32,
    /// Marketing name, `NVIDIA GeForce RTX 4090`.
    pub model: String,
    /// NVML's total, in MiB.
    pub memory_total_mib: u64,
    /// CUDA compute capability, `(8, 9)`; `None` when the driver does not tell.
    pub compute_capability: Option<(u32, u32)>,
}

impl Gpu {
    /// The GPU's nominal size in GiB: the total rounded to half a GiB (12227 MiB is a 12.0 GB GPU).
    pub fn nominal_gib(&self) -> f64 {
        nominal_gib(self.memory_total_mib)
    }

    /// Whether a user who wrote `pattern` means this model; see [`matches_model`].
    pub fn matches_model(&self, pattern: &str) -> bool {
        matches_model(&self.model, pattern)
    }
}

/// Whether a user who wrote `pattern` means `model`: `4090` matches `NVIDIA GeForce RTX 4090`.
/// Words match whole and in order, so `4070` does not match an `RTX 4070 Ti`'s wish for `4070 Ti`
/// the other way round; case does not count.
pub fn matches_model(model: &str, pattern: &str) -> bool {
    let model: Vec<String> = model.split_whitespace().map(str::to_lowercase).collect();
    let wanted: Vec<String> = pattern.split_whitespace().map(str::to_lowercase).collect();
    !wanted.is_empty() && model.windows(wanted.len()).any(|window| window == wanted.as_slice())
}

/// A memory size in MiB, rounded to half a GiB.
pub fn nominal_gib(memory_total_mib: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "memory sizes are far below 2^52 MiB")]
    let halves = (memory_total_mib as f64 / 512.0).round();
    halves / 2.0
}

/// Why a GPU's clock may be held down, in words; agents say no others.
pub const THROTTLE_REASONS: [&str; 7] =
    ["power", "hardware_slowdown", "sync_boost", "thermal", "hardware_thermal", "power_brake", "display"];

/// What a GPU does at the moment; a reading that the driver refuses is `None`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GpuTelemetry {
    /// The GPU that was sampled.
    pub uuid: GpuUuid,
    /// Why it takes no job now; `None` when it does.
    pub unavailable: Option<Unavailable>,
    /// Memory that the driver keeps for itself, in MiB.
    pub memory_reserved_mib: Option<u64>,
    /// Memory of processes that are not the agent's, in MiB.
    pub memory_foreign_mib: Option<u64>,
    /// Energy drawn since the driver was loaded, in joules.
    pub energy_joules: Option<f64>,
    /// Clock of the streaming multiprocessors, in MHz.
    pub clock_mhz: Option<u32>,
    /// Why the clock is held down, of [`THROTTLE_REASONS`]; empty when it is not.
    pub throttle_reasons: Vec<String>,
    /// PCIe lanes in use.
    pub pcie_link_width: Option<u32>,
    /// PCIe lanes that GPU and slot have.
    pub pcie_link_width_max: Option<u32>,
    /// Memory that is free now, in MiB.
    pub memory_free_mib: Option<u64>,
    /// Share of time a kernel ran, 0 to 1.
    pub utilization_ratio: Option<f64>,
    /// Temperature of the chip, in degrees Celsius.
    pub temperature_celsius: Option<u32>,
    /// Power drawn, in watts.
    pub power_watts: Option<f64>,
}

/// Why a GPU takes no job; see [`GpuTelemetry::unavailable`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unavailable {
    /// The kind of reason.
    pub cause: UnavailableCause,
    /// A sentence for a person: what was seen, and how the GPU comes back.
    pub message: String,
}

/// The kinds of reasons for which a GPU takes no job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnavailableCause {
    /// Processes that are not the agent's hold more memory than is allowed beside a job.
    ForeignUse,
    /// Its owner works on it, or the configured schedule says so.
    Owner,
    /// It failed, and waits for a reboot, a self-test or `yard agents … clear`.
    Quarantined,
    /// The driver or libtorch cannot use it.
    Unsupported,
    /// The machine has not proved yet that it trains on it, or has failed to.
    SelfTest,
    /// Another agent offers the same GPU.
    Duplicate,
    /// A trainer that does not end still holds it.
    Stuck,
}

/// What an agent offers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// Every GPU is one slot.
    pub gpus: Vec<Gpu>,
    /// How many jobs it runs on the CPU at a time.
    pub cpu_slots: u32,
    /// Main memory in MiB.
    pub memory_total_mib: u64,
    /// NVIDIA driver; empty without one.
    pub driver_version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(model: &str) -> Gpu {
        Gpu {
            uuid: GpuUuid("GPU-1".into()),
            index: 0,
            model: model.into(),
            memory_total_mib: 24564,
            compute_capability: None,
        }
    }

    #[test]
    fn a_5070_is_a_12_gb_gpu_and_20475_mib_are_20() {
        let sizes = [12227, 20475, 24564, 8188].map(nominal_gib);
        assert_eq!(sizes, [12.0, 20.0, 24.0, 8.0]);
    }

    #[test]
    fn a_model_number_matches_the_whole_word() {
        let gpu = gpu("NVIDIA GeForce RTX 4090");
        assert!(gpu.matches_model("4090") && gpu.matches_model("rtx 4090"));
        assert!(!gpu.matches_model("409") && !gpu.matches_model("4090 Ti") && !gpu.matches_model(" "));
    }
}
