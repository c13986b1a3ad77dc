//! One batch through the model, and now and then an optimiser step. Knows nothing of files or data sets.

use tch::{Device, Kind, Tensor};

use crate::libtorch;
use crate::loss::assign::Targets;
use crate::loss::{Gains, Loss, detection_loss};
use crate::model::head::Prediction;
use crate::model::{Layout, Model};
use crate::optim::schedule::Accumulation;
use crate::optim::{Ema, Scaler, Schedule, Sgd};

/// All that changes while training.
#[derive(Debug)]
pub struct Trainer {
    /// What learns.
    pub model: Model,
    /// What is validated and saved.
    pub ema: Ema,
    /// Momentum, and the gradients that wait.
    pub sgd: Sgd,
    /// Present when training in 16 bits.
    pub scaler: Option<Scaler>,
    /// Batches since the last step.
    pub accumulation: Accumulation,
    /// Optimiser updates done, skipped ones included.
    pub updates: u64,
    /// `[3]` on the device: sums of the loss components since they were last reset.
    pub loss_sums: Tensor,
    schedule: Schedule,
    gains: Gains,
}

impl Trainer {
    /// A model that has not begun to learn. `amp`: train in 16 bits (on CUDA).
    pub fn new(model: Model, schedule: Schedule, gains: Gains, amp: bool) -> Self {
        let device = model.device();
        Self {
            ema: Ema::new(&model),
            sgd: Sgd::new(model.weights()),
            scaler: amp.then(|| Scaler::new(device)),
            accumulation: Accumulation::default(),
            updates: 0,
            loss_sums: Tensor::zeros([3], (Kind::Float, device)),
            model,
            schedule,
            gains,
        }
    }

    /// The run's rates.
    pub const fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Learns from a batch; `iteration` counts batches over the whole run, from 0.
    ///
    /// `images`: `[B, 3, H, W]` float in 0 to 1, on the model's device.
    pub fn batch(&mut self, images: &Tensor, targets: &Targets, iteration: u64) {
        let rates = self.schedule.at(iteration);
        let prediction = forward(&self.model, images, true, self.scaler.is_some());
        let Loss { total, components } =
            detection_loss(&prediction, self.model.head().bins(), targets, self.gains);
        drop(prediction);
        self.scaler.as_ref().map_or_else(|| total.shallow_clone(), |scaler| scaler.scale(&total)).backward();
        self.loss_sums += components;
        if self.accumulation.add(rates.accumulate) {
            let finite = self.scaler.as_mut().is_none_or(|scaler| scaler.unscale(&self.sgd));
            if finite {
                self.sgd.step(&rates, self.schedule.decay());
                self.ema.update(&self.model);
            } else {
                self.sgd.forget_gradients();
            }
            self.updates += 1;
        }
    }
}

/// [`Model::forward`], in 16 bits if `half` (which needs CUDA).
pub fn forward(model: &Model, images: &Tensor, train: bool, half: bool) -> Prediction {
    if !half {
        return model.forward(images, train);
    }
    // An exception must not leave autocast on: it is caught inside, and goes on outside.
    match tch::autocast(true, || libtorch::catch(|| model.forward(images, train))) {
        Ok(prediction) => prediction,
        Err(error) => libtorch::rethrow(&error),
    }
}

/// A batch of pixels as the model takes them.
///
/// `pixels`: `[n, 3, height, width]` bytes. Returns float in 0 to 1 on `device`, channels innermost.
pub fn to_input(pixels: &[u8], [n, height, width]: [usize; 3], device: Device) -> Tensor {
    let shape = [n, 3, height, width].map(|side| i64::try_from(side).unwrap_or(0));
    let bytes = Tensor::from_slice(pixels).view(shape).to_device(device);
    Layout::default().apply(&bytes).to_kind(Kind::Float) / 255.0
}
