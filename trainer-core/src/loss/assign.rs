//! Task-aligned assignment: which anchors learn which object (Feng et al. 2021, TOOD).
//!
//! Everything is one batch of tensor operations without a look at their values, so that a GPU need not
//! wait for the host.

use tch::{Device, Kind, Tensor};

use super::ciou::complete_iou;

/// Anchors that an object may take, the best ones.
pub(super) const TOP_K: i64 = 10;
/// Exponent of the overlap in the alignment metric; the score's is one half.
const BETA: f64 = 6.0;
const EPS: f64 = 1e-9;
/// An object's side counts as at least this many pixels when anchors are looked for.
const MIN_SIDE: f64 = 16.0;
/// (object, anchor) pairs that are computed at a time; bounds the memory of large batches of crowded images.
const PAIRS_PER_PART: i64 = 1 << 22;
/// The same number on a GPU, where each part costs the launches of some forty kernels.
const PAIRS_PER_PART_ON_GPU: i64 = 1 << 23;

/// One object of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// The image of the batch that it is in.
    pub image: u32,
    /// The class's id.
    pub class: u32,
    /// Centre x and y, width, height, as shares of the batch's width and height.
    pub cxcywh: [f32; 4],
}

/// A batch's objects, padded to as many an image as the fullest one has, `M`.
#[derive(Debug)]
pub struct Targets {
    /// `[B, M]` integer: class ids; 0 in the padding.
    pub labels: Tensor,
    /// `[B, M, 4]` float: `xyxy` in pixels; 0 in the padding.
    pub boxes: Tensor,
    /// `[B, M]` bool: whether there is an object.
    pub real: Tensor,
    /// Objects in the batch.
    pub count: i64,
}

impl Targets {
    /// Objects of a batch of so many `images`, whose size in pixels is `[height, width]`.
    pub fn new(objects: &[Object], images: usize, [height, width]: [i64; 2], device: Device) -> Self {
        let mut counts = vec![0_usize; images];
        for object in objects {
            counts[object.image as usize] += 1;
        }
        let most = counts.iter().copied().max().unwrap_or(0);
        let mut labels = vec![0_i64; images * most];
        let mut boxes = vec![[0.0_f32; 4]; images * most];
        let mut real = vec![false; images * most];
        counts.fill(0);
        let (height, width) = (height as f32, width as f32);
        for object in objects {
            let image = object.image as usize;
            let at = image * most + counts[image];
            counts[image] += 1;
            let [cx, cy, w, h] = object.cxcywh;
            let (cx, cy, w, h) = (cx * width, cy * height, w * width, h * height);
            labels[at] = i64::from(object.class);
            boxes[at] = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
            real[at] = true;
        }
        let shape = [images as i64, most as i64];
        Self {
            labels: Tensor::from_slice(&labels).view(shape).to_device(device),
            boxes: Tensor::from_slice(boxes.as_flattened()).view([shape[0], shape[1], 4]).to_device(device),
            real: Tensor::from_slice(&real).view(shape).to_device(device),
            count: objects.len() as i64,
        }
    }

    /// Images `from` to `from + images - 1`.
    fn narrow(&self, from: i64, images: i64) -> Self {
        Self {
            labels: self.labels.narrow(0, from, images),
            boxes: self.boxes.narrow(0, from, images),
            real: self.real.narrow(0, from, images),
            count: self.count,
        }
    }
}

/// The targets of every anchor.
#[derive(Debug)]
pub struct Assignment {
    /// `[B, A, classes]` float: soft scores; zero for the background.
    pub scores: Tensor,
    /// `[B, A, 4]`: the object's box in pixels; means nothing for the background.
    pub boxes: Tensor,
    /// `[B, A]` bool: whether the anchor learns an object.
    pub foreground: Tensor,
    /// `[B, A]` integer: which of its image's objects; means nothing for the background.
    pub objects: Tensor,
    /// `[B, A]` integer: that object's class; means nothing for the background.
    pub labels: Tensor,
}

/// Assigns anchors to objects, for a batch with at least one object.
///
/// `scores`: `[B, A, classes]` in 0 to 1; `boxes`: `[B, A, 4]` `xyxy` in pixels; `anchors`: `[A, 2]` centres
/// in pixels. Nothing here has a gradient.
pub fn assign(scores: &Tensor, boxes: &Tensor, anchors: &Tensor, targets: &Targets) -> Assignment {
    let pairs = if boxes.device().is_cuda() { PAIRS_PER_PART_ON_GPU } else { PAIRS_PER_PART };
    assign_in_parts(pairs, scores, boxes, anchors, targets)
}

