//! Auto batch: how many images go through the model at once, from the device that there is.
//!
//! Three layers, each of which can only lower the one before: the table that users know, an estimate of
//! what the model's size needs in the memory that is free now, and what this card is remembered to have
//! run out of memory at. Everything here is a function of its arguments.

use trainyard_types::gpu::nominal_gib;
use trainyard_types::{ModelScale, TrainSpec};

#[cfg(test)]
mod tests;

/// The sizes that a batch steps down to, largest first. The trainer uses the same when memory runs out.
pub const LADDER: [u32; 12] = [64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1];

/// What a CPU slot uses when memory allows.
pub const CPU_BATCH: u32 = 16;

/// The memory of a device, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// A GPU's own: all of it, and what is free now when the driver tells.
    Gpu {
        /// NVML's total.
        total_mib: u64,
        /// Free now.
        free_mib: Option<u64>,
    },
    /// The host's, free now, for one CPU slot.
    Cpu {
        /// What a new process may take.
        available_mib: u64,
    },
}

/// What of a training run decides its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// The model's size.
    pub model: ModelScale,
    /// Pixels along an image's side, as asked for.
    pub imgsz: u32,
    /// Images grow by up to half.
    pub multi_scale: bool,
    /// Half-precision activations.
    pub amp: bool,
}

impl From<&TrainSpec> for Load {
    fn from(train: &TrainSpec) -> Self {
        Self { model: train.model, imgsz: train.imgsz, multi_scale: train.multi_scale, amp: train.amp }
    }
}

/// The batch size for `load` on a device with `memory`; `remembered` is the largest that this device is
/// known to hold for the same load.
pub fn auto(memory: Memory, load: Load, remembered: Option<u32>) -> u32 {
    let table = match memory {
        Memory::Gpu { total_mib, .. } => table(nominal_gib(total_mib), load.imgsz),
        Memory::Cpu { .. } => CPU_BATCH,
    };
    let fits = fitting(budget_mib(memory), memory, load);
    // A table entry that fits is taken as it is; only what had to give way is on the ladder.
    let estimated = if fits >= table { table } else { step_down_to(fits) };
    remembered.map_or(estimated, |limit| estimated.min(limit.max(1)))
}

/// The table that users know: rows by the card's nominal size in GiB, columns by image size.
pub fn table(nominal_gib: f64, imgsz: u32) -> u32 {
    let row = match nominal_gib {
        size if size >= 20.0 => [64, 32, 16],
        size if size >= 10.0 => [48, 24, 12],
        _ => [32, 16, 8],
    };
    match imgsz {
        0..=416 => row[0],
        417..=640 => row[1],
        641..=1024 => row[2],
        // Activations grow with the image's area.
        larger => (row[2] * 1024 * 1024 / (larger * larger)).max(1),
    }
}

/// The memory that a run may fill. A tenth of a card stays free for fragmentation and the driver; of the
/// host's memory, a fifth for everything else.
fn budget_mib(memory: Memory) -> u64 {
    match memory {
        Memory::Gpu { total_mib, free_mib } => (total_mib * 9 / 10).min(free_mib.unwrap_or(u64::MAX)),
        Memory::Cpu { available_mib } => available_mib * 4 / 5,
    }
}

/// How many images fit into `budget_mib`, by an estimate.
///
/// The figures are estimates, not measurements: MiB that weights, gradients, optimiser, EMA and the
/// libraries' own state take, and MiB of activations per image at 640 pixels, in half precision on a GPU.
/// They are rounded up; for n and s they never lower the table on a card that is free. When an estimate
/// is too hopeful all the same, the trainer steps down the ladder and the agent remembers.
fn fitting(budget_mib: u64, memory: Memory, load: Load) -> u32 {
    let (fixed, half_precision) = match load.model {
        ModelScale::N => (800, 130),
        ModelScale::S => (900, 230),
        ModelScale::M => (1200, 430),
        ModelScale::L => (1600, 660),
        ModelScale::X => (2000, 880),
    };
    // Activations in single precision take twice the room; a CPU always computes in it, and has no CUDA
    // libraries to load.
    let (fixed, per_image) = match memory {
        Memory::Gpu { .. } if load.amp => (fixed, half_precision),
        Memory::Gpu { .. } => (fixed, half_precision * 2),
        Memory::Cpu { .. } => (fixed - 400, half_precision * 2),
    };
    // The largest image decides.
    let side = u64::from(if load.multi_scale { load.imgsz + load.imgsz / 2 } else { load.imgsz });
    let images = budget_mib.saturating_sub(fixed) * 640 * 640 / (per_image * side * side).max(1);
    u32::try_from(images).unwrap_or(u32::MAX)
}

/// The largest step of the ladder that is at most `size`; 1 when even that is too much, because a run on
/// batch 1 may still fit, and says so plainly if it does not.
fn step_down_to(size: u32) -> u32 {
    LADDER.into_iter().find(|&step| step <= size).unwrap_or(1)
}
