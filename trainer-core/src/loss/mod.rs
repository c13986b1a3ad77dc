//! What training minimises: box, class and distribution losses over the anchors that learn an object.

pub mod assign;
pub mod ciou;
pub mod dfl;

use tch::{Device, Kind, Reduction, Tensor};

use self::assign::{Assignment, Targets, assign};
use self::ciou::complete_iou;
use self::dfl::{distribution_focal, side_distances};
use crate::model::head::{Anchors, Prediction, corners, distances};

/// What the three losses are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gains {
    /// The gain of the box loss.
    pub boxes: f64,
    /// The gain of the class loss.
    pub classes: f64,
    /// The gain of the distribution focal loss.
    pub distribution: f64,
}

impl Default for Gains {
    fn default() -> Self {
        Self { boxes: 7.5, classes: 0.5, distribution: 1.5 }
    }
}

/// A batch's loss.
#[derive(Debug)]
pub struct Loss {
    /// Scalar, with gradient: the sum of the components before they are divided by `scores`. Numerators of
    /// several batches add up to that of all their images at once.
    pub numerator: Tensor,
    /// Scalar, without gradient: the sum of the soft scores that the assigner gave.
    pub scores: Tensor,
    /// `[3]`, without gradient: box, class and distribution loss with their gains, as results.csv shows them.
    pub components: Tensor,
    images: i64,
}

impl Loss {
    /// Scalar, with gradient: the sum of the components times the images of the batch.
    pub fn total(&self) -> Tensor {
        &self.numerator / self.scores.clamp_min(LEAST_SCORES) * self.images as f64
    }
}

/// Losses are divided by the sum of the soft scores, or by this if that is less.
pub const LEAST_SCORES: f64 = 1.0;

/// The loss of a batch: complete IoU, binary cross entropy, distribution focal loss, over the anchors that
/// the assigner gives objects to. `bins`: `[16]`, the head's. Computed in 32 bits whatever the prediction's type.
///
/// # Panics
/// When `targets` are of images of another size than the prediction.
pub fn detection_loss(prediction: &Prediction, bins: &Tensor, targets: &Targets, gains: Gains) -> Loss {
    assert_eq!(&prediction.anchors.grid, targets.grid(), "targets are for the images' size");
    let boxes = prediction.boxes.to_kind(Kind::Float);
    let scores = prediction.scores.to_kind(Kind::Float);
    let images = scores.size()[0];
    let anchors = &prediction.anchors;

    let ([box_loss, class_loss, distribution_loss], given) = if targets.is_empty() {
        let nothing = Tensor::zeros([0; 0], (Kind::Float, boxes.device()));
        // The box branch takes part with a gradient of zero, as it does in any other batch.
        let still = boxes.sum(Kind::Float) * 0.0;
        let given = nothing.shallow_clone();
        ([&nothing + still, class_entropy(&scores, &scores.zeros_like()), nothing], given)
    } else {
        let assignment = assign_prediction(&boxes, &scores, bins, anchors, targets);
        let class_loss = class_entropy(&scores, &assignment.scores);
        let (box_loss, distribution_loss) = box_losses(&boxes, bins, anchors, &assignment);
        ([box_loss, class_loss, distribution_loss], assignment.weights.sum(Kind::Float))
    };
    let parts = [box_loss * gains.boxes, class_loss * gains.classes, distribution_loss * gains.distribution];
    let parts = Tensor::stack(&parts, 0);
    let scale = given.clamp_min(LEAST_SCORES);
    let numerator = parts.sum(Kind::Float);
    Loss { numerator, scores: given, components: parts.detach() / scale, images }
}

/// The assigner, on what the head says now.
fn assign_prediction(
    boxes: &Tensor,
    scores: &Tensor,
    bins: &Tensor,
    anchors: &Anchors,
    targets: &Targets,
) -> Assignment {
    let _no_grad = tch::no_grad_guard();
    let boxes = corners(&anchors.centers, &distances(boxes, bins)) * &anchors.strides;
    assign(scores, &boxes, targets)
}