/// [`assign`], with about so many pairs at a time.
fn assign_in_parts(
    pairs: i64,
    scores: &Tensor,
    boxes: &Tensor,
    anchors: &Tensor,
    targets: &Targets,
) -> Assignment {
    let _no_grad = tch::no_grad_guard();
    let size = targets.labels.size();
    let (images, most) = (size[0], size[1]);
    let step = (pairs / (most * anchors.size()[0]).max(1)).clamp(1, images);
    let mut parts = Vec::new();
    for from in (0..images).step_by(usize::try_from(step).unwrap_or(1)) {
        let count = step.min(images - from);
        let (scores, boxes) = (scores.narrow(0, from, count), boxes.narrow(0, from, count));
        parts.push(assign_images(&scores, &boxes, anchors, &targets.narrow(from, count)));
    }
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let join = |part: fn(&Assignment) -> &Tensor| {
        Tensor::cat(&parts.iter().map(|of| part(of).shallow_clone()).collect::<Vec<_>>(), 0)
    };
    Assignment {
        scores: join(|part| &part.scores),
        boxes: join(|part| &part.boxes),
        foreground: join(|part| &part.foreground),
        objects: join(|part| &part.objects),
        labels: join(|part| &part.labels),
    }
}

fn assign_images(scores: &Tensor, boxes: &Tensor, anchors: &Tensor, targets: &Targets) -> Assignment {
    let candidates = candidates(anchors, targets);
    let zero = Tensor::zeros([0; 0], (Kind::Float, scores.device()));
    // [B, M, A]: how well each anchor's box fits each object, what score it gives to the object's class, and both together.
    let overlaps = complete_iou(&boxes.unsqueeze(1), &targets.boxes.unsqueeze(2)).clamp_min(0.0);
    let overlaps = overlaps.where_self(&candidates, &zero);
    let shape = overlaps.size();
    let classes = targets.labels.unsqueeze(-1).expand(&shape, false);
    let class_scores = scores.transpose(1, 2).gather(1, &classes, false);
    let metric = (class_scores.sqrt() * overlaps.pow_tensor_scalar(BETA)).where_self(&candidates, &zero);

    let selected = selected(&metric, &overlaps, &candidates);
    let foreground = selected.any_dim(1, false);
    let objects = selected.to_kind(Kind::Uint8).argmax(1, false);

    // [B, A]: an anchor's share of its object's best metric, times the object's best overlap.
    let metric = metric.where_self(&selected, &zero);
    let best_metric = metric.amax(-1, true);
    let best_overlap = overlaps.where_self(&selected, &zero).amax(-1, true);
    let soft_scores = (metric * best_overlap / (best_metric + EPS)).amax(1, false);

    let labels = targets.labels.gather(1, &objects, false);
    let four = [objects.size()[0], objects.size()[1], 4];
    let target_boxes = targets.boxes.gather(1, &objects.unsqueeze(-1).expand(four, false), false);
    let target_scores = scores.zeros_like().scatter_(
        2,
        &labels.unsqueeze(-1),
        &soft_scores.where_self(&foreground, &zero).unsqueeze(-1),
    );
    Assignment { scores: target_scores, boxes: target_boxes, foreground, objects, labels }
}

