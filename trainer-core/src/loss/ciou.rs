//! How well two boxes match.

use std::f64::consts::PI;

use tch::Tensor;

/// Keeps quotients finite.
const EPS: f64 = 1e-7;

/// Complete IoU (Zheng et al. 2020).
///
/// `pred`, `truth`: `[..., 4]` float, `xyxy` in any one unit, `x2 >= x1` and `y2 >= y1`; their leading
/// dimensions broadcast. Returns those dimensions, values in `(-1.5, 1]`; 1 means equal. Gradients flow
/// through both, except through the weight of the aspect term, which is a constant as in the paper.
///
/// Both directions are computed at once where they can be, and views are taken apart together: on a GPU each operation,
/// and each of its gradient, costs a launch.
pub fn complete_iou(pred: &Tensor, truth: &Tensor) -> Tensor {
    let (near_a, far_a) = corners(pred);
    let (near_b, far_b) = corners(truth);
    // The corners of what both have in common, and of the smallest box around both.
    let (near_hull, far_common) = corners(&pred.minimum(truth));
    let (near_common, far_hull) = corners(&pred.maximum(truth));

    let (width_a, height_a) = sides(&(&far_a - &near_a));
    let (width_b, height_b) = sides(&(&far_b - &near_b));
    // Never zero: they divide.
    let (height_a, height_b) = (height_a + EPS, height_b + EPS);
    let (width, height) = sides(&(far_common - near_common).clamp_min(0.0));
    let overlap = width * height;
    let union = &width_a * &height_a + &width_b * &height_b - &overlap + EPS;
    let iou = overlap / union;

    let squared = |sides: Tensor| sides.square().sum_dim_intlist(-1, false, sides.kind());
    let diagonal = squared(far_hull - near_hull) + EPS;
    // Twice the distance of the centres, squared, hence the quarter.
    let apart = squared(near_b + far_b - near_a - far_a) / 4.0;

    let aspect = (width_b / height_b).atan() - (width_a / height_a).atan();
    let aspect = aspect.square() * (4.0 / (PI * PI));
    let weight = {
        let _no_grad = tch::no_grad_guard();
        &aspect / (&aspect - &iou + (1.0 + EPS))
    };
    iou - (apart / diagonal + aspect * weight)
}

/// `[..., 4]` to two `[..., 2]`: the corners of boxes.
fn corners(boxes: &Tensor) -> (Tensor, Tensor) {
    halves(boxes.chunk(2, -1))
}

/// `[..., 2]` to two `[...]`: widths and heights.
fn sides(both: &Tensor) -> (Tensor, Tensor) {
    halves(both.unbind(-1))
}

fn halves(parts: Vec<Tensor>) -> (Tensor, Tensor) {
    let [first, second] = <[Tensor; 2]>::try_from(parts).expect("there are two parts of two");
    (first, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxes(values: &[[f32; 4]]) -> Tensor {
        Tensor::from_slice(values.as_flattened()).view([-1, 4])
    }

    #[test]
    fn equal_boxes_match_fully_and_far_ones_below_zero() {
        let one = boxes(&[[0.0, 0.0, 4.0, 2.0]]);
        assert!((complete_iou(&one, &one).double_value(&[0]) - 1.0).abs() < 1e-6);
        let far = complete_iou(&one, &boxes(&[[100.0, 100.0, 101.0, 140.0]])).double_value(&[0]);
        assert!((-1.5..0.0).contains(&far), "{far}");
    }

    #[test]
    fn empty_boxes_give_finite_values_and_gradients() {
        let pred = boxes(&[[0.0; 4], [3.0, 3.0, 3.0, 9.0], [1.0, 1.0, 8.0, 1.0]]).set_requires_grad(true);
        let iou = complete_iou(&pred, &boxes(&[[0.0; 4], [0.0; 4], [0.0, 0.0, 5.0, 0.0]]));
        iou.sum(tch::Kind::Float).backward();
        assert_eq!(iou.isfinite().all().int64_value(&[]), 1);
        assert_eq!(pred.grad().isfinite().all().int64_value(&[]), 1);
    }
}
