//! Batches through the model, and the optimiser step that some of them make. Knows nothing of files or data sets.

use tch::{Device, Kind, Tensor};

use crate::libtorch;
use crate::loss::assign::Targets;
use crate::loss::{Gains, LEAST_SCORES, Loss, detection_loss};
use crate::model::head::Prediction;
use crate::model::{Layout, Model};
use crate::optim::{Ema, Scaler, Schedule, Sgd};

/// What the gradients that wait for a step are of.
///
/// They are of the losses' numerators: the loss of a step is divided by the soft scores of *all* its
/// images, once, so that it does not matter which batches they went through the model in.
#[derive(Debug)]
pub struct Waiting {
    /// How many images.
    pub images: u64,
    /// Scalar on the device: the sum of the soft scores that the assigner gave in them.
    pub scores: Tensor,
}

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
    /// What has been learnt since the last step.
    pub waiting: Waiting,
    /// Optimiser updates done, skipped ones included.
    pub updates: u64,
    /// `[3]` on the device: loss components times images, summed up since they were last reset.
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
            waiting: Waiting { images: 0, scores: Tensor::zeros([0; 0], (Kind::Float, device)) },
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

    /// Makes the run's rates those of so many epochs.
    pub const fn set_epochs(&mut self, epochs: u32) {
        self.schedule.epochs = epochs;
    }

    /// Takes a batch's gradients, for the next [`Trainer::step`].
    ///
    /// `images`: `[B, 3, H, W]` float in 0 to 1, on the model's device.
    pub fn learn(&mut self, images: &Tensor, targets: &Targets) {
        let prediction = forward(&self.model, images, true, self.scaler.is_some());
        self.learn_from(prediction, targets);
    }

    /// [`Trainer::learn`], from what the model says about a batch.
    pub fn learn_from(&mut self, prediction: Prediction, targets: &Targets) {
        let images = prediction.scores.size()[0];
        let Loss { numerator, scores, components, .. } =
            detection_loss(&prediction, self.model.head().bins(), targets, self.gains);
        drop(prediction);
        let scaled = self.scaler.as_ref().map(|scaler| scaler.scale(&numerator));
        scaled.unwrap_or(numerator).backward();
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most some thousand images")]
        let weighted = components * images as f64;
        self.loss_sums += weighted;
        self.waiting.scores += scores;
        self.waiting.images += u64::try_from(images).unwrap_or(0);
    }

    /// What the gradients that wait are to be multiplied by: images, as the reference does, over the soft
    /// scores of all of them.
    ///
    /// The reference adds up, over the batches of a step, images of the batch over soft scores of the
    /// batch. That is the same for batches that have equally much in them, and so it is as long as this on
    /// average; learning rates mean the same.
    pub fn factor(&self) -> Tensor {
        #[expect(clippy::cast_precision_loss, reason = "a step has at most some thousand images")]
        let images = self.waiting.images as f64;
        images / self.waiting.scores.clamp_min(LEAST_SCORES)
    }

    /// One optimiser step along all that was learnt since the last one, with the rates of `iteration`.
    pub fn step(&mut self, iteration: u64) {
        let rates = self.schedule.at(iteration);
        let finite = self.scaler.as_mut().is_none_or(|scaler| scaler.unscale(&self.sgd));
        if finite {
            self.sgd.step_scaled(&self.factor(), &rates, self.schedule.decay());
            self.ema.update(&self.model);
        } else {
            self.sgd.forget_gradients();
        }
        self.updates += 1;
        self.waiting.images = 0;
        let _ = self.waiting.scores.zero_();
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
