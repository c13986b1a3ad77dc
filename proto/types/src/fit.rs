//! What training was seen to need of a card's memory: a fit record for each kind of run on each kind of card.

use serde::{Deserialize, Serialize};

use crate::model::ModelScale;

/// What decides how much memory a run takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FitKey {
    /// The model's size.
    pub model: ModelScale,
    /// Pixels along an image's side.
    pub imgsz: u32,
    /// Images grow by up to half.
    pub multi_scale: bool,
    /// What layers compute in: `fp32`, `fp16` or `bf16`.
    pub precision: String,
    /// The card's model, `NVIDIA GeForce RTX 4090`, or `CPU`.
    pub device: String,
    /// libtorch's version.
    pub libtorch: String,
}

/// What runs of one kind were seen to need. Memory is the device's: the card's own, or the host's on a CPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitRecord {
    /// Of which runs.
    pub key: FitKey,
    /// What stays whatever the batch size: weights, optimiser, average and the libraries' state, in MiB.
    pub fixed_mib: u64,
    /// What each image of a batch adds at the peak of a step, the densest batch's labels included, in MiB.
    pub per_image_mib: f64,
    /// Peak of validation, in MiB.
    pub validation_mib: u64,
    /// The batch size that was measured; 0 while the figures are an estimate, with what ran out of memory known.
    pub batch_size: u32,
    /// The smallest batch size that ran out of memory, with all of the card's memory to itself.
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