/// `[B, M, A]` bool: whether an anchor's centre lies inside an object, small objects taken as larger.
fn candidates(anchors: &Tensor, targets: &Targets) -> Tensor {
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

/// `[B, M, A]` bool: which anchors each object gets: its best ones, and an anchor that several want goes
/// to the object that it overlaps most.
fn selected(metric: &Tensor, overlaps: &Tensor, candidates: &Tensor) -> Tensor {
    let shape = metric.size();
    let (_, best) = metric.topk(TOP_K.min(shape[2]), -1, true, true);
    let picked = candidates.zeros_like().scatter_value(-1, &best, 1).logical_and(candidates);
    let contested = picked.sum_dim_intlist(1, true, Kind::Int64).gt(1);
    let closest = overlaps.argmax(1, true);
    let winner = picked.zeros_like().scatter_value(1, &closest, 1);
    winner.where_self(&contested, &picked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: Device = Device::Cpu;

    /// A 4x4 grid of anchors, 8 pixels apart, each predicting the 8-pixel box around it.
    fn grid() -> (Tensor, Tensor) {
        let centers: Vec<f32> =
            (0..16).flat_map(|at| [(at % 4) as f32 * 8.0 + 4.0, (at / 4) as f32 * 8.0 + 4.0]).collect();
        let anchors = Tensor::from_slice(&centers).view([16, 2]);
        let boxes = Tensor::cat(&[&anchors - 4.0, &anchors + 4.0], 1);
        (anchors, boxes)
    }

    fn object(image: u32, cxcywh: [f32; 4]) -> Object {
        Object { image, class: 1, cxcywh }
    }

    fn run(objects: &[Object], images: usize) -> Assignment {
        let (anchors, boxes) = grid();
        let boxes = boxes.unsqueeze(0).repeat([images as i64, 1, 1]);
        let scores = Tensor::full([images as i64, 16, 2], 0.5, (Kind::Float, CPU));
        assign(&scores, &boxes, &anchors, &Targets::new(objects, images, [32, 32], CPU))
    }

    #[test]
    fn an_object_gets_the_anchors_inside_it_and_the_best_one_scores_most() {
        let found = run(&[object(0, [0.375, 0.375, 0.25, 0.25])], 1);
        assert_eq!(found.scores.argmax(1, false).int64_value(&[0, 1]), 5);
        assert!((found.scores.double_value(&[0, 5, 1]) - 1.0).abs() < 1e-5);
        assert_eq!(found.scores.select(2, 0).count_nonzero(None).int64_value(&[]), 0);
    }

    #[test]
    fn a_small_object_between_anchors_still_finds_one() {
        // Three pixels wide, beside the anchor at (12, 4), whose box holds it.
        let found = run(&[object(0, [10.0 / 32.0, 4.0 / 32.0, 3.0 / 32.0, 3.0 / 32.0])], 1);
        assert_eq!(found.foreground.int64_value(&[0, 1]), 1);
        assert!(found.scores.double_value(&[0, 1, 1]) > 0.0);
    }

    #[test]
    fn a_batch_in_parts_is_assigned_as_a_whole_one() {
        let (anchors, boxes) = grid();
        let boxes = boxes.unsqueeze(0).repeat([3, 1, 1]);
        let scores = Tensor::full([3, 16, 2], 0.5, (Kind::Float, CPU));
        let objects = [object(0, [0.4, 0.4, 0.5, 0.3]), object(2, [0.6, 0.5, 0.3, 0.5])];
        let targets = Targets::new(&objects, 3, [32, 32], CPU);
        let whole = assign_in_parts(PAIRS_PER_PART, &scores, &boxes, &anchors, &targets);
        let parts = assign_in_parts(1, &scores, &boxes, &anchors, &targets);
        assert!(whole.scores.equal(&parts.scores) && whole.foreground.equal(&parts.foreground));
        assert!(whole.boxes.equal(&parts.boxes) && whole.objects.equal(&parts.objects));
    }

    #[test]
    fn an_image_without_objects_beside_one_with_is_all_background() {
        let found = run(&[object(1, [0.5, 0.5, 0.5, 0.5])], 2);
        assert_eq!(found.foreground.get(0).any().int64_value(&[]), 0);
        assert_eq!(found.foreground.get(1).any().int64_value(&[]), 1);
        assert_eq!(found.scores.get(0).count_nonzero(None).int64_value(&[]), 0);
    }

    #[test]
    fn no_anchor_serves_two_objects() {
        let twice = [object(0, [0.5, 0.5, 0.9, 0.9]), object(0, [0.5, 0.5, 0.9, 0.9])];
        let found = run(&twice, 1);
        // Equal overlaps: the lower index wins.
        let objects = found.objects.masked_select(&found.foreground);
        assert_eq!(objects.count_nonzero(None).int64_value(&[]), 0);
        assert!(objects.numel() > 0);
    }

    #[test]
    fn a_box_without_area_breaks_nothing() {
        let found = run(&[object(0, [0.5, 0.5, 0.0, 0.0])], 1);
        assert_eq!(found.scores.isfinite().all().int64_value(&[]), 1);
    }
}
