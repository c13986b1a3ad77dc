//! Layer 22, the decoupled head: per cell a distribution for each box side, and a logit per class.

use std::cell::RefCell;

use tch::{Device, IndexOp, Kind, Tensor};

use super::blocks::{Builder, Conv, Pointwise};
use super::plan::{BINS, Plan, STRIDES};
use crate::weights::Role;

/// What the head says about every anchor; anchors go level by level from stride 8, row by row in each.
#[derive(Debug)]
pub struct Prediction {
    /// `[B, A, 64]`: logits of the 16 bins of the sides left, top, right, bottom.
    pub boxes: Tensor,
    /// `[B, A, classes]`: class logits.
    pub scores: Tensor,
    /// Where the anchors are.
    pub anchors: Anchors,
}

/// The anchors' places.
#[derive(Debug)]
pub struct Anchors {
    /// `[A, 2]`: x and y of the centres, in cells of their level.
    pub centers: Tensor,
    /// `[A, 1]`: pixels per cell.
    pub strides: Tensor,
    /// Rows and columns of each level.
    pub grid: [(i64, i64); 3],
}

impl Anchors {
    /// Anchors of levels with so many rows and columns.
    pub fn new(grid: [(i64, i64); 3], device: Device) -> Self {
        let options = (Kind::Float, device);
        let mut centers = Vec::with_capacity(3);
        let mut strides = Vec::with_capacity(3);
        for ((rows, columns), stride) in grid.into_iter().zip(STRIDES) {
            let y = (Tensor::arange(rows, options) + 0.5).view([rows, 1]).expand([rows, columns], false);
            let x =
                (Tensor::arange(columns, options) + 0.5).view([1, columns]).expand([rows, columns], false);
            centers.push(Tensor::stack(&[x, y], 2).view([-1, 2]));
            strides.push(Tensor::full([rows * columns, 1], stride, options));
        }
        Self { centers: Tensor::cat(&centers, 0), strides: Tensor::cat(&strides, 0), grid }
    }

    /// The same tensors once more.
    fn share(&self) -> Self {
        Self { centers: self.centers.shallow_clone(), strides: self.strides.shallow_clone(), grid: self.grid }
    }
}

/// Distances from an anchor to its box's sides: the expectation over the bins.
///
/// `boxes`: `[..., 64]` logits; `bins`: `[16]`, the values 0 to 15. Returns `[..., 4]` in cells.
pub fn distances(boxes: &Tensor, bins: &Tensor) -> Tensor {
    let mut shape = boxes.size();
    shape.pop();
    shape.extend([4, BINS]);
    boxes.reshape(&shape).softmax(-1, Kind::Float).matmul(bins)
}

/// Corners of the boxes that lie at `distances` (left, top, right, bottom) around `centers`.
///
/// `centers`: `[..., 2]`, `distances`: `[..., 4]`, both in cells. Returns `[..., 4]`, `xyxy` in cells.
pub fn corners(centers: &Tensor, distances: &Tensor) -> Tensor {
    let parts = distances.chunk(2, -1);
    Tensor::cat(&[centers - &parts[0], centers + &parts[1]], -1)
}

/// The two branches of a level: three convolutions each.
#[derive(Debug)]
struct Level {
    boxes: (Conv, Conv, Pointwise),
    scores: (Conv, Conv, Pointwise),
}

/// The detection head: the layer after the last one of the plan.
#[derive(Debug)]
pub struct Head {
    levels: Vec<Level>,
    /// `[16]`: the values of the bins.
    bins: Tensor,
    classes: i64,
    /// The newest batch's, since the next one mostly has its shape: making them takes a GPU some twenty launches.
    anchors: RefCell<Option<Anchors>>,
}

/// Initial bias of the box branches.
const BOX_BIAS: f64 = 2.0;

impl Head {
    /// Adds the weights to `builder`.
    pub fn new(builder: &mut Builder, plan: &Plan) -> Self {
        let path = builder.enter(plan.layers.len());
        let head = plan.head;
        let mut branches = |name: &str, hidden: i64, output: i64, bias: fn(f64, f64) -> f64| {
            let levels = head.inputs.into_iter().zip(STRIDES).enumerate();
            levels
                .map(|(at, (input, stride))| {
                    let path = format!("{path}.{name}.{at}");
                    let bias = bias(output as f64, stride as f64);
                    (
                        Conv::new(builder, &format!("{path}.0"), [input, hidden, 3], 1),
                        Conv::new(builder, &format!("{path}.1"), [hidden, hidden, 3], 1),
                        Pointwise::new(builder, &format!("{path}.2"), hidden, output, bias),
                    )
                })
                .collect::<Vec<_>>()
        };
        let boxes = branches("cv2", head.box_channels, 4 * BINS, |_, _| BOX_BIAS);
        // About five objects in an image of 640 pixels.
        let prior = |classes: f64, stride: f64| (5.0 / classes / (640.0 / stride).powi(2)).ln();
        let scores = branches("cv3", head.class_channels, head.classes, prior);
        let bins = Tensor::arange(BINS, (Kind::Float, Device::Cpu)).view([1, BINS, 1, 1]);
        let bins = builder.keep(format!("{path}.dfl.conv.weight"), Role::Constant, &bins).view([BINS]);
        let levels = boxes.into_iter().zip(scores).map(|(boxes, scores)| Level { boxes, scores }).collect();
        Self { levels, bins, classes: head.classes, anchors: RefCell::new(None) }
    }

