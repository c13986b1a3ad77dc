//! How good a model is on a data set: losses, and the metrics after non-maximum suppression.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::{Device, Kind, Tensor};
use trainyard_data::{Batch, LoadError, ValLoader};
use trainyard_types::trainer::{Activity, Phase};

use super::batch_tensors::{images_of, size, targets_in};
use super::memory::PhaseTracker;
use super::precision::forward;
use crate::activity;
use crate::eval::{Confusion, Detection, Evaluator, Metrics, NmsConfig, suppress};
use crate::libtorch::{self, Precision, rethrow};
use crate::loss::{Gains, LEAST_SCORES, Loss, detection_loss, to_host};
use crate::model::Model;

/// How a validation is done.
#[derive(Debug, Clone, Copy)]
pub struct ValidationConfig<'a> {
    /// What the losses are multiplied by.
    pub gains: Gains,
    /// The precision of the layers.
    pub precision: Precision,
    /// The most objects that an image of the data set has; so many detections at least are kept.
    pub most_objects: usize,
    /// Knows how many images fit in memory at once, and learns where that is too many.
    pub tracker: &'a PhaseTracker,
    /// Called after each batch with the number of batches done, and of all batches.
    pub show: fn(usize, usize),
}

impl ValidationConfig<'_> {
    /// Suppression that keeps at least as many detections as an image may have objects.
    pub fn nms(&self) -> NmsConfig {
        let config = NmsConfig::validation();
        NmsConfig { max_det: config.max_det.max(self.most_objects), ..config }
    }
}

/// Where a validation's time went, in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct ValidationTime {
    /// Waiting for the loader's images.
    pub loader_wait: f64,
    /// The model and the loss, copies included.
    pub model: f64,
    /// Non-maximum suppression, and matching with the labels.
    pub postprocess: f64,
}

/// What a validation found.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidationResult {
    /// Precision, recall, mAP.
    pub metrics: Metrics,
    /// Box, class and distribution loss, mean over the batches.
    pub losses: [f64; 3],
}

/// What a model says of a batch.
#[derive(Debug)]
pub struct BatchResult {
    /// `[3]` on the device: the batch's loss components.
    pub components: Tensor,
    /// Detections of each image.
    pub detections: Vec<Vec<Detection>>,
    /// Seconds of the forward pass and the loss, until the predictions were on the host.
    pub seconds: f64,
}

/// Predicts a batch: as many images at once as `config.tracker` knows to fit, and where that is too many,
/// fewer. The detections are the same; losses are, to rounding. Waits for the device.
///
/// An exception of libtorch comes as a panic, also where not even one image fits.
pub fn validate_batch(model: &Model, batch: &Batch, config: &ValidationConfig<'_>) -> BatchResult {
    let _no_grad = tch::no_grad_guard();
    let nms = config.nms();
    let (mut found, mut seconds) = (Vec::new(), 0.0);
    let mut parts: Vec<(Tensor, Tensor)> = Vec::new();
    while found.len() < batch.n {
        let (from, count) = (found.len(), config.tracker.validation_images(batch.n - found.len()));
        let began = Instant::now();
        let part = libtorch::catch_on(model.device(), || {
            config.tracker.enter(Phase::Validation, count);
            predict(model, batch, from..from + count, config)
        });
        match part {
            Ok((loss, decoded)) => {
                seconds += began.elapsed().as_secs_f64();
                parts.push((loss.components, loss.scores));
                found.extend(detections(&decoded, &nms));
            }
            Err(error) if error.is_out_of_memory() && config.tracker.validate_fewer_than(count).is_some() => {
                libtorch::memory::release(model.device()).unwrap_or_else(|error| rethrow(&error));
            }
            Err(error) => rethrow(&error),
        }
    }
    let components = match &parts[..] {
        [(components, _)] => components.shallow_clone(),
        // Divided by the soft scores of each part, they are multiplied by them again, and divided by all.
        _ => {
            let sums = parts.iter().map(|(components, scores)| components * scores.clamp_min(LEAST_SCORES));
            let scores = parts.iter().map(|(_, scores)| scores);
            sums.sum::<Tensor>() / scores.sum::<Tensor>().clamp_min(LEAST_SCORES)
        }
    };
    BatchResult { components, detections: found, seconds }
}

