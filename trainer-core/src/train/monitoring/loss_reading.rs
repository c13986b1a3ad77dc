//! What the device knows of an epoch's losses, brought to the host in one piece.

use tch::{Kind, Tensor};

use super::divergence::{Divergence, DivergenceDetector};
use crate::libtorch::TorchError;
use crate::libtorch::copies::ToHost;
use crate::optim::Scaler;
use crate::train::state::TrainState;

/// Losses on their way to the host.
#[derive(Debug)]
pub struct LossReading {
    /// Images of the epoch that the losses are of.
    images: u64,
    /// `[6]` or `[7]`: sums of box, class and distribution loss, [`DivergenceDetector::counts`], and the loss scale if
    /// there is one.
    sent: ToHost,
}

/// Losses as they were when a reading began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Losses {
    /// Images of the epoch.
    pub images: u64,
    /// Box, class and distribution loss times images, summed up over the epoch's batches.
    pub sums: [f64; 3],
    /// What is wrong with them.
    pub divergence: Divergence,
    /// What they are multiplied by before their backward pass.
    pub scale: f64,
}

impl LossReading {
    /// Begins to bring the losses of the epoch's `images` so far. A GPU is not waited for.
    ///
    /// # Errors
    /// When memory for them runs out.
    pub fn begin(state: &TrainState, detector: &DivergenceDetector, images: u64) -> Result<Self, TorchError> {
        let counts = detector.counts();
        let scale = state.scaler.as_ref().map(Scaler::scale);
        let parts = [&state.loss_sums, &counts].into_iter().chain(scale);
        let parts: Vec<Tensor> = parts.map(|part| part.to_kind(Kind::Double)).collect();
        Ok(Self { images, sent: ToHost::begin(vec![Tensor::cat(&parts, 0)])? })
    }

    /// The losses. Waits for the device, if it has not got so far.
    ///
    /// # Errors
    /// When the device has failed meanwhile.
    pub fn finish(self) -> Result<Losses, TorchError> {
        let sent = self.sent.finish()?.remove(0);
        let number = |at: i64| sent.double_value(&[at]);
        Ok(Losses {
            images: self.images,
            sums: [0, 1, 2].map(number),
            divergence: DivergenceDetector::found([3, 4, 5].map(number)),
            scale: if sent.size() == [7] { number(6) } else { 1.0 },
        })
    }
}

impl Losses {
    /// Means over the epoch's images so far.
    pub fn means(&self) -> [f64; 3] {
        self.sums.map(|sum| sum / self.images.max(1) as f64)
    }
}
