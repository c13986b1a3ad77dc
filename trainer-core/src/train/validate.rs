//! How good a model is on a data set: losses, and the metrics after non-maximum suppression.
//!
//! A GPU is told of the next batch before the host suppresses the boxes of the one before, so that neither waits for the
//! other.

mod batch_in_flight;
mod predictions;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::{Kind, Tensor};
use trainyard_data::{Batch, LoadError, Object, ValLoader};
use trainyard_types::trainer::Activity;

pub use self::batch_in_flight::{BatchInFlight, BatchResult};
pub use self::predictions::detections;
use super::memory::PhaseTracker;
use super::upload::Uploader;
use crate::activity;
use crate::eval::{Confusion, Evaluator, Metrics, NmsConfig};
use crate::libtorch::Precision;
use crate::loss::{Gains, to_host};
use crate::model::Model;

/// How a validation is done.
#[derive(Debug, Clone, Copy)]
pub struct ValidationConfig<'a> {
    /// What the losses are multiplied by.
    pub gains: Gains,
    /// The precision of the layers.
    pub precision: Precision,
    /// Brings batches to the device, in that precision.
    pub uploader: &'a Uploader,
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
    /// The model and the loss, copies included: on a GPU as far as the host has waited for them.
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

/// Does what takes the most memory in a validation of batches like this one.
pub fn rehearse(model: &Model, batch: &Batch, config: &ValidationConfig<'_>) {
    let batches: Vec<_> = (0..in_flight(model)).map(|_| BatchInFlight::begin(model, batch, config)).collect();
    batches.into_iter().for_each(|batch| drop(batch.finish()));
}

/// How many batches a device is told of before the host needs the predictions of the first. A GPU computes the next one
/// while the host suppresses boxes; a CPU would only have to remember more.
fn in_flight(model: &Model) -> usize {
    if model.device().is_cuda() { 2 } else { 1 }
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
    let mut tally = Tally::new(model);
    let mut begun = VecDeque::new();
    let mut pass = loader.pass();
    let began = Instant::now();
    activity::at(Activity::Validate);
    for batch in pass.by_ref() {
        activity::tick();
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = batch?;
        let truths = (0..batch.n).map(|image| batch.truths(image)).collect();
        begun.push_back((BatchInFlight::begin(model, &batch, config), truths));
        // Its pixels are on their way to the device, and the loader may use their memory again.
        drop(batch);
        if begun.len() == in_flight(model) {
            tally.finish(begun.pop_front(), loader, config);
        }
    }
    while !begun.is_empty() {
        tally.finish(begun.pop_front(), loader, config);
    }
    let loader_wait = pass.waited().as_secs_f64();
    let postprocess = (began.elapsed().as_secs_f64() - loader_wait - tally.model_seconds).max(0.0);
    let time = ValidationTime { loader_wait, model: tally.model_seconds, postprocess };
    Ok(Some(tally.details(time)))
}

/// What the batches of a validation add up to.
struct Tally {
    evaluator: Evaluator,
    confusion: Confusion,
    /// `[3]` on the device: the batches' loss components.
    losses: Tensor,
    batches: usize,
    /// Seconds in which batches were begun or waited for.
    model_seconds: f64,
}

impl Tally {
    fn new(model: &Model) -> Self {
        let classes = usize::try_from(model.plan().head.classes).unwrap_or(0);
        Self {
            evaluator: Evaluator::new(classes),
            confusion: Confusion::new(classes),
            losses: Tensor::zeros([3], (Kind::Float, model.device())),
            batches: 0,
            model_seconds: 0.0,
        }
    }

    /// Adds a batch with the objects of each of its images. Waits for its predictions.
    fn finish(
        &mut self,
        begun: Option<(BatchInFlight, Vec<Vec<Object>>)>,
        loader: &ValLoader,
        config: &ValidationConfig<'_>,
    ) {
        let Some((batch, truths)) = begun else { return };
        let BatchResult { components, detections, seconds } = batch.finish();
        self.losses += components;
        self.batches += 1;
        self.model_seconds += seconds;
        for (detections, truths) in detections.iter().zip(&truths) {
            self.evaluator.add(detections, truths);
            self.confusion.add(detections, truths);
        }
        (config.show)(self.batches, loader.batches());
    }

    fn details(self, time: ValidationTime) -> ValidationDetails {
        let losses = to_host(&self.losses).map(|sum| sum / self.batches.max(1) as f64);
        let result = ValidationResult { metrics: self.evaluator.metrics(), losses };
        ValidationDetails { result, evaluator: self.evaluator, confusion: self.confusion, time }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use trainyard_data::Target;
    use trainyard_types::ModelScale;

    use super::*;
    use crate::eval::Detection;
    use crate::libtorch;

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
            let uploader = &Uploader::new(Device::Cpu, precision);
            let config =
                ValidationConfig { gains, precision, uploader, most_objects: 2, tracker: &tracker, show };
            let found = BatchInFlight::begin(&model, &batch(), &config).finish();
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
