mod dense;

use tch::{Device, IndexOp};

use self::dense::{Assigned, Fits, Padded};
use super::*;
use crate::model::head::Anchors;

const CPU: Device = Device::Cpu;

/// Evenly spread numbers (SplitMix64, public domain).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// In 0 to 1.
    fn share(&mut self) -> f32 {
        f32::from(u16::try_from(self.below(1 << 16)).unwrap()) / 65_536.0
    }
}

/// What is to be assigned.
struct Case {
    size: [i64; 2],
    /// The last one is there for its place: libtorch computes the last numbers of a tensor, fewer than 32, by other
    /// functions than those before, which round otherwise.
    images: usize,
    objects: Vec<PixelObject>,
    logits: Tensor,
    boxes: Tensor,
}

const CLASSES: i64 = 3;

impl Case {
    /// Images of any shape, with objects of any size in, beside and far outside of them, in any order. `steps`: numbers
    /// are multiples of that share; large ones make many that are equal.
    fn random(random: &mut Random, steps: f32) -> Self {
        let size = [1 + random.below(5), 1 + random.below(5)].map(|side| 32 * i64::try_from(side).unwrap());
        let last = 1 + u32::try_from(random.below(4)).unwrap();
        let most = [1, 3, 40][usize::try_from(random.below(3)).unwrap()];
        // Every anchor twice: 42 pairs at least.
        let whole = PixelObject { image: last, class: 0, xyxy: [-1e4, -1e4, 1e4, 1e4] };
        let mut objects = vec![whole; 2];
        for image in 0..last {
            for _ in 0..random.below(most + 1) {
                objects.push(Self::object(image, size, random, steps));
            }
        }
        for at in 0..objects.len() {
            objects.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap());
        }
        let anchors = centers(size);
        let shape = [i64::from(last) + 1, anchors.size()[0]];
        let mut numbers = |count: i64, scale: f32| {
            let round = |share: f32| (share / steps).round() * steps * scale;
            let all: Vec<f32> = (0..shape[0] * shape[1] * count).map(|_| round(random.share())).collect();
            Tensor::from_slice(&all).view([shape[0], shape[1], count])
        };
        // Boxes of up to 120 pixels around their anchors.
        let sides = numbers(4, 60.0);
        let logits = numbers(CLASSES, 8.0) - 6.0;
        let boxes = Tensor::cat(&[&anchors - sides.i((.., .., ..2)), &anchors + sides.i((.., .., 2..))], -1);
        Self { size, images: last as usize + 1, objects, logits, boxes }
    }

    fn object(image: u32, [height, width]: [i64; 2], random: &mut Random, steps: f32) -> PixelObject {
        let round = |share: f32| (share / steps).round() * steps;
        let mut side = |whole: i64| {
            let whole = whole as f32;
            let length = match random.below(5) {
                0 => 0.0,
                1 => random.share() * 16.0,
                2 => whole * 2.0,
                _ => whole * random.share(),
            };
            let near = (round(random.share()) * 1.6 - 0.3) * whole - round(length / whole) * whole / 2.0;
            (near, near + length)
        };
        let ((x1, x2), (y1, y2)) = (side(width), side(height));
        PixelObject { image, class: (x1.abs() * 7.0) as u32 % CLASSES as u32, xyxy: [x1, y1, x2, y2] }
    }

    fn targets(&self, pairs_per_part: usize) -> Targets {
        Targets::in_parts(&self.objects, self.images, self.size, pairs_per_part)
    }

    fn padded(&self) -> Padded {
        Padded::new(&self.objects, self.images)
    }

    /// Everything compared with everything.
    fn compared(&self) -> Fits {
        dense::compare(&self.logits, &self.boxes, &centers(self.size), &self.padded())
    }

    /// The same, with the numbers that the pairs have.
    fn with_numbers_of(&self, targets: &Targets) -> Fits {
        let Fits { overlap, metric, candidates } = self.compared();
        let (mut overlap, mut metric) = (overlap.zeros_like(), metric.zeros_like());
        let size = candidates.size();
        let (logits, boxes) = (self.logits.view([-1, CLASSES]), self.boxes.view([-1, 4]));
        // Places of the objects among all of their images.
        let mut rows: Vec<i64> = Vec::new();
        for image in 0..self.images {
            let count = self.objects.iter().filter(|object| object.image as usize == image).count();
            rows.extend((0..count).map(|at| image as i64 * size[1] + at as i64));
        }
        let mut before = 0;
        for pairs in targets.pairs() {
            let fits = super::compare(&logits, &boxes, &pairs);
            let count = pairs.labels.size()[0];
            let rows = Tensor::from_slice(&rows).narrow(0, before, count);
            before += count;
            let at = rows.index_select(0, &pairs.objects) * size[2] + pairs.anchors.remainder(size[2]);
            for (to, from) in [&mut metric, &mut overlap].into_iter().zip(fits.unbind(0)) {
                let _ = to.view(-1).index_copy_(0, &at, &from);
            }
        }
        Fits { overlap, metric, candidates }
    }
}

