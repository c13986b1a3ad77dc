//! How much memory a run takes: as measured where a run of its kind was measured, else by an estimate.

use trainyard_types::FitRecord;
use trainyard_types::fit::{Estimate, estimate};

use super::batch_size::{DeviceMemory, Workload};

/// Share of a GPU's memory that a measured run leaves free: fragmentation, and what varies between batches.
const HEADROOM: f64 = 0.08;
/// The same where the need is only estimated.
const ESTIMATED_HEADROOM: f64 = 0.1;
/// Share of main memory that is left for everything else.
const HOST_HEADROOM: f64 = 0.2;
/// Memory of a GPU that CUDA and its libraries take beside what the allocator counts, in MiB: an estimate for GPUs on
/// which no run has told it yet. 500 to 800 are usual; where it is too low the trainer steps down the ladder.
pub const CUDA_STATE_MIB: u64 = 600;
/// Part of an estimate's fixed memory that a run on a CPU does not take, in MiB.
const CUDA_LIBRARIES_MIB: f64 = 400.0;

/// The memory that a run needs, in MiB.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryNeed {
    /// Memory that a run takes whatever its batch size.
    pub fixed_mib: u64,
    /// Memory for each image of a batch.
    pub per_image_mib: f64,
    /// Memory for each image of a batch while validating, which takes twice as many images at once.
    validation_per_image_mib: f64,
    /// Whether a run has been measured.
    pub measured: bool,
    /// Name of the kind of device.
    pub device: &'static str,
}

impl MemoryNeed {
    /// The need of `workload`: by `record`, if that is of a measured run, else by an estimate. `cuda_state_mib` is what
    /// CUDA was seen to take on such a GPU.
    pub fn of(
        memory: DeviceMemory,
        workload: Workload,
        record: Option<&FitRecord>,
        cuda_state_mib: Option<u64>,
    ) -> Self {
        let (device, state) = match memory {
            DeviceMemory::Gpu { .. } => ("GPU like this", cuda_state_mib.unwrap_or(CUDA_STATE_MIB)),
            DeviceMemory::Cpu { .. } => ("CPU", 0),
        };
        match record.filter(|record| record.batch_size > 0) {
            Some(record) => {
                let above = mib(record.validation_mib.saturating_sub(record.fixed_mib));
                Self {
                    fixed_mib: record.fixed_mib + state,
                    per_image_mib: record.per_image_mib.max(0.1),
                    validation_per_image_mib: above / f64::from(record.batch_size),
                    measured: true,
                    device,
                }
            }
            None => {
                let estimated = Self::estimated(memory, workload, device);
                // A record without a measurement knows at least what was too little.
                let at_least = record.map_or(0.0, |record| record.per_image_mib);
                Self { per_image_mib: estimated.per_image_mib.max(at_least), ..estimated }
            }
        }
    }

    /// The need by [`estimate`]. Its figures are rounded up; for n and s they never lower the table on a GPU that is
    /// free. When an estimate is too low all the same, the trainer steps down the ladder and the agent remembers it.
    fn estimated(memory: DeviceMemory, workload: Workload, device: &'static str) -> Self {
        // A CPU is taken to compute in single precision, and has no CUDA libraries to load.
        let (single, libraries) = match memory {
            DeviceMemory::Gpu { .. } => (!workload.amp, 0.0),
            DeviceMemory::Cpu { .. } => (true, CUDA_LIBRARIES_MIB),
        };
        let Estimate { fixed_mib, per_image_mib } = estimate(workload.model, single);
        // The largest image decides.
        let side = f64::from(if workload.multi_scale {
            workload.imgsz + workload.imgsz / 2
        } else {
            workload.imgsz
        });
        let (fixed_mib, per_image_mib) =
            (whole(fixed_mib - libraries), per_image_mib * side * side / (640.0 * 640.0));
        Self { fixed_mib, per_image_mib, validation_per_image_mib: 0.0, measured: false, device }
    }

    /// Memory that a run may fill where `available_mib` are there. A `share` of it is what the user asked for.
    pub fn budget(&self, available_mib: u64, memory: DeviceMemory, share: Option<f64>) -> u64 {
        let kept = match (memory, share) {
            (_, Some(share)) => 1.0 - share,
            (DeviceMemory::Cpu { .. }, None) => HOST_HEADROOM,
            (DeviceMemory::Gpu { .. }, None) if self.measured => HEADROOM,
            (DeviceMemory::Gpu { total_mib, .. }, None) => {
                // What is free counts whole, as long as a tenth of the GPU is left.
                let most = mib(total_mib) * (1.0 - ESTIMATED_HEADROOM);
                return whole(most).min(available_mib);
            }
        };
        whole(mib(available_mib) * (1.0 - kept))
    }

    /// How many images fit into `budget_mib` while training.
    pub fn fitting(&self, budget_mib: u64) -> u32 {
        self.most(budget_mib, self.per_image_mib)
    }

    /// How many images fit into `budget_mib` while training and while validating.
    pub fn fitting_with_validation(&self, budget_mib: u64) -> u32 {
        self.most(budget_mib, self.per_image_mib.max(self.validation_per_image_mib))
    }

    fn most(&self, budget_mib: u64, per_image_mib: f64) -> u32 {
        // Not negative, and the conversion saturates.
        (mib(budget_mib.saturating_sub(self.fixed_mib)) / per_image_mib.max(0.1)) as u32
    }
}

/// A size of memory as a float: far below 2^52 MiB.
const fn mib(size: u64) -> f64 {
    size as f64
}

/// A size of memory in whole MiB: not negative and far below 2^52.
const fn whole(size: f64) -> u64 {
    size as u64
}