/// The sum of binary cross entropies. `scores`: `[B, A, classes]` logits; `targets`: as many, in 0 to 1.
fn class_entropy(scores: &Tensor, targets: &Tensor) -> Tensor {
    scores.binary_cross_entropy_with_logits(targets, None::<Tensor>, None::<Tensor>, Reduction::Sum)
}

/// Sums of the box and distribution losses over the foreground, weighted by the soft scores.
///
/// Computed on the places of the assignment, whose number the host knows: how much foreground there is stays on the
/// device. Places that are left over weigh nothing.
fn box_losses(boxes: &Tensor, bins: &Tensor, anchors: &Anchors, assignment: &Assignment) -> (Tensor, Tensor) {
    let size = boxes.size();
    let (images, count) = (size[0], size[1]);
    let rows = assignment.anchors.clamp_max(images * count - 1);
    let anchor = rows.remainder(count);
    let centers = anchors.centers.index_select(0, &anchor);
    let truth = &assignment.boxes / anchors.strides.index_select(0, &anchor);
    let logits = boxes.reshape([-1, size[2]]).index_select(0, &rows);

    let predicted = corners(&centers, &distances(&logits, bins));
    let mismatch = complete_iou(&predicted, &truth).rsub_scalar(1.0);
    let distribution = distribution_focal(&logits, &side_distances(&centers, &truth));
    let weighted = |losses: Tensor| (losses * &assignment.weights).sum(Kind::Float);
    (weighted(mismatch), weighted(distribution))
}

/// The three components of a [`Loss`] on the host: box, class, distribution. Waits for the device, once.
pub fn to_host(components: &Tensor) -> [f64; 3] {
    let there = components.to_device(Device::Cpu);
    [0, 1, 2].map(|at| there.double_value(&[at]))
}

#[cfg(test)]
mod tests {
    use super::assign::Object;
    use super::*;
    use crate::model::plan::BINS;

    fn prediction() -> Prediction {
        let options = (Kind::Float, Device::Cpu);
        let (boxes, scores) = (Tensor::zeros([2, 21, 64], options), Tensor::zeros([2, 21, 2], options));
        let anchors = Anchors::new([(4, 4), (2, 2), (1, 1)], Device::Cpu);
        Prediction { boxes: boxes.set_requires_grad(true), scores: scores.set_requires_grad(true), anchors }
    }

    fn loss(objects: &[Object]) -> (Prediction, Loss) {
        let prediction = prediction();
        let bins = Tensor::arange(BINS, (Kind::Float, Device::Cpu));
        let targets = Targets::new(objects, 2, [32, 32], Device::Cpu);
        let loss = detection_loss(&prediction, &bins, &targets, Gains::default());
        loss.total().backward();
        (prediction, loss)
    }

    #[test]
    fn a_batch_without_objects_only_learns_that_nothing_is_there() {
        let (prediction, loss) = loss(&[]);
        let [boxes, classes, distribution] = to_host(&loss.components);
        assert_eq!((boxes, distribution), (0.0, 0.0));
        let entropy = 0.5 * 2.0 * 21.0 * 2.0 * std::f64::consts::LN_2;
        assert!((classes - entropy).abs() < 1e-3, "{classes} instead of {entropy}");
        assert_eq!(prediction.boxes.grad().count_nonzero(None).int64_value(&[]), 0);
    }

    #[test]
    fn gradients_reach_boxes_and_scores_and_are_finite() {
        let object = Object { image: 1, class: 1, cxcywh: [0.5, 0.5, 0.6, 0.4] };
        let (prediction, loss) = loss(&[object]);
        assert!(to_host(&loss.components).iter().all(|part| part.is_finite() && *part > 0.0));
        for tensor in [&prediction.boxes, &prediction.scores] {
            let gradient = tensor.grad();
            assert_eq!(gradient.isfinite().all().int64_value(&[]), 1);
            assert!(gradient.count_nonzero(None).int64_value(&[]) > 0);
        }
    }
}
