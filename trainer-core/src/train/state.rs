//! All that an optimiser step changes: weights, gradients, optimiser, average. Knows nothing of files or data sets.

use tch::{Kind, Tensor};
use trainyard_types::trainer::Phase;

use super::bn_state::BnState;
use super::precision::forward;
use crate::libtorch::Precision;
use crate::loss::assign::Targets;
use crate::loss::{Gains, LEAST_SCORES, Loss, detection_loss};
use crate::model::Model;
use crate::model::head::Prediction;
use crate::optim::{Ema, Optimizer, Rule, Scaler, Schedule};

/// What the accumulated gradients are of.
///
/// They are of the losses' numerators: the loss of a step is divided by the soft scores of *all* its
/// images, once, so that it does not matter which batches they went through the model in.
#[derive(Debug)]
pub struct Accumulated {
    /// How many images.
    pub images: u64,
    /// Scalar on the device: the sum of the soft scores that the assigner gave in them.
    pub scores: Tensor,
}

/// A model in training.
#[derive(Debug)]
pub struct TrainState {
    /// The model whose weights move.
    pub model: Model,
    /// Its moving average, which is validated and saved.
    pub ema: Ema,
    /// The optimiser's state, and the accumulated gradients.
    pub optimizer: Optimizer,
    /// Present when training in 16-bit floats of little range.
    pub scaler: Option<Scaler>,
    /// The images of the accumulated gradients.
    pub accumulated: Accumulated,
    /// Optimiser updates done, skipped ones included.
    pub updates: u64,
    /// Float scalar on the device: updates that were skipped since it was last reset, because gradients
    /// were not finite.
    pub skipped: Tensor,
    /// `[3]` on the device: loss components times images, summed up since they were last reset.
    pub loss_sums: Tensor,
    /// `[3]` on the device: the newest batch's loss components.
    pub losses: Tensor,
    /// Bool scalar on the device: whether the newest batch's loss is a number.
    pub finite: Tensor,
    schedule: Schedule,
    gains: Gains,
    precision: Precision,
}

impl TrainState {
    /// Before the first step of `model`. `precision`: of the layers in training.
    pub fn new(model: Model, rule: Rule, schedule: Schedule, gains: Gains, precision: Precision) -> Self {
        let device = model.device();
        let nothing = || Tensor::zeros([0; 0], (Kind::Float, device));
        Self {
            ema: Ema::new(&model),
            optimizer: Optimizer::new(model.weights(), rule),
            scaler: (precision == Precision::Fp16).then(|| Scaler::new(device)),
            accumulated: Accumulated { images: 0, scores: nothing() },
            updates: 0,
            skipped: nothing(),
            loss_sums: Tensor::zeros([3], (Kind::Float, device)),
            losses: Tensor::zeros([3], (Kind::Float, device)),
            finite: Tensor::ones([0; 0], (Kind::Bool, device)),
            model,
            schedule,
            gains,
            precision,
        }
    }

    /// The precision that layers are trained in.
    pub const fn precision(&self) -> Precision {
        self.precision
    }

    /// Whether a batch whose loss is not a number is left out: its step is skipped, the statistics of batch normalisation
    /// stay as they were, and it counts with the losses of the batch before. In 16-bit floats of little range a value may
    /// be too large for once.
    pub const fn forgives(&self) -> bool {
        self.scaler.is_some()
    }

    /// What losses are multiplied by before their backward pass. Waits for the device, if that is not 1 for good.
    pub fn loss_scale(&self) -> f64 {
        self.scaler.as_ref().map_or(1.0, |scaler| scaler.state().0)
    }

    /// The run's learning rates.
    pub const fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Makes the run's learning rates those of so many epochs.
    pub const fn set_epochs(&mut self, epochs: u32) {
        self.schedule.epochs = epochs;
    }

