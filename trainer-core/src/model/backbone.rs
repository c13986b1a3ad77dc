//! Layers 0 to 9: from the image to three feature maps.

use tch::Tensor;

use super::blocks::{Builder, C2f, Conv, Sppf};
use super::scale::{Kind, Layer, Plan};

/// One layer that has weights.
#[derive(Debug)]
pub(super) enum Block {
    Conv(Conv),
    C2f(C2f),
    Sppf(Sppf),
}

impl Block {
    /// `None` for a layer without weights.
    pub(super) fn new(builder: &mut Builder, layer: &Layer) -> Option<Self> {
        let path = builder.enter(layer.index);
        let (input, output) = (layer.input, layer.output);
        match layer.kind {
            Kind::Conv => Some(Self::Conv(Conv::new(builder, &path, [input, output, 3], 2))),
            Kind::C2f { hidden, repeats, shortcut } => {
                let sizes = [input, output, hidden];
                Some(Self::C2f(C2f::new(builder, &path, sizes, repeats, shortcut)))
            }
            Kind::Sppf { hidden } => Some(Self::Sppf(Sppf::new(builder, &path, [input, output, hidden]))),
            Kind::Upsample | Kind::Concat => None,
        }
    }

    pub(super) fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        match self {
            Self::Conv(block) => block.forward(x, train),
            Self::C2f(block) => block.forward(x, train),
            Self::Sppf(block) => block.forward(x, train),
        }
    }
}

/// Number of layers in the backbone.
const DEPTH: usize = 10;

/// Layers 0 to 9.
#[derive(Debug)]
pub struct Backbone {
    blocks: Vec<Block>,
}

impl Backbone {
    /// Adds the weights to `builder`.
    pub fn new(builder: &mut Builder, plan: &Plan) -> Self {
        let layers = &plan.layers[..DEPTH];
        Self { blocks: layers.iter().filter_map(|layer| Block::new(builder, layer)).collect() }
    }

    /// `x`: `[B, 3, H, W]`, RGB in 0 to 1, H and W multiples of 32. Returns the outputs of layers 4, 6 and
    /// 9: maps at strides 8, 16 and 32.
    pub fn forward(&self, x: &Tensor, train: bool) -> [Tensor; 3] {
        let mut y = x.shallow_clone();
        let mut outputs = Vec::with_capacity(DEPTH);
        for block in &self.blocks {
            y = block.forward(&y, train);
            outputs.push(y.shallow_clone());
        }
        [4, 6, 9].map(|at: usize| outputs[at].shallow_clone())
    }
}
