//! How good a model is on a data set: losses, and the metrics after non-maximum suppression.

use std::sync::atomic::{AtomicBool, Ordering};

use tch::{Device, Kind, Tensor};

use super::step::{forward, to_input};
use crate::data::{Batch, LoadError, ValLoader};
use crate::eval::{Confusion, Detection, Evaluator, Metrics, NmsConfig, suppress};
use crate::libtorch::Precision;
use crate::loss::assign::{Object, Targets};
use crate::loss::{Gains, detection_loss, to_host};
use crate::model::Model;

/// How a validation is done.
#[derive(Debug, Clone, Copy)]
pub struct Validation {
    /// What the losses are multiplied by.
    pub gains: Gains,
    /// Of the layers.
    pub precision: Precision,
    /// The most objects that an image of the data set has; so many detections at least are kept.
    pub crowd: usize,
}

/// What a validation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Precision, recall, mAP.
    pub metrics: Metrics,
    /// Box, class and distribution loss, mean over the batches.
    pub losses: [f64; 3],
}

/// Objects of a loader's batch, as the assigner takes them.
pub fn targets(batch: &Batch, device: Device) -> Targets {
    let objects: Vec<Object> = batch
        .targets
        .iter()
        .map(|target| Object { image: target.image, class: target.class, cxcywh: target.cxcywh })
        .collect();
    let size = [batch.height, batch.width].map(|side| i64::try_from(side).unwrap_or(0));
    Targets::new(&objects, batch.n, size, device)
}

/// A loader's batch, as the model takes it.
pub fn input(batch: &Batch, device: Device) -> Tensor {
    to_input(&batch.images, [batch.n, batch.height, batch.width], device)
}

/// Detections of each image, from decoded predictions `[B, 4 + classes, A]`; see [`suppress`].
pub fn detections(decoded: &Tensor, config: &NmsConfig) -> Vec<Vec<Detection>> {
    let decoded = decoded.to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let shape: Vec<usize> = decoded.size().iter().map(|&side| usize::try_from(side).unwrap_or(0)).collect();
    let (rows, anchors) = (shape[1], shape[2]);
    if decoded.numel() == 0 {
        return vec![Vec::new(); shape[0]];
    }
    // SAFETY: `decoded` is contiguous, of 32-bit floats, on the host, and outlives the threads below.
    let values = unsafe { std::slice::from_raw_parts(decoded.data_ptr().cast::<f32>(), decoded.numel()) };
    let images: Vec<&[f32]> = values.chunks_exact((rows * anchors).max(1)).collect();
    // An untrained model has thousands of candidates an image, so images are shared among threads.
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = images.len().div_ceil(threads).max(1);
    let classes = rows.saturating_sub(4);
    std::thread::scope(|scope| {
        let parts: Vec<_> = images
            .chunks(share)
            .map(|part| {
                scope.spawn(move || {
                    crate::libtorch::anywhere();
                    part.iter().map(|image| suppress(image, classes, anchors, config)).collect::<Vec<_>>()
                })
            })
            .collect();
        let join = |part: std::thread::ScopedJoinHandle<'_, Vec<Vec<Detection>>>| match part.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        parts.into_iter().flat_map(join).collect()
    })
}

/// Validates `model` on everything that `loader` has. `None` if `stop` was raised meanwhile.
///
/// # Errors
/// When images cannot be read any more.
pub fn validate(
    model: &Model,
    loader: &ValLoader,
    how: &Validation,
    stop: &AtomicBool,
) -> Result<Option<Found>, LoadError> {
    Ok(examine(model, loader, how, stop)?.map(|details| details.found))
}

/// What a validation found, with what curves and the confusion matrix are drawn from.
#[derive(Debug, Clone)]
pub struct Details {
    /// In short.
    pub found: Found,
    /// Every detection, judged.
    pub evaluator: Evaluator,
    /// Which classes were taken for which.
    pub confusion: Confusion,
}

/// [`validate`], in detail.
///
/// # Errors
/// When images cannot be read any more.
pub fn examine(
    model: &Model,
    loader: &ValLoader,
    how: &Validation,
    stop: &AtomicBool,
) -> Result<Option<Details>, LoadError> {
    let _no_grad = tch::no_grad_guard();
    let classes = usize::try_from(model.plan().head.classes).unwrap_or(0);
    let config = NmsConfig::validation();
    let config = NmsConfig { max_det: config.max_det.max(how.crowd), ..config };
    let mut evaluator = Evaluator::new(classes);
    let mut confusion = Confusion::new(classes);
    let mut sums = Tensor::zeros([3], (Kind::Float, model.device()));
    let mut batches = 0;
    for batch in loader.pass() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = batch?;
        let prediction = forward(model, &input(&batch, model.device()), false, how.precision);
        let targets = targets(&batch, model.device());
        sums += detection_loss(&prediction, model.head().bins(), &targets, how.gains).components;
        batches += 1;
        let found = detections(&model.head().decode(&prediction), &config);
        for (image, detections) in found.iter().enumerate() {
            let truths = batch.truths(image);
            evaluator.add(detections, &truths);
            confusion.add(detections, &truths);
        }
    }
    let losses = to_host(&sums).map(|sum| sum / f64::from(batches.max(1)));
    let found = Found { metrics: evaluator.metrics(), losses };
    Ok(Some(Details { found, evaluator, confusion }))
}
