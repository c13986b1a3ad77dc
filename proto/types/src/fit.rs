//! What training was seen to need of a GPU's memory: a fit record for each kind of run on each kind of GPU.

use serde::{Deserialize, Serialize};

use crate::model::ModelScale;

/// What decides how much memory a run takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FitKey {
    /// The scale of the model.
    pub model: ModelScale,
    /// Pixels along an image's side.
    pub imgsz: u32,
    /// Whether images grow by up to half.
    pub multi_scale: bool,
    /// What layers compute in: `fp32`, `fp16` or `bf16`.
    pub precision: String,
    /// The GPU's model, `NVIDIA GeForce RTX 4090`, or `CPU`.
    pub device: String,
    /// The version of libtorch.
    pub libtorch: String,
}

/// What runs of one kind were seen to need. Memory is the device's: the GPU's own, or the host's on a CPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitRecord {
    /// The runs that the record is of.
    pub key: FitKey,
    /// What stays whatever the batch size: weights, optimiser, average and the libraries' state, in MiB.
    pub fixed_mib: u64,
    /// What each image of a batch adds at the peak of a step, the densest batch's labels included, in MiB.
    pub per_image_mib: f64,
    /// Peak of memory during validation, in MiB.
    pub validation_mib: u64,
    /// The batch size that was measured; 0 while the figures are an estimate, with what ran out of memory known.
    pub batch_size: u32,
    /// The smallest batch size that ran out of memory, with all of the GPU's memory to itself.
    pub failed_batch_size: Option<u32>,
}

impl FitRecord {
    /// The memory that a batch of `batch_size` images is expected to take at its peak, in MiB. Validation takes
    /// more with larger batches, too.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a sum of sizes, not negative and far below 2^52"
    )]
    pub fn peak_mib(&self, batch_size: u32) -> u64 {
        let images = (self.per_image_mib * f64::from(batch_size)).ceil().max(0.0) as u64;
        let above = self.validation_mib.saturating_sub(self.fixed_mib);
        let validation = above * u64::from(batch_size) / u64::from(self.batch_size.max(1));
        self.fixed_mib + images.max(validation)
    }
}

/// What a run takes of a GPU's memory, by an estimate, in MiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Weights, gradients, optimiser, average and the libraries' own state.
    pub fixed_mib: f64,
    /// Activations of each image of 640 pixels.
    pub per_image_mib: f64,
}

/// The estimate for a model whose layers compute in 16 bits, or in 32 if `single`. Not measured, and rounded up.
pub const fn estimate(model: ModelScale, single: bool) -> Estimate {
    let (fixed_mib, half_precision) = match model {
        ModelScale::N => (800.0, 130.0),
        ModelScale::S => (900.0, 230.0),
        ModelScale::M => (1200.0, 430.0),
        ModelScale::L => (1600.0, 660.0),
        ModelScale::X => (2000.0, 880.0),
    };
    // Activations in single precision take twice the room.
    let per_image_mib = if single { 2.0 * half_precision } else { half_precision };
    Estimate { fixed_mib, per_image_mib }
}

/// Usual sizes of GPUs, in GiB.
const GPUS: [u64; 12] = [4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 80, 141];
/// At least so much more than what was too little is needed.
const AT_LEAST: f64 = 1.1;
/// Share of a GPU that a run can have; the rest is the driver's, and small pieces.
const USABLE: f64 = 0.9;

/// A run that does not fit, even with one image at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// The scale of the model.
    pub model: ModelScale,
    /// Pixels along an image's side.
    pub imgsz: u32,
    /// Whether images grow by up to half.
    pub multi_scale: bool,
    /// Layers compute in 32 bits.
    pub single: bool,
    /// What it could have had, in MiB, if anybody tells.
    pub available_mib: Option<u64>,
}

impl Shortage {
    fn needed(&self, model: ModelScale, imgsz: u32) -> f64 {
        let Estimate { fixed_mib, per_image_mib } = estimate(model, self.single);
        let side = f64::from(if self.multi_scale { imgsz + imgsz / 2 } else { imgsz });
        fixed_mib + per_image_mib * side * side / (640.0 * 640.0)
    }

    /// What would fit instead, as the end of a sentence.
    pub fn advice(&self) -> String {
        let here = self.needed(self.model, self.imgsz);
        #[expect(clippy::cast_precision_loss, reason = "MiB of a GPU are far below 2^52")]
        let available = self.available_mib.map(|mib| mib as f64);
        // Estimates are too low where they say that it fits.
        let factor = available.map_or(1.0, |available| (available * AT_LEAST / here).max(1.0));
        let fits = |model, imgsz| match available {
            Some(available) => self.needed(model, imgsz) * factor <= available,
            None => self.needed(model, imgsz) <= here / 2.0,
        };
        let mut ways = Vec::new();
        let sides = (1..self.imgsz.div_ceil(32)).rev().map(|side| side * 32);
        if let Some(imgsz) = sides.filter(|&side| side >= 64).find(|&side| fits(self.model, side)) {
            ways.push(format!("`imgsz` {imgsz} instead of {}", self.imgsz));
        }
        let smaller = ModelScale::ALL.into_iter().rev().filter(|&model| model < self.model);
        if let Some(model) = smaller.into_iter().find(|&model| fits(model, self.imgsz)) {
            ways.push(format!("{model} instead of {}", self.model));
        }
        let gib = here * factor / 1024.0;
        #[expect(clippy::cast_precision_loss, reason = "at most some hundreds")]
        let gpu = GPUS.into_iter().find(|&gpu| gpu as f64 * USABLE >= gib);
        ways.extend(gpu.map(|gpu| format!("a GPU with {gpu} GB")));
        let ways = if ways.is_empty() {
            "a smaller `imgsz` and a smaller model".to_owned()
        } else {
            ways.join(", or ")
        };
        let had = available.map_or(String::new(), |mib| format!(", and {:.1} GiB are there", mib / 1024.0));
        format!("about {gib:.1} GiB are needed{had}; what would fit: {ways}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_what_fits_into_what_is_there() {
        let shortage = Shortage {
            model: ModelScale::X,
            imgsz: 1280,
            multi_scale: false,
            single: false,
            available_mib: Some(5000),
        };
        assert_eq!(
            shortage.advice(),
            "about 5.4 GiB are needed, and 4.9 GiB are there; what would fit: `imgsz` 1152 instead of 1280, \
             or yolov8l instead of yolov8x, or a GPU with 6 GB"
        );
        let text = Shortage { available_mib: None, single: true, ..shortage }.advice();
        assert!(text.starts_with("about 8.8 GiB are needed; what would fit: `imgsz` 736 "), "{text}");
        assert!(text.ends_with("yolov8s instead of yolov8x, or a GPU with 10 GB"), "{text}");
        let small = Shortage { model: ModelScale::N, imgsz: 32, available_mib: Some(100), ..shortage };
        let text = small.advice();
        assert!(text.ends_with("what would fit: a GPU with 4 GB"), "{text}");
    }
}