/// The loss of some of a batch's images, and their decoded predictions on the host.
fn predict(
    model: &Model,
    batch: &Batch,
    images: Range<usize>,
    config: &ValidationConfig<'_>,
) -> (Loss, Tensor) {
    let input = images_of(batch, images.clone(), model.device(), config.precision.kind());
    let prediction = forward(model, &input, false, config.precision);
    drop(input);
    let targets = targets_in(batch, images, size(batch)).to(model.device());
    let loss = detection_loss(&prediction, model.head().bins(), &targets, config.gains);
    (loss, model.head().decode(&prediction).to_device(Device::Cpu))
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
                    crate::libtorch::unbind_thread();
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
    config: &ValidationConfig<'_>,
    stop: &AtomicBool,
) -> Result<Option<ValidationResult>, LoadError> {
    Ok(validate_in_detail(model, loader, config, stop)?.map(|details| details.result))
}

/// What a validation found, with what curves and the confusion matrix are drawn from.
#[derive(Debug, Clone)]
pub struct ValidationDetails {
    /// Metrics and losses.
    pub result: ValidationResult,
    /// Every detection, with whether it found an object.
    pub evaluator: Evaluator,
    /// Which classes were taken for which.
    pub confusion: Confusion,
    /// How long it took.
    pub time: ValidationTime,
}

/// [`validate`], in detail.
///
/// # Errors
/// When images cannot be read any more.
pub fn validate_in_detail(
    model: &Model,
    loader: &ValLoader,
    config: &ValidationConfig<'_>,
    stop: &AtomicBool,
) -> Result<Option<ValidationDetails>, LoadError> {
    let _no_grad = tch::no_grad_guard();
    let classes = usize::try_from(model.plan().head.classes).unwrap_or(0);
    let mut evaluator = Evaluator::new(classes);
    let mut confusion = Confusion::new(classes);
    let mut sums = Tensor::zeros([3], (Kind::Float, model.device()));
    let (mut batches, mut time) = (0_usize, ValidationTime::default());
    let mut pass = loader.pass();
    let began = Instant::now();
    activity::at(Activity::Validate);
    for batch in pass.by_ref() {
        activity::tick();
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = batch?;
        let found = validate_batch(model, &batch, config);
        sums += found.components;
        batches += 1;
        time.model += found.seconds;
        for (image, detections) in found.detections.iter().enumerate() {
            let truths = batch.truths(image);
            evaluator.add(detections, &truths);
            confusion.add(detections, &truths);
        }
        (config.show)(batches, loader.batches());
    }
    time.loader_wait = pass.waited().as_secs_f64();
    time.postprocess = (began.elapsed().as_secs_f64() - time.loader_wait - time.model).max(0.0);
    let losses = to_host(&sums).map(|sum| sum / batches.max(1) as f64);
    let result = ValidationResult { metrics: evaluator.metrics(), losses };
    Ok(Some(ValidationDetails { result, evaluator, confusion, time }))
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;
    use trainyard_data::Target;

    fn batch() -> Batch {
        let pixels: Vec<u8> =
            (0..5 * 3 * 64 * 64_u32).map(|at| u8::try_from(at * 7 % 253).unwrap()).collect();
        let object = |image, place| Target { image, class: 1, cxcywh: [place, 0.4, 0.4, 0.5] };
        Batch {
            number: 0,
            images: pixels.into(),
            n: 5,
            height: 64,
            width: 64,
            targets: vec![object(0, 0.5), object(1, 0.4), object(1, 0.6), object(4, 0.3)],
            indices: (0..5).collect(),
            placements: Vec::new(),
        }
    }

    #[test]
    fn a_batch_that_does_not_fit_is_looked_at_in_parts_and_the_same_is_found() {
        tch::set_num_threads(1);
        tch::manual_seed(0);
        let model = Model::new(ModelScale::N, 2, 0, Device::Cpu);
        let see = |faults| {
            let tracker = PhaseTracker::with_faults(faults);
            let (gains, precision, show) = (Gains::default(), Precision::Fp32, |_, _| {});
            let config = ValidationConfig { gains, precision, most_objects: 2, tracker: &tracker, show };
            let found = validate_batch(&model, &batch(), &config);
            (to_host(&found.components), found.detections, tracker.validation_images(100))
        };
        let (losses, whole, at_once) = see("");
        assert_eq!(at_once, 100);
        assert!(whole.len() == 5 && whole.iter().any(|found| !found.is_empty()));
        for (faults, expected) in [("4@validation", 3), ("2@validation", 1), ("3@validation:1!", 4)] {
            let (parts_losses, parts, at_once) = see(faults);
            assert_eq!(at_once, expected);
            let shorten = |all: &[Vec<Detection>]| all.iter().map(Vec::len).collect::<Vec<_>>();
            assert_eq!(shorten(&parts), shorten(&whole), "{faults}");
            for (part, whole) in parts_losses.iter().zip(losses) {
                assert!((part / whole - 1.0).abs() < 1e-5, "{faults}: {part}, not {whole}");
            }
        }
        assert!(libtorch::catch(|| see("1@validation")).unwrap_err().is_out_of_memory());
    }
}