    /// Adds a batch's gradients to the accumulated ones, for the next [`TrainState::step`].
    ///
    /// `images`: `[B, 3, H, W]` float in 0 to 1, on the model's device.
    pub fn forward_backward(&mut self, images: &Tensor, targets: &Targets) {
        self.forward_backward_timed(images, targets, &mut |_| {});
    }

    /// [`TrainState::forward_backward`], which calls `begin` before each phase: forward, loss, backward.
    pub fn forward_backward_timed(
        &mut self,
        images: &Tensor,
        targets: &Targets,
        begin: &mut impl FnMut(Phase),
    ) {
        begin(Phase::Forward);
        let before = self.forgives().then(|| BnState::save(&self.model));
        let prediction = forward(&self.model, images, true, self.precision);
        self.loss_backward_timed(prediction, targets, begin);
        if let Some(before) = before {
            before.restore_unless(&self.model, &self.finite);
        }
    }

    /// [`TrainState::forward_backward`], from a prediction that is there already.
    pub fn loss_backward(&mut self, prediction: Prediction, targets: &Targets) {
        self.loss_backward_timed(prediction, targets, &mut |_| {});
    }

    fn loss_backward_timed(
        &mut self,
        prediction: Prediction,
        targets: &Targets,
        begin: &mut impl FnMut(Phase),
    ) {
        begin(Phase::Loss);
        let images = prediction.scores.size()[0];
        let Loss { numerator, mut scores, mut components, .. } =
            detection_loss(&prediction, self.model.head().bins(), targets, self.gains);
        drop(prediction);
        let scaled = self.scaler.as_ref().map(|scaler| scaler.scaled(&numerator));
        begin(Phase::Backward);
        scaled.unwrap_or(numerator).backward();
        self.finite = components.isfinite().all();
        if self.forgives() {
            components = components.where_self(&self.finite, &self.losses);
            scores = scores.where_self(&self.finite, &scores.zeros_like());
        }
        self.loss_sums += &components * images as f64;
        self.losses = components;
        self.accumulated.scores += scores;
        self.accumulated.images += u64::try_from(images).unwrap_or(0);
    }

    /// What the accumulated gradients are to be multiplied by, a scalar on the device: images, as the
    /// reference does, over the soft scores of all of them.
    ///
    /// The reference adds up, over the batches of a step, images of the batch over soft scores of the
    /// batch. That is the same for batches that have equally much in them, and so it is as long as this on
    /// average; learning rates mean the same.
    pub fn gradient_factor(&self) -> Tensor {
        self.accumulated.images as f64 / self.accumulated.scores.clamp_min(LEAST_SCORES)
    }

    /// One optimiser step along the accumulated gradients, with the rates at `unit` (see [`Schedule::at`]),
    /// and the average's step after it.
    ///
    /// Nothing waits for the device: where gradients are not finite it skips the step by itself. The average
    /// moves then too, as the reference's does, towards a model that did not.
    pub fn step(&mut self, unit: u64) {
        let rates = self.schedule.at(unit);
        let factor = match &self.scaler {
            Some(scaler) => self.gradient_factor() * scaler.inverse(),
            None => self.gradient_factor(),
        };
        let skipped = self.optimizer.step(&factor, &rates, self.schedule.decay());
        if let Some(scaler) = &mut self.scaler {
            scaler.update(&skipped);
        }
        self.skipped += skipped;
        self.ema.update(&self.model);
        self.updates += 1;
        self.accumulated.images = 0;
        let _ = self.accumulated.scores.zero_();
    }

    /// The work and the memory of a step in which nothing moves. Drops the accumulated gradients and losses.
    pub fn dry_run(&mut self) {
        self.optimizer.dry_run(&self.gradient_factor(), &self.schedule.at(0), self.schedule.decay());
        self.zero_grad();
        let _ = self.loss_sums.zero_();
    }

    /// Drops the accumulated gradients.
    pub fn zero_grad(&mut self) {
        self.optimizer.zero_grad();
        self.accumulated.images = 0;
        let _ = self.accumulated.scores.zero_();
    }
}
