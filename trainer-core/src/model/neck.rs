//! Layers 10 to 21: mixes the three feature maps, first from coarse to fine, then back.

use tch::Tensor;

use super::backbone::Block;
use super::blocks::Builder;
use super::scale::Plan;

/// Layers 10 to 21.
#[derive(Debug)]
pub struct Neck {
    /// Layer 12, at stride 16.
    down16: Block,
    /// Layer 15, at stride 8: the first output.
    out8: Block,
    /// Layer 16, from stride 8 to 16.
    shrink8: Block,
    /// Layer 18, at stride 16: the second output.
    out16: Block,
    /// Layer 19, from stride 16 to 32.
    shrink16: Block,
    /// Layer 21, at stride 32: the third output.
    out32: Block,
}

impl Neck {
    /// Adds the weights to `builder`.
    pub fn new(builder: &mut Builder, plan: &Plan) -> Self {
        let mut block = |at: usize| {
            Block::new(builder, &plan.layers[at]).expect("layers 12, 15, 16, 18, 19 and 21 have weights")
        };
        Self {
            down16: block(12),
            out8: block(15),
            shrink8: block(16),
            out16: block(18),
            shrink16: block(19),
            out32: block(21),
        }
    }

    /// Maps at strides 8, 16 and 32, in and out.
    pub fn forward(&self, [p3, p4, p5]: &[Tensor; 3], train: bool) -> [Tensor; 3] {
        let mid = self.down16.forward(&Tensor::cat(&[double(p5), p4.shallow_clone()], 1), train);
        let fine = self.out8.forward(&Tensor::cat(&[double(&mid), p3.shallow_clone()], 1), train);
        let back = self.shrink8.forward(&fine, train);
        let middle = self.out16.forward(&Tensor::cat(&[back, mid], 1), train);
        let back = self.shrink16.forward(&middle, train);
        let coarse = self.out32.forward(&Tensor::cat(&[back, p5.shallow_clone()], 1), train);
        [fine, middle, coarse]
    }
}

/// Twice the size, nearest neighbour.
fn double(x: &Tensor) -> Tensor {
    let size = x.size();
    x.upsample_nearest2d([2 * size[2], 2 * size[3]], None, None)
}
