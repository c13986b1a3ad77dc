//! How well two boxes match.

use std::f64::consts::PI;

use tch::Tensor;

/// Keeps quotients finite.
const EPS: f64 = 1e-7;

/// A box's corners, each of any shape.
struct Corners {
    x1: Tensor,
    y1: Tensor,
    x2: Tensor,
    y2: Tensor,
}

impl Corners {
    fn of(boxes: &Tensor) -> Self {
        let side = |at| boxes.select(-1, at);
        Self { x1: side(0), y1: side(1), x2: side(2), y2: side(3) }
    }

    fn width(&self) -> Tensor {
        &self.x2 - &self.x1
    }

    /// Never zero: it divides.
    fn height(&self) -> Tensor {
        &self.y2 - &self.y1 + EPS
    }
}

/// Complete IoU (Zheng et al. 2020).
///
/// `pred`, `truth`: `[..., 4]` float, `xyxy` in any one unit, `x2 >= x1` and `y2 >= y1`; their leading
/// dimensions broadcast. Returns those dimensions, values in `(-1.5, 1]`; 1 means equal. Gradients flow
/// through both, except through the weight of the aspect term, which is a constant as in the paper.
pub fn complete_iou(pred: &Tensor, truth: &Tensor) -> Tensor {
    let (a, b) = (Corners::of(pred), Corners::of(truth));
    let (width_a, height_a, width_b, height_b) = (a.width(), a.height(), b.width(), b.height());
    let overlap = (a.x2.minimum(&b.x2) - a.x1.maximum(&b.x1)).clamp_min(0.0)
        * (a.y2.minimum(&b.y2) - a.y1.maximum(&b.y1)).clamp_min(0.0);
    let union = &width_a * &height_a + &width_b * &height_b - &overlap + EPS;
    let iou = overlap / union;

    let hull_width = a.x2.maximum(&b.x2) - a.x1.minimum(&b.x1);
    let hull_height = a.y2.maximum(&b.y2) - a.y1.minimum(&b.y1);
    let diagonal = hull_width.square() + hull_height.square() + EPS;
    // Twice the distance of the centres, squared, hence the quarter.
    let apart = ((&b.x1 + &b.x2 - &a.x1 - &a.x2).square() + (&b.y1 + &b.y2 - &a.y1 - &a.y2).square()) / 4.0;

    let aspect = (width_b / height_b).atan() - (width_a / height_a).atan();
    let aspect = aspect.square() * (4.0 / (PI * PI));
    let weight = {
        let _no_grad = tch::no_grad_guard();
        &aspect / (&aspect - &iou + (1.0 + EPS))
    };
    iou - (apart / diagonal + aspect * weight)
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
