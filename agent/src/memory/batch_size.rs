//! Auto batch: how many images go through the model at once, from the device that there is.
//!
//! There are four layers, each of which can only lower the one before: the table that users know, what the model's size
//! takes of the whole device, what is free of it now, and what runs of this kind were seen to need. Everything here is a
//! function of its arguments.

use trainyard_types::batch_ladder::LADDER;
use trainyard_types::gpu::nominal_gib;
use trainyard_types::{Batch, BatchChosen, BatchLayer, FitRecord, ModelScale, TrainSpec};

use super::need::MemoryNeed;

#[cfg(test)]
mod tests;

/// What a CPU slot uses when memory allows.
pub const CPU_BATCH: u32 = 16;

/// The memory of a device, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceMemory {
    /// Memory of a GPU: all of it, and what the driver tells of its use now.
    Gpu {
        /// NVML's total.
        total_mib: u64,
        /// Memory that nobody holds now.
        free_mib: Option<u64>,
        /// Memory that the driver keeps for itself.
        reserved_mib: Option<u64>,
        /// Memory held by processes that are not the agent's.
        others_mib: Option<u64>,
    },
    /// Main memory, for one CPU slot.
    Cpu {
        /// What this agent's processes may have in all.
        total_mib: u64,
        /// What a new process may take.
        available_mib: u64,
    },
}

/// The name of the one layer of a batch size that the user gave.
pub const GIVEN: &str = "asked for";

impl DeviceMemory {
    /// Memory that is free now, as far as anybody tells; all of it where nobody does.
    pub fn free_mib(&self) -> u64 {
        match *self {
            Self::Cpu { available_mib, .. } => available_mib,
            Self::Gpu { total_mib, free_mib, reserved_mib, others_mib } => free_mib.unwrap_or_else(|| {
                total_mib.saturating_sub(reserved_mib.unwrap_or(0) + others_mib.unwrap_or(0))
            }),
        }
    }

    /// Memory that runs could have if nobody else held any.
    fn whole_mib(&self) -> u64 {
        match *self {
            Self::Cpu { total_mib, .. } => total_mib,
            Self::Gpu { total_mib, reserved_mib, .. } => total_mib.saturating_sub(reserved_mib.unwrap_or(0)),
        }
    }

    /// Whether a run has the device to itself, as far as can be told: other processes hold no more than a desktop does.
    /// Runs on the CPU always share, and share the same way.
    pub fn is_undivided(&self) -> bool {
        match *self {
            Self::Cpu { .. } => true,
            Self::Gpu { .. } => self.whole_mib().saturating_sub(self.free_mib()) <= self.desktop_mib(),
        }
    }

    /// Memory that a desktop takes of a GPU, a sixteenth: so much makes no difference.
    pub const fn desktop_mib(&self) -> u64 {
        match *self {
            Self::Cpu { total_mib, .. } | Self::Gpu { total_mib, .. } => total_mib / 16,
        }
    }

    /// The same device while other processes hold `others_mib`; what the agent's own runs hold counts as free.
    #[must_use]
    pub fn with_others(self, others_mib: Option<u64>) -> Self {
        match (self, others_mib) {
            (Self::Gpu { total_mib, reserved_mib, .. }, Some(_)) => {
                Self::Gpu { total_mib, free_mib: None, reserved_mib, others_mib }
            }
            (memory, _) => memory,
        }
    }

    fn description(&self) -> String {
        match *self {
            Self::Cpu { .. } => format!("{} of main memory", gib(self.whole_mib())),
            Self::Gpu { total_mib, .. } => format!("{:.1} GB GPU", nominal_gib(total_mib)),
        }
    }
}

/// The properties of a training run on which its memory depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// The model's size.
    pub model: ModelScale,
    /// Pixels along an image's side, as asked for.
    pub imgsz: u32,
    /// Whether images grow by up to half.
    pub multi_scale: bool,
    /// Whether activations have half precision.
    pub amp: bool,
}

impl From<&TrainSpec> for Workload {
    fn from(train: &TrainSpec) -> Self {
        Self { model: train.model, imgsz: train.imgsz, multi_scale: train.multi_scale, amp: train.amp }
    }
}

/// What the choice of a batch size depends on.
#[derive(Debug, Clone, Copy)]
pub struct BatchRequest<'a> {
    /// The device.
    pub memory: DeviceMemory,
    /// What is trained.
    pub workload: Workload,
    /// The batch size, or the share of memory, that the user asked for.
    pub batch: Batch,
    /// The nominal batch: more images at once would make it another training.
    pub nominal: u32,
    /// What runs of this kind were seen to need.
    pub record: Option<&'a FitRecord>,
    /// What CUDA itself was seen to take of such a GPU, in MiB.
    pub cuda_state_mib: Option<u64>,
    /// The largest size that a former version of the agent kept for this GPU.
    pub former_limit: Option<u32>,
}

