//! Batches through the model, and the optimiser step that some of them make. Knows nothing of files or data sets.

use tch::{Device, Kind, Tensor};
use trainyard_types::trainer::Phase;

use crate::libtorch::Precision;
use crate::loss::assign::Targets;
use crate::loss::{Gains, LEAST_SCORES, Loss, detection_loss};
use crate::model::head::Prediction;
use crate::model::{Layout, Model};
use crate::optim::{Ema, Optimizer, Rule, Scaler, Schedule};

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
    /// What it remembers, and the gradients that wait.
    pub optimizer: Optimizer,
    /// Present when training in 16-bit floats of little range.
    pub scaler: Option<Scaler>,
    /// What has been learnt since the last step.
    pub waiting: Waiting,
    /// Optimiser updates done, skipped ones included.
    pub updates: u64,
    /// Float scalar on the device: updates that were skipped since it was last reset, because gradients
    /// were not finite.
    pub skipped: Tensor,
    /// `[3]` on the device: loss components times images, summed up since they were last reset.
    pub loss_sums: Tensor,
    /// `[3]` on the device: the newest batch's loss components.
    pub losses: Tensor,
    schedule: Schedule,
    gains: Gains,
    precision: Precision,
}

impl Trainer {
    /// A model that has not begun to learn. `precision`: of the layers while they learn.
    pub fn new(model: Model, rule: Rule, schedule: Schedule, gains: Gains, precision: Precision) -> Self {
        let device = model.device();
        let nothing = || Tensor::zeros([0; 0], (Kind::Float, device));
        Self {
            ema: Ema::new(&model),
            optimizer: Optimizer::new(model.weights(), rule),
            scaler: (precision == Precision::Half).then(|| Scaler::new(device)),
            waiting: Waiting { images: 0, scores: nothing() },
            updates: 0,
            skipped: nothing(),
            loss_sums: Tensor::zeros([3], (Kind::Float, device)),
            losses: Tensor::zeros([3], (Kind::Float, device)),
            model,
            schedule,
            gains,
            precision,
        }
    }

    /// What layers learn in.
    pub const fn precision(&self) -> Precision {
        self.precision
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
        self.learn_watched(images, targets, &mut |_| {});
    }

    /// [`Trainer::learn`], which tells before it begins a phase: forward, loss, backward.
    pub fn learn_watched(&mut self, images: &Tensor, targets: &Targets, begin: &mut impl FnMut(Phase)) {
        begin(Phase::Forward);
        let prediction = forward(&self.model, images, true, self.precision);
        self.learn_from_watched(prediction, targets, begin);
    }

    /// [`Trainer::learn`], from what the model says about a batch.
    pub fn learn_from(&mut self, prediction: Prediction, targets: &Targets) {
        self.learn_from_watched(prediction, targets, &mut |_| {});
    }

    fn learn_from_watched(
        &mut self,
        prediction: Prediction,
        targets: &Targets,
        begin: &mut impl FnMut(Phase),
    ) {
        begin(Phase::Loss);
        let images = prediction.scores.size()[0];
        let Loss { numerator, scores, components, .. } =
            detection_loss(&prediction, self.model.head().bins(), targets, self.gains);
        drop(prediction);
        let scaled = self.scaler.as_ref().map(|scaler| scaler.scale(&numerator));
        begin(Phase::Backward);
        scaled.unwrap_or(numerator).backward();
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most some thousand images")]
        let weighted = &components * images as f64;
        self.loss_sums += weighted;
        self.losses = components;
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
    ///
    /// Nothing waits for the device: where gradients are not finite it skips the step by itself. The average
    /// moves then too, as the reference's does, towards a model that did not.
    pub fn step(&mut self, iteration: u64) {
        let rates = self.schedule.at(iteration);
        let factor = match &self.scaler {
            Some(scaler) => self.factor() * scaler.inverse(),
            None => self.factor(),
        };
        let skipped = self.optimizer.step(&factor, &rates, self.schedule.decay());
        if let Some(scaler) = &mut self.scaler {
            scaler.update(&skipped);
        }
        self.skipped += skipped;
        self.ema.update(&self.model);
        self.updates += 1;
        self.waiting.images = 0;
        let _ = self.waiting.scores.zero_();
    }

    /// The work and the memory of a step, which moves nothing. Then all that was learnt since the last step is
    /// forgotten, losses included.
    pub fn rehearse(&mut self) {
        self.optimizer.rehearse(&self.factor(), &self.schedule.at(0), self.schedule.decay());
        self.forget();
        let _ = self.loss_sums.zero_();
    }

    /// Forgets what was learnt since the last step.
    pub fn forget(&mut self) {
        self.optimizer.forget_gradients();
        self.waiting.images = 0;
        let _ = self.waiting.scores.zero_();
    }
}

/// [`Model::forward`], its layers in `precision`.
pub fn forward(model: &Model, images: &Tensor, train: bool, precision: Precision) -> Prediction {
    precision.run(model.device(), || model.forward(images, train))
}

/// A batch of pixels as the model takes them.
///
/// `pixels`: `[n, 3, height, width]` bytes. Returns float in 0 to 1 on `device`, channels innermost.
pub fn to_input(pixels: &[u8], [n, height, width]: [usize; 3], device: Device) -> Tensor {
    let shape = [n, 3, height, width].map(|side| i64::try_from(side).unwrap_or(0));
    normalise(&Tensor::from_slice(pixels).view(shape).to_device(device))
}

/// Bytes `[n, 3, height, width]` as float in 0 to 1, channels innermost.
pub fn normalise(bytes: &Tensor) -> Tensor {
    Layout::default().apply(bytes).to_kind(Kind::Float) / 255.0
}
