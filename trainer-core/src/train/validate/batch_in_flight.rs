//! A batch that is validated: the device is told everything at once, and the host goes on when the predictions are there.

use std::ops::Range;
use std::time::Instant;

use tch::Tensor;
use trainyard_data::Batch;
use trainyard_types::trainer::Phase;

use super::ValidationConfig;
use super::predictions::Predictions;
use crate::eval::{Detection, NmsConfig};
use crate::libtorch::{self, rethrow};
use crate::loss::{LEAST_SCORES, Loss, detection_loss};
use crate::model::Model;
use crate::train::batch_tensors::BatchTensors;
use crate::train::precision::forward;

/// What a model says of a batch.
#[derive(Debug)]
pub struct BatchResult {
    /// `[3]` on the device: the batch's loss components.
    pub components: Tensor,
    /// Detections of each image.
    pub detections: Vec<Vec<Detection>>,
    /// Seconds of the forward pass and the loss: those in which the host told the device what to do, and those in which it
    /// waited for the predictions.
    pub seconds: f64,
}

/// A batch that a device looks at.
#[derive(Debug)]
pub struct BatchInFlight {
    parts: Vec<Part>,
    nms: NmsConfig,
    seconds: f64,
}

/// Some of its images, which go through the model together.
#[derive(Debug)]
struct Part {
    loss: Loss,
    predictions: Predictions,
}

impl BatchInFlight {
    /// Has a batch predicted: as many images at once as `config.tracker` knows to fit, and where that is too many, fewer.
    /// The detections are the same; losses are, to rounding. Does not wait for a GPU, and what it leaves there is a few
    /// numbers.
    ///
    /// An exception of libtorch comes as a panic, also where not even one image fits.
    pub fn begin(model: &Model, batch: &Batch, config: &ValidationConfig<'_>) -> Self {
        let _no_grad = tch::no_grad_guard();
        let began = Instant::now();
        let (mut parts, mut from) = (Vec::new(), 0);
        while from < batch.n {
            let count = config.tracker.validation_images(batch.n - from);
            let part = libtorch::catch_on(model.device(), || {
                config.tracker.enter(Phase::Validation, count);
                predict(model, batch, from..from + count, config)
            });
            match part {
                Ok(part) => {
                    parts.push(part);
                    from += count;
                }
                Err(error)
                    if error.is_out_of_memory() && config.tracker.validate_fewer_than(count).is_some() =>
                {
                    libtorch::memory::release(model.device()).unwrap_or_else(|error| rethrow(&error));
                }
                Err(error) => rethrow(&error),
            }
        }
        Self { parts, nms: config.nms(), seconds: began.elapsed().as_secs_f64() }
    }

    /// What was found. Waits for the predictions, once for each part.
    ///
    /// An exception of libtorch comes as a panic.
    pub fn finish(self) -> BatchResult {
        let _no_grad = tch::no_grad_guard();
        let (mut seconds, mut detections, mut losses) = (self.seconds, Vec::new(), Vec::new());
        for Part { loss, predictions } in self.parts {
            let began = Instant::now();
            let arrived = predictions.receive().unwrap_or_else(|error| rethrow(&error));
            seconds += began.elapsed().as_secs_f64();
            detections.extend(arrived.detections(&self.nms));
            losses.push(loss);
        }
        BatchResult { components: components(&losses), detections, seconds }
    }
}

/// The loss components of a batch of these parts.
fn components(parts: &[Loss]) -> Tensor {
    if let [Loss { components, .. }] = parts {
        return components.shallow_clone();
    }
    // Divided by the soft scores of each part, they are multiplied by them again, and divided by all.
    let sums = parts.iter().map(|part| &part.components * part.scores.clamp_min(LEAST_SCORES));
    let scores = parts.iter().map(|part| &part.scores);
    sums.sum::<Tensor>() / scores.sum::<Tensor>().clamp_min(LEAST_SCORES)
}

/// Has some of a batch's images predicted.
fn predict(model: &Model, batch: &Batch, images: Range<usize>, config: &ValidationConfig<'_>) -> Part {
    let BatchTensors { images, targets } = config.uploader.upload_part(batch, images);
    let prediction = forward(model, &images, false, config.precision);
    drop(images);
    let loss = detection_loss(&prediction, model.head().bins(), &targets, config.gains);
    let predictions = Predictions::send(model.head(), &prediction).unwrap_or_else(|error| rethrow(&error));
    Part { loss, predictions }
}