    /// `[16]`: the values of the bins.
    pub const fn bins(&self) -> &Tensor {
        &self.bins
    }

    /// `maps`: `[B, channels, H, W]` at strides 8, 16 and 32.
    pub fn forward(&self, maps: &[Tensor; 3], train: bool) -> Prediction {
        let mut boxes = Vec::with_capacity(3);
        let mut scores = Vec::with_capacity(3);
        let mut grid = [(0, 0); 3];
        for ((level, map), cells) in self.levels.iter().zip(maps).zip(&mut grid) {
            let size = map.size();
            *cells = (size[2], size[3]);
            boxes.push(rows(&branch(&level.boxes, map, train), 4 * BINS));
            scores.push(rows(&branch(&level.scores, map, train), self.classes));
        }
        let anchors = self.anchors(grid, maps[0].device());
        Prediction { boxes: Tensor::cat(&boxes, 1), scores: Tensor::cat(&scores, 1), anchors }
    }

    fn anchors(&self, grid: [(i64, i64); 3], device: Device) -> Anchors {
        let mut newest = self.anchors.borrow_mut();
        match newest.as_ref().filter(|known| known.grid == grid && known.centers.device() == device) {
            Some(known) => known.share(),
            None => newest.insert(Anchors::new(grid, device)).share(),
        }
    }

    /// Boxes and class scores for every anchor, without gradient.
    ///
    /// Returns `[B, 4 + classes, A]` float: centre x, centre y, width, height in pixels of the input, then
    /// the scores in 0 to 1.
    pub fn decode(&self, prediction: &Prediction) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let scores = prediction.scores.to_kind(Kind::Float).sigmoid();
        Tensor::cat(&[self.decode_boxes(prediction), scores], 2).transpose(1, 2).contiguous()
    }

    /// The boxes of [`Head::decode`], anchor by anchor: `[B, A, 4]` float.
    pub fn decode_boxes(&self, prediction: &Prediction) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let anchors = &prediction.anchors;
        let distances = distances(&prediction.boxes.to_kind(Kind::Float), &self.bins);
        let (near, far) = (distances.i((.., .., ..2)), distances.i((.., .., 2..)));
        let corner = &anchors.centers - &near;
        let opposite = &anchors.centers + &far;
        let centers = (&corner + &opposite) / 2.0 * &anchors.strides;
        let sizes = (opposite - corner) * &anchors.strides;
        Tensor::cat(&[centers, sizes], 2)
    }
}

fn branch((first, second, last): &(Conv, Conv, Pointwise), map: &Tensor, train: bool) -> Tensor {
    last.forward(&second.forward(&first.forward(map, train), train))
}

/// `[B, C, H, W]` to `[B, H * W, C]`.
fn rows(map: &Tensor, channels: i64) -> Tensor {
    let size = map.size();
    map.permute([0, 2, 3, 1]).reshape([size[0], size[2] * size[3], channels])
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;
    use crate::model::Model;

    #[test]
    fn anchors_are_made_anew_for_another_shape_and_only_then() {
        let model = Model::new(ModelScale::N, 2, 0, Device::Cpu);
        let anchors = |height, width| {
            model.forward(&Tensor::zeros([1, 3, height, width], (Kind::Float, Device::Cpu)), false).anchors
        };
        let (first, again, other) = (anchors(64, 96), anchors(64, 96), anchors(96, 64));
        assert_eq!(again.centers.data_ptr(), first.centers.data_ptr());
        assert_eq!((first.grid, other.grid), ([(8, 12), (4, 6), (2, 3)], [(12, 8), (6, 4), (3, 2)]));
        for found in [again, other] {
            let expected = Anchors::new(found.grid, Device::Cpu);
            assert!(found.centers.equal(&expected.centers) && found.strides.equal(&expected.strides));
        }
    }
}