/// The batch size for `request`, with how it came about.
pub fn choose(request: &BatchRequest<'_>) -> BatchChosen {
    let BatchRequest { memory, workload, batch, nominal, record, cuda_state_mib, former_limit } = *request;
    let mut layers = Layers(Vec::new());
    let share = match batch {
        Batch::Size(size) => {
            layers.push(GIVEN, size, "a batch size that is given is used as it is".into());
            return layers.chosen();
        }
        Batch::Share(share) => {
            let text = format!("{share} of the memory, and at most the nominal batch of {nominal}");
            layers.push(GIVEN, nominal.max(1), text);
            Some(share)
        }
        Batch::Auto => {
            let (size, text) = table_entry(memory, workload.imgsz);
            layers.push("table", size, text);
            None
        }
    };
    let need = MemoryNeed::of(memory, workload, record, cuda_state_mib);
    let whole = need.budget(memory.whole_mib(), memory, share);
    layers.fit(
        "model",
        need.fitting(whole),
        format!(
            "{} at {} px takes {} and {:.0} MiB an image {}, and the {} has room for {}",
            workload.model,
            workload.imgsz,
            gib(need.fixed_mib),
            need.per_image_mib,
            if need.measured { "as measured" } else { "by an estimate" },
            memory.description(),
            images(need.fitting(whole)),
        ),
    );
    let free = whole.min(need.budget(memory.free_mib(), memory, None));
    layers.fit("memory free now", need.fitting(free), free_description(memory, need.fitting(free)));
    limit_by_record(&mut layers, record, former_limit, &need, free);
    layers.chosen()
}

/// The table's entry for a device, and why it is that one.
fn table_entry(memory: DeviceMemory, imgsz: u32) -> (u32, String) {
    match memory {
        DeviceMemory::Gpu { total_mib, .. } => {
            let size = nominal_gib(total_mib);
            (table(size, imgsz), format!("{size:.1} GB GPU, imgsz {imgsz}"))
        }
        DeviceMemory::Cpu { .. } => (CPU_BATCH, "CPU slot".into()),
    }
}

fn free_description(memory: DeviceMemory, fitting: u32) -> String {
    let room = images(fitting);
    match memory {
        DeviceMemory::Cpu { available_mib, .. } => {
            format!("{} of main memory are free: room for {room}", gib(available_mib))
        }
        DeviceMemory::Gpu { reserved_mib, others_mib, .. } => {
            let held = |what: &str, mib: Option<u64>| {
                mib.filter(|mib| *mib > 0).map_or_else(String::new, |mib| format!(", {} {what}", gib(mib)))
            };
            let (others, driver) = (held("held by others", others_mib), held("by the driver", reserved_mib));
            format!("{} are free{others}{driver}: room for {room}", gib(memory.free_mib()))
        }
    }
}

/// Adds the last layer: validation, and sizes that failed.
fn limit_by_record(
    layers: &mut Layers,
    record: Option<&FitRecord>,
    former_limit: Option<u32>,
    need: &MemoryNeed,
    free_mib: u64,
) {
    let mut limit = u32::MAX;
    let mut words = Vec::new();
    match record.filter(|record| record.batch_size > 0) {
        Some(record) => {
            limit = need.fitting_with_validation(free_mib);
            let of = record.batch_size;
            words.push(format!("measured with {}, validation and some headroom included", images(of)));
        }
        None => words.push(format!("no run of this kind was measured on a {} yet", need.device)),
    }
    if let Some(failed) = record.and_then(|record| record.failed_batch_size) {
        limit = limit.min(failed.saturating_sub(1));
        words.push(format!("{} ran out of memory with all of it", images(failed)));
    }
    if let Some(former_limit) = former_limit {
        limit = limit.min(former_limit);
        words.push(format!("more than {} ran out of memory before", images(former_limit)));
    }
    layers.fit("fit record", limit, words.join("; "));
}

/// The layers so far, the table's first.
struct Layers(Vec<BatchLayer>);

impl Layers {
    fn push(&mut self, name: &str, batch_size: u32, reason: String) {
        self.0.push(BatchLayer { name: name.into(), batch_size, reason });
    }

    /// Adds a layer that keeps the size if so many images fit, and takes a step of the ladder below if they do not.
    fn fit(&mut self, name: &str, fitting: u32, reason: String) {
        let so_far = self.size();
        self.push(name, if fitting >= so_far { so_far } else { ladder_step_below(fitting) }, reason);
    }

    fn size(&self) -> u32 {
        self.0.last().map_or(1, |layer| layer.batch_size)
    }

    fn chosen(self) -> BatchChosen {
        BatchChosen { batch_size: self.size(), layers: self.0 }
    }
}

/// The table that users know: rows by the GPU's nominal size in GiB, columns by image size.
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

/// The largest step of the ladder that is at most `size`; 1 when even that is too much, because a run on
/// batch 1 may still fit, and says so plainly if it does not. Above the ladder steps are multiples of 16.
fn ladder_step_below(size: u32) -> u32 {
    if size > LADDER[0] {
        return size / 16 * 16;
    }
    LADDER.into_iter().find(|&step| step <= size).unwrap_or(1)
}

/// A size in MiB, in words for people.
fn gib(mib: u64) -> String {
    let gib = mib as f64 / 1024.0;
    format!("{gib:.1} GB")
}

fn images(count: u32) -> String {
    match count {
        0 => "no image".into(),
        1 => "1 image".into(),
        65.. => "more images than are wanted".into(),
        count => format!("{count} images"),
    }
}