/// `[A, 2]` anchors of an image of that size, in pixels.
fn centers(size: [i64; 2]) -> Tensor {
    let anchors = Anchors::new(candidates::grid(size), CPU);
    anchors.centers * anchors.strides
}

/// An assignment as `[B, A, ...]`.
fn spread(found: &Assignment) -> Assigned {
    let size = found.scores.size();
    let all = size[0] * size[1];
    let there = found.anchors.lt(all);
    let anchors = found.anchors.masked_select(&there);
    let put = |values: &Tensor| {
        let width = values.numel() as i64 / values.size()[0].max(1);
        let values = values.view([-1, width]).masked_select(&there.unsqueeze(-1)).view([-1, width]);
        let mut to = Tensor::zeros([all, width], (values.kind(), CPU));
        let _ = to.index_copy_(0, &anchors, &values);
        to.view([size[0], size[1], width])
    };
    Assigned {
        scores: found.scores.shallow_clone(),
        boxes: put(&found.boxes),
        foreground: put(&found.anchors.ones_like()).squeeze_dim(-1).to_kind(Kind::Bool),
        labels: put(&found.labels).squeeze_dim(-1),
    }
}

/// All that means something in the first `images` images is the same to the bit.
fn assert_same(found: &Assignment, expected: &Assigned, images: i64, what: &str) {
    let spread = spread(found);
    let first = |of: &Tensor| of.narrow(0, 0, images);
    let same = |a: &Tensor, b: &Tensor| first(a).equal(&first(b));
    assert!(same(&spread.foreground, &expected.foreground), "{what}: other anchors learn an object");
    assert!(same(&spread.scores, &expected.scores), "{what}: other scores");
    // Of an anchor that fits none of the objects that want it at all, it does not matter which one it has.
    let learns = first(&expected.scores).amax(-1, false).gt(0.0);
    let same_there = |a: &Tensor, b: &Tensor, mask: &Tensor| {
        first(a).masked_select(mask).equal(&first(b).masked_select(mask))
    };
    assert!(same_there(&spread.labels, &expected.labels, &learns), "{what}: other labels");
    assert!(same_there(&spread.boxes, &expected.boxes, &learns.unsqueeze(-1)), "{what}: other boxes");

    // Each anchor counts once, with its score.
    let size = found.scores.size();
    let mut sums = Tensor::zeros([size[0] * size[1] + 1], (Kind::Float, CPU));
    let _ = sums.index_add_(0, &found.anchors, &found.weights);
    let sums = sums.narrow(0, 0, size[0] * size[1]).view([size[0], size[1]]);
    assert!(sums.equal(&spread.scores.sum_dim_intlist(-1, false, Kind::Float)), "{what}: other weights");
}

