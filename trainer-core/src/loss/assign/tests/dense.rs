//! The assigner as it reads in the paper: each object of an image is compared with each anchor. The reference for the
//! one that compares pairs.

use std::f64::consts::PI;

use tch::{Device, Kind, Tensor};

use super::super::{BETA, EPS, PixelObject, TOP_K};

const MIN_SIDE: f64 = 16.0;
/// Keeps quotients of the overlap finite.
const IOU_EPS: f64 = 1e-7;

/// A batch's objects, padded to as many an image as the fullest one has, `M`.
pub struct Padded {
    labels: Tensor,
    boxes: Tensor,
    real: Tensor,
}

/// `[B, A, ...]`, with all that each anchor learns.
pub struct Assigned {
    pub scores: Tensor,
    pub boxes: Tensor,
    pub foreground: Tensor,
    pub labels: Tensor,
}

impl Padded {
    pub fn new(objects: &[PixelObject], images: usize) -> Self {
        let of = |image: usize| objects.iter().filter(move |object| object.image as usize == image);
        let most = (0..images).map(|image| of(image).count()).max().unwrap_or(0);
        let mut labels = vec![0_i64; images * most];
        let mut boxes = vec![[0.0_f32; 4]; images * most];
        let mut real = vec![false; images * most];
        for image in 0..images {
            for (at, object) in of(image).enumerate() {
                let at = image * most + at;
                (labels[at], boxes[at], real[at]) = (i64::from(object.class), object.xyxy, true);
            }
        }
        let shape = [images as i64, most as i64];
        Self {
            labels: Tensor::from_slice(&labels).view(shape),
            boxes: Tensor::from_slice(boxes.as_flattened()).view([shape[0], shape[1], 4]),
            real: Tensor::from_slice(&real).view(shape),
        }
    }
}

/// How well each anchor fits each object of its image, `[B, M, A]`.
pub struct Fits {
    pub overlap: Tensor,
    pub metric: Tensor,
    pub candidates: Tensor,
}

/// `anchors`: `[A, 2]` centres in pixels.
pub fn compare(logits: &Tensor, boxes: &Tensor, anchors: &Tensor, targets: &Padded) -> Fits {
    let candidates = candidates(anchors, targets);
    let zero = Tensor::zeros([0; 0], (Kind::Float, Device::Cpu));
    let overlap = complete_iou(&boxes.unsqueeze(1), &targets.boxes.unsqueeze(2)).clamp_min(0.0);
    let overlap = overlap.where_self(&candidates, &zero);
    let classes = targets.labels.unsqueeze(-1).expand(overlap.size(), false);
    let class_scores = logits.sigmoid().transpose(1, 2).gather(1, &classes, false);
    let metric = (class_scores.sqrt() * overlap.pow_tensor_scalar(BETA)).where_self(&candidates, &zero);
    Fits { overlap, metric, candidates }
}

pub fn assign(fits: &Fits, targets: &Padded, classes: i64) -> Assigned {
    let zero = Tensor::zeros([0; 0], (Kind::Float, Device::Cpu));
    let selected = selected(fits);
    let foreground = selected.any_dim(1, false);
    let objects = selected.to_kind(Kind::Uint8).argmax(1, false);

    // [B, A].
    let metric = fits.metric.where_self(&selected, &zero);
    let best_metric = metric.amax(-1, true);
    let best_overlap = fits.overlap.where_self(&selected, &zero).amax(-1, true);
    let soft_scores = (metric * best_overlap / (best_metric + EPS)).amax(1, false);

    let labels = targets.labels.gather(1, &objects, false);
    let size = objects.size();
    let four = objects.unsqueeze(-1).expand([size[0], size[1], 4], false);
    let boxes = targets.boxes.gather(1, &four, false);
    let soft_scores = soft_scores.where_self(&foreground, &zero).unsqueeze(-1);
    let mut scores = Tensor::zeros([size[0], size[1], classes], (Kind::Float, Device::Cpu));
    let _ = scores.scatter_(2, &labels.unsqueeze(-1), &soft_scores);
    Assigned { scores, boxes, foreground, labels }
}

/// `[B, M, A]` bool: whether an anchor's centre lies inside an object, small objects taken as larger.
fn candidates(anchors: &Tensor, targets: &Padded) -> Tensor {
    let corners = targets.boxes.chunk(2, -1);
    let (near, far) = (&corners[0], &corners[1]);
    let size = far - near;
    let small = size.lt(MIN_SIDE);
    let center = (near + far) / 2.0;
    let near = (&center - MIN_SIDE / 2.0).where_self(&small, near).unsqueeze(2);
    let far = (&center + MIN_SIDE / 2.0).where_self(&small, far).unsqueeze(2);
    let inside = |gap: Tensor| gap.amin(-1, false);
    let gap = inside(anchors - near).minimum(&inside(far - anchors));
    gap.gt(EPS).logical_and(&targets.real.unsqueeze(-1))
}

/// `[B, M, A]` bool: which anchors each object gets: its best ones, of equals the first, and an anchor that several
/// want goes to the object that it overlaps most.
fn selected(Fits { overlap, metric, candidates }: &Fits) -> Tensor {
    let (_, order) = metric.sort_stable(true, -1, true);
    let best = order.narrow(-1, 0, TOP_K.min(metric.size()[2]));
    let picked = candidates.zeros_like().scatter_value(-1, &best, 1).logical_and(candidates);
    let contested = picked.sum_dim_intlist(1, true, Kind::Int64).gt(1);
    let closest = overlap.argmax(1, true);
    let winner = picked.zeros_like().scatter_value(1, &closest, 1);
    winner.where_self(&contested, &picked)
}

/// Side by side, as in the paper.
fn complete_iou(pred: &Tensor, truth: &Tensor) -> Tensor {
    let [ax1, ay1, ax2, ay2] = [0, 1, 2, 3].map(|at| pred.select(-1, at));
    let [bx1, by1, bx2, by2] = [0, 1, 2, 3].map(|at| truth.select(-1, at));
    let (width_a, height_a) = (&ax2 - &ax1, &ay2 - &ay1 + IOU_EPS);
    let (width_b, height_b) = (&bx2 - &bx1, &by2 - &by1 + IOU_EPS);
    let overlap = (ax2.minimum(&bx2) - ax1.maximum(&bx1)).clamp_min(0.0)
        * (ay2.minimum(&by2) - ay1.maximum(&by1)).clamp_min(0.0);
    let union = &width_a * &height_a + &width_b * &height_b - &overlap + IOU_EPS;
    let iou = overlap / union;
    let hull_width = ax2.maximum(&bx2) - ax1.minimum(&bx1);
    let hull_height = ay2.maximum(&by2) - ay1.minimum(&by1);
    let diagonal = hull_width.square() + hull_height.square() + IOU_EPS;
    let apart = ((&bx1 + &bx2 - &ax1 - &ax2).square() + (&by1 + &by2 - &ay1 - &ay2).square()) / 4.0;
    // As many as there are overlaps: see `Case::random` for why.
    let angle = |ratio: Tensor| ratio.expand(iou.size(), false).contiguous().atan();
    let aspect = angle(width_b / height_b) - angle(width_a / height_a);
    let aspect = aspect.square() * (4.0 / (PI * PI));
    let weight = &aspect / (&aspect - &iou + (1.0 + IOU_EPS));
    iou - (apart / diagonal + aspect * weight)
}
