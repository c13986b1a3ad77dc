//! How good a model is on a data set: losses, and the metrics after non-maximum suppression.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::{Device, Kind, Tensor};
use trainyard_data::{Batch, LoadError, ValLoader};
use trainyard_types::trainer::{Activity, Phase};

use super::step::{forward, to_input};
use super::watch::Watch;
use crate::eval::{Confusion, Detection, Evaluator, Metrics, NmsConfig, suppress};
use crate::libtorch::{self, Precision, rethrow};
use crate::loss::assign::{Object, Targets};
use crate::loss::{Gains, LEAST_SCORES, Loss, detection_loss, to_host};
use crate::model::Model;
use crate::pulse;

/// How a validation is done.
#[derive(Debug, Clone, Copy)]
pub struct Validation<'a> {
    /// What the losses are multiplied by.
    pub gains: Gains,
    /// Of the layers.
    pub precision: Precision,
    /// The most objects that an image of the data set has; so many detections at least are kept.
    pub crowd: usize,
    /// Knows how many images may be looked at at once, and learns where that is too many.
    pub watch: &'a Watch,
    /// Is told after each batch how many of how many are done.
    pub show: fn(usize, usize),
}

/// Where a validation's time went, in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Waiting for images.
    pub waited: f64,
    /// In the model and the loss, copies included.
    pub model: f64,
    /// Suppressing and matching.
    pub after: f64,
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
    targets_of(batch, 0..batch.n, device)
}

/// Those of some of its images.
fn targets_of(batch: &Batch, images: Range<usize>, device: Device) -> Targets {
    let first = u32::try_from(images.start).unwrap_or(u32::MAX);
    let objects: Vec<Object> = batch
        .targets
        .iter()
        .filter(|target| images.contains(&(target.image as usize)))
        .map(|target| Object { image: target.image - first, class: target.class, cxcywh: target.cxcywh })
        .collect();
    let size = [batch.height, batch.width].map(|side| i64::try_from(side).unwrap_or(0));
    Targets::new(&objects, images.len(), size, device)
}

/// A loader's batch, as the model takes it.
pub fn input(batch: &Batch, device: Device) -> Tensor {
    input_of(batch, 0..batch.n, device)
}

/// Some of its images.
fn input_of(batch: &Batch, images: Range<usize>, device: Device) -> Tensor {
    let bytes = 3 * batch.height * batch.width;
    let pixels = &batch.images[images.start * bytes..images.end * bytes];
    to_input(pixels, [images.len(), batch.height, batch.width], device)
}

/// What a model says of a batch.
#[derive(Debug)]
pub struct Look {
    /// `[3]` on the device: the batch's loss components.
    pub components: Tensor,
    /// Detections of each image.
    pub detections: Vec<Vec<Detection>>,
    /// Seconds from the first look until the predictions were on the host.
    pub seconds: f64,
}

/// Looks at a batch: at as many images at once as `how.watch` knows to fit, and where that is too many, at
/// fewer. What is found is the same; losses are, to rounding. Waits for the device.
///
/// An exception of libtorch comes as a panic, also where not even one image fits.
pub fn look(model: &Model, batch: &Batch, how: &Validation<'_>, config: &NmsConfig) -> Look {
    let _no_grad = tch::no_grad_guard();
    let (mut found, mut seconds) = (Vec::new(), 0.0);
    let mut parts: Vec<(Tensor, Tensor)> = Vec::new();
    while found.len() < batch.n {
        let (from, count) = (found.len(), how.watch.at_once(batch.n - found.len()));
        let began = Instant::now();
        let part = libtorch::catch(|| {
            how.watch.enter(Phase::Validation, count);
            look_at(model, batch, from..from + count, how)
        });
        match part {
            Ok((loss, decoded)) => {
                seconds += began.elapsed().as_secs_f64();
                parts.push((loss.components, loss.scores));
                found.extend(detections(&decoded, config));
            }
            Err(error) if error.is_out_of_memory() && how.watch.fewer_than(count).is_some() => {
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
    Look { components, detections: found, seconds }
}

/// The loss, and decoded predictions on the host.
fn look_at(model: &Model, batch: &Batch, images: Range<usize>, how: &Validation<'_>) -> (Loss, Tensor) {
    let _unsearched = libtorch::Unsearched::begin();
    let prediction = forward(model, &input_of(batch, images.clone(), model.device()), false, how.precision);
    let targets = targets_of(batch, images, model.device());
    let loss = detection_loss(&prediction, model.head().bins(), &targets, how.gains);
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

/// Suppression in a validation of images with up to `crowd` objects.
pub fn config(crowd: usize) -> NmsConfig {
    let config = NmsConfig::validation();
    NmsConfig { max_det: config.max_det.max(crowd), ..config }
}

/// Validates `model` on everything that `loader` has. `None` if `stop` was raised meanwhile.
///
/// # Errors
/// When images cannot be read any more.
pub fn validate(
    model: &Model,
    loader: &ValLoader,
    how: &Validation<'_>,
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
    /// How long it took.
    pub spent: Spent,
}

/// [`validate`], in detail.
///
/// # Errors
/// When images cannot be read any more.
pub fn examine(
    model: &Model,
    loader: &ValLoader,
    how: &Validation<'_>,
    stop: &AtomicBool,
) -> Result<Option<Details>, LoadError> {
    let _no_grad = tch::no_grad_guard();
    let classes = usize::try_from(model.plan().head.classes).unwrap_or(0);
    let config = config(how.crowd);
    let mut evaluator = Evaluator::new(classes);
    let mut confusion = Confusion::new(classes);
    let mut sums = Tensor::zeros([3], (Kind::Float, model.device()));
    let (mut batches, mut spent) = (0_usize, Spent::default());
    let mut pass = loader.pass();
    let began = Instant::now();
    pulse::at(Activity::Validate);
    for batch in pass.by_ref() {
        pulse::tick();
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = batch?;
        let seen = look(model, &batch, how, &config);
        sums += seen.components;
        batches += 1;
        spent.model += seen.seconds;
        for (image, detections) in seen.detections.iter().enumerate() {
            let truths = batch.truths(image);
            evaluator.add(detections, &truths);
            confusion.add(detections, &truths);
        }
        (how.show)(batches, loader.batches());
    }
    spent.waited = pass.waited().as_secs_f64();
    spent.after = (began.elapsed().as_secs_f64() - spent.waited - spent.model).max(0.0);
    #[expect(clippy::cast_precision_loss, reason = "batches are far below 2^52")]
    let losses = to_host(&sums).map(|sum| sum / batches.max(1) as f64);
    let found = Found { metrics: evaluator.metrics(), losses };
    Ok(Some(Details { found, evaluator, confusion, spent }))
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;
    use trainyard_data::batch::Target;

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
            let watch = Watch::with_faults(faults);
            let (gains, precision, show) = (Gains::default(), Precision::Single, |_, _| {});
            let how = Validation { gains, precision, crowd: 2, watch: &watch, show };
            let seen = look(&model, &batch(), &how, &config(2));
            (to_host(&seen.components), seen.detections, watch.at_once(100))
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