#[test]
fn pairs_are_assigned_as_everything_compared_with_everything() {
    let seed = std::env::var("TRAINYARD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("TRAINYARD_SEED={seed}");
    tch::set_num_threads(1);
    let mut random = Random(seed);
    let mut learned = 0;
    for at in 0..200 {
        let case = Case::random(&mut random, [1e-4, 0.05, 0.25][at % 3]);
        let (objects, padded) = (case.objects.len(), case.padded());
        let what = format!("case {at}: {objects} objects in {} images of {:?}", case.images, case.size);
        let whole = case.targets(usize::MAX);
        let found = assign(&case.logits, &case.boxes, &whole);
        let expected = dense::assign(&case.compared(), &padded, CLASSES);
        assert_same(&found, &expected, case.images as i64 - 1, &what);
        learned += expected.foreground.count_nonzero(None).int64_value(&[]);
        for targets in [whole, case.targets(1), case.targets(300)] {
            let found = assign(&case.logits, &case.boxes, &targets);
            let expected = dense::assign(&case.with_numbers_of(&targets), &padded, CLASSES);
            assert_same(&found, &expected, case.images as i64, &what);
        }
    }
    println!("{learned} anchors learn an object");
    assert!(learned > 1000, "the cases are too easy");
}

/// A 4x4 grid of anchors 8 pixels apart, and those of the larger strides; each predicts the box of its cell.
fn cells(objects: &[Object], images: usize) -> (Assigned, Assignment) {
    let anchors = Anchors::new(candidates::grid([32, 32]), CPU);
    let corners = [&anchors.centers - 0.5, &anchors.centers + 0.5].map(|corner| corner * &anchors.strides);
    let boxes = Tensor::cat(&corners, 1).unsqueeze(0).repeat([images as i64, 1, 1]);
    let logits = Tensor::zeros([images as i64, 21, 2], (Kind::Float, CPU));
    let found = assign(&logits, &boxes, &Targets::new(objects, images, [32, 32], CPU));
    (spread(&found), found)
}

fn object(image: u32, cxcywh: [f32; 4]) -> Object {
    Object { image, class: 1, cxcywh }
}

#[test]
fn an_object_gets_the_anchors_inside_it_and_the_best_one_scores_most() {
    let (found, _) = cells(&[object(0, [0.375, 0.375, 0.25, 0.25])], 1);
    assert_eq!(found.scores.argmax(1, false).int64_value(&[0, 1]), 5);
    assert!((found.scores.double_value(&[0, 5, 1]) - 1.0).abs() < 1e-5);
    assert_eq!(found.scores.select(2, 0).count_nonzero(None).int64_value(&[]), 0);
}

#[test]
fn a_small_object_between_anchors_still_finds_one() {
    // Three pixels wide, beside the anchor at (12, 4), whose box holds it.
    let (found, _) = cells(&[object(0, [10.0 / 32.0, 4.0 / 32.0, 3.0 / 32.0, 3.0 / 32.0])], 1);
    assert_eq!(found.foreground.int64_value(&[0, 1]), 1);
    assert!(found.scores.double_value(&[0, 1, 1]) > 0.0);
}

#[test]
fn an_image_without_objects_beside_one_with_is_all_background() {
    let (found, _) = cells(&[object(1, [0.5, 0.5, 0.5, 0.5])], 2);
    assert_eq!(found.foreground.get(0).any().int64_value(&[]), 0);
    assert_eq!(found.foreground.get(1).any().int64_value(&[]), 1);
    assert_eq!(found.scores.get(0).count_nonzero(None).int64_value(&[]), 0);
}

#[test]
fn an_anchor_that_two_objects_want_is_of_the_first_of_equals_and_counts_once() {
    let twice = [1, 0].map(|class| Object { class, ..object(0, [0.5, 0.5, 0.9, 0.9]) });
    let (spread, found) = cells(&twice, 1);
    let labels = spread.labels.masked_select(&spread.foreground);
    assert!(labels.numel() > 0 && labels.eq(1).all().int64_value(&[]) == 1);
    assert_eq!(found.anchors.size(), [20]);
    let sum = |values: &Tensor| values.sum(Kind::Double).double_value(&[]);
    assert!((sum(&found.weights) - sum(&found.scores)).abs() < 1e-6);
}

#[test]
fn a_box_without_area_breaks_nothing() {
    let (found, _) = cells(&[object(0, [0.5, 0.5, 0.0, 0.0])], 1);
    assert_eq!(found.scores.isfinite().all().int64_value(&[]), 1);
}

#[test]
fn predictions_that_are_no_numbers_give_scores_that_are_none_and_no_crash() {
    let case = Case::random(&mut Random(7), 0.05);
    let boxes = &case.boxes * f64::NAN;
    let found = assign(&case.logits, &boxes, &case.targets(1 << 20));
    assert_eq!(found.scores.isfinite().all().int64_value(&[]), 0);
    assert!(found.anchors.le(case.logits.size()[0] * case.logits.size()[1]).all().int64_value(&[]) == 1);
}
