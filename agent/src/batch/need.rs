//! How much memory a run takes: as measured where a run of its kind was, else by an estimate.

use trainyard_types::FitRecord;
use trainyard_types::fit::{Estimate, estimate};

use super::{Load, Memory};

/// Share of a GPU's memory that a measured run leaves free: fragmentation, and what varies between batches.
const HEADROOM: f64 = 0.08;
/// The same where the need is only estimated.
const ESTIMATED_HEADROOM: f64 = 0.1;
/// Share of main memory that is left for everything else.
const HOST_HEADROOM: f64 = 0.2;
/// What CUDA and its libraries take of a GPU beside what the allocator counts, in MiB. An assumption, rounded
/// up; it has not been measured on a GPU.
const CUDA_STATE_MIB: u64 = 450;
/// Part of an estimate's fixed memory that a run on a CPU does not take, in MiB.
const CUDA_LIBRARIES_MIB: f64 = 400.0;

/// See the module. Memory in MiB.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    /// Whatever the batch size.
    pub fixed_mib: u64,
    /// For each image of a batch.
    pub per_image_mib: f64,
    /// For each image of a batch while validating, which takes twice as many images at once.
    validation_per_image_mib: f64,
    /// Whether a run has been measured.
    pub measured: bool,
    /// Name of the kind of device.
    pub device: &'static str,
}

impl Need {
    /// Of `load`: what `record` says, if it is of a measured run.
    pub fn of(memory: Memory, load: Load, record: Option<&FitRecord>) -> Self {
        let (device, state) = match memory {
            Memory::Gpu { .. } => ("GPU like this", CUDA_STATE_MIB),
            Memory::Cpu { .. } => ("CPU", 0),
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
                let estimated = Self::estimated(memory, load, device);
                // A record without a measurement knows at least what was too little.
                let at_least = record.map_or(0.0, |record| record.per_image_mib);
                Self { per_image_mib: estimated.per_image_mib.max(at_least), ..estimated }
            }
        }
    }

    /// By [`estimate`], not measured. The figures are rounded up; for n and s they never lower the table on a GPU that is free. When an estimate is
    /// too hopeful all the same, the trainer steps down the ladder and the agent remembers.
    fn estimated(memory: Memory, load: Load, device: &'static str) -> Self {
        // A CPU is taken to compute in single precision, and has no CUDA libraries to load.
        let (single, libraries) = match memory {
            Memory::Gpu { .. } => (!load.amp, 0.0),
            Memory::Cpu { .. } => (true, CUDA_LIBRARIES_MIB),
        };
        let Estimate { fixed_mib, per_image_mib } = estimate(load.model, single);
        // The largest image decides.
        let side = f64::from(if load.multi_scale { load.imgsz + load.imgsz / 2 } else { load.imgsz });
        let (fixed_mib, per_image_mib) =
            (whole(fixed_mib - libraries), per_image_mib * side * side / (640.0 * 640.0));
        Self { fixed_mib, per_image_mib, validation_per_image_mib: 0.0, measured: false, device }
    }

    /// What of `available_mib` a run may fill; a `share` is of the whole, and its user's word.
    pub fn budget(&self, available_mib: u64, memory: Memory, share: Option<f64>) -> u64 {
        let kept = match (memory, share) {
            (_, Some(share)) => 1.0 - share,
            (Memory::Cpu { .. }, None) => HOST_HEADROOM,
            (Memory::Gpu { .. }, None) if self.measured => HEADROOM,
            (Memory::Gpu { total_mib, .. }, None) => {
                // What is free counts whole, as long as a tenth of the GPU is left.
                let most = mib(total_mib) * (1.0 - ESTIMATED_HEADROOM);
                return whole(most).min(available_mib);
            }
        };
        whole(mib(available_mib) * (1.0 - kept))
    }

    /// How many images of training fit into `budget_mib`.
    pub fn fitting(&self, budget_mib: u64) -> u32 {
        self.most(budget_mib, self.per_image_mib)
    }

    /// The same with validation counted.
    pub fn fitting_with_validation(&self, budget_mib: u64) -> u32 {
        self.most(budget_mib, self.per_image_mib.max(self.validation_per_image_mib))
    }

    fn most(&self, budget_mib: u64, per_image_mib: f64) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and the conversion saturates"
        )]
        let images = (mib(budget_mib.saturating_sub(self.fixed_mib)) / per_image_mib.max(0.1)) as u32;
        images
    }
}

#[expect(clippy::cast_precision_loss, reason = "memory sizes are far below 2^52 MiB")]
const fn mib(size: u64) -> f64 {
    size as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size of memory: not negative and far below 2^52"
)]
const fn whole(size: f64) -> u64 {
    size as u64
}
