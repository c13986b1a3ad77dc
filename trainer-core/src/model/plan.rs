//! What a model of some scale is made of: every layer's channels, and what they cost. Plain numbers.
//!
//! Must not know libtorch: `info` prints from here, and the blocks are built from here.

use trainyard_types::ModelScale;

use super::family::{Family, Module, Row};

/// Bins of the distribution that a box side is predicted with.
pub const BINS: i64 = 16;
/// Pixels per cell at the three levels of the head.
pub const STRIDES: [i64; 3] = [8, 16, 32];

/// What a layer does: a [`Module`] at the model's scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// A 3x3 convolution with stride 2, batch normalisation, SiLU.
    Conv,
    /// Cross-stage block with two convolutions and a chain of bottlenecks.
    C2f {
        /// Channels of a bottleneck.
        hidden: i64,
        /// How many bottlenecks are chained.
        repeats: usize,
        /// Whether a bottleneck adds its input to its output.
        shortcut: bool,
    },
    /// Spatial pyramid pooling, three chained 5x5 max-pools.
    Sppf {
        /// Channels that are pooled.
        hidden: i64,
    },
    /// Twice the size, nearest neighbour.
    Upsample,
    /// All inputs along the channels.
    Concat,
}

impl LayerKind {
    /// The name that layer tables print.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conv => "Conv",
            Self::C2f { .. } => "C2f",
            Self::Sppf { .. } => "SPPF",
            Self::Upsample => "Upsample",
            Self::Concat => "Concat",
        }
    }
}

/// One of the layers before the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its number, which names its weights: `model.{index}`.
    pub index: usize,
    /// The layers whose outputs it takes; empty for the image.
    pub from: Vec<usize>,
    /// The layer itself.
    pub kind: LayerKind,
    /// Channels in.
    pub input: i64,
    /// Channels out.
    pub output: i64,
    /// Image pixels per cell of its output.
    pub stride: i64,
}

/// The detection head's inputs and channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadPlan {
    /// The layers whose outputs it takes, by level.
    pub from: [usize; 3],
    /// Channels in, by level.
    pub inputs: [i64; 3],
    /// Channels inside the box branches.
    pub box_channels: i64,
    /// Channels inside the class branches.
    pub class_channels: i64,
    /// How many classes there are.
    pub classes: i64,
}

/// A whole model, as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The scale, which says the family, too.
    pub scale: ModelScale,
    /// All layers but the head.
    pub layers: Vec<Layer>,
    /// How many of them, from the first on, are the backbone.
    pub backbone: usize,
    /// The head: the layer after the last one.
    pub head: HeadPlan,
}

impl Layer {
    /// The layer of a row at some scale, whose inputs are among `before`.
    fn new(row: &Row, family: &Family, scale: ModelScale, before: &[Self]) -> Self {
        let multiples = (family.multiples)(scale);
        let from = row.from.to_vec();
        let input = if from.is_empty() { 3 } else { from.iter().map(|&at| before[at].output).sum() };
        let stride = from.first().map_or(1, |&at| before[at].stride);
        let (kind, output, stride) = match row.module {
            Module::Conv { channels } => (LayerKind::Conv, multiples.channels(channels), stride * 2),
            Module::C2f { channels, repeats, shortcut } => {
                let output = multiples.channels(channels);
                let repeats = multiples.repeats(repeats);
                (LayerKind::C2f { hidden: output / 2, repeats, shortcut }, output, stride)
            }
            Module::Sppf { channels } => {
                (LayerKind::Sppf { hidden: input / 2 }, multiples.channels(channels), stride)
            }
            Module::Upsample => (LayerKind::Upsample, input, stride / 2),
            Module::Concat => (LayerKind::Concat, input, stride),
        };
        Self { index: row.index, from, kind, input, output, stride }
    }
}

impl Plan {
    /// The published architecture at that scale, for so many classes.
    pub fn new(scale: ModelScale, classes: i64) -> Self {
        let family = Family::of(scale);
        let mut layers: Vec<Layer> = Vec::with_capacity(family.rows.len());
        for row in family.rows {
            layers.push(Layer::new(row, family, scale, &layers));
        }
        let from = family.head_from;
        let inputs = from.map(|at| layers[at].output);
        let box_channels = 16.max(inputs[0] / 4).max(BINS * 4);
        let class_channels = inputs[0].max(classes.min(100));
        let head = HeadPlan { from, inputs, box_channels, class_channels, classes };
        Self { scale, layers, backbone: family.backbone, head }
    }

    /// The layers whose outputs are needed by others than the next one, in order.
    pub fn saved(&self) -> Vec<usize> {
        let takes = |layer: &Layer, at: usize| layer.index != at + 1 && layer.from.contains(&at);
        let needed =
            |at: &usize| self.head.from.contains(at) || self.layers.iter().any(|layer| takes(layer, *at));
        (0..self.layers.len()).filter(needed).collect()
    }

    /// Parameters of every layer, the head last; the head's count includes the 16 constant bins.
    pub fn parameters_by_layer(&self) -> Vec<i64> {
        let convolutions = self.convolutions();
        let mut counts = vec![0; self.layers.len() + 1];
        for conv in &convolutions {
            counts[conv.layer] += conv.parameters();
        }
        counts[self.layers.len()] += BINS;
        counts
    }

    /// Parameters of the whole model.
    pub fn parameters(&self) -> i64 {
        self.parameters_by_layer().iter().sum()
    }

    /// Billions of floating point operations for one square image of `side` pixels, as YOLO papers count:
    /// two per multiply-add of a convolution, eight per output of a batch normalisation.
    pub fn gflops(&self, side: i64) -> f64 {
        let layers: i64 = self.convolutions().iter().map(|conv| conv.operations(side)).sum();
        let anchors: i64 = STRIDES.iter().map(|stride| (side / stride) * (side / stride)).sum();
        (layers + 2 * anchors * 4 * BINS) as f64 / 1e9
    }

    /// Every convolution but the constant one.
    fn convolutions(&self) -> Vec<Convolution> {
        let mut all = Vec::new();
        for layer in &self.layers {
            let mut add = |input, output, kernel| {
                let (layer, stride) = (layer.index, layer.stride);
                all.push(Convolution { layer, input, output, kernel, stride, normalised: true });
            };
            match layer.kind {
                LayerKind::Conv => add(layer.input, layer.output, 3),
                LayerKind::C2f { hidden, repeats, .. } => {
                    add(layer.input, 2 * hidden, 1);
                    for _ in 0..2 * repeats {
                        add(hidden, hidden, 3);
                    }
                    let width = 2 + i64::try_from(repeats).unwrap_or(0);
                    add(width * hidden, layer.output, 1);
                }
                LayerKind::Sppf { hidden } => {
                    add(layer.input, hidden, 1);
                    add(4 * hidden, layer.output, 1);
                }
                LayerKind::Upsample | LayerKind::Concat => {}
            }
        }
        let layer = self.layers.len();
        for (input, stride) in self.head.inputs.into_iter().zip(STRIDES) {
            let branches =
                [(self.head.box_channels, 4 * BINS), (self.head.class_channels, self.head.classes)];
            for (hidden, output) in branches {
                let plain = Convolution { layer, input, output: hidden, kernel: 3, stride, normalised: true };
                all.push(plain);
                all.push(Convolution { input: hidden, ..plain });
                all.push(Convolution { input: hidden, output, kernel: 1, normalised: false, ..plain });
            }
        }
        all
    }
}

/// A convolution with a square kernel, followed by a batch normalisation or with a bias.
#[derive(Debug, Clone, Copy)]
struct Convolution {
    layer: usize,
    input: i64,
    output: i64,
    kernel: i64,
    stride: i64,
    normalised: bool,
}

impl Convolution {
    const fn parameters(&self) -> i64 {
        let extra = if self.normalised { 2 } else { 1 };
        self.input * self.output * self.kernel * self.kernel + extra * self.output
    }

    const fn operations(&self, side: i64) -> i64 {
        let cells = (side / self.stride) * (side / self.stride);
        let normalisation = if self.normalised { 8 } else { 0 };
        cells * self.output * (2 * self.input * self.kernel * self.kernel + normalisation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_cost_are_the_published_ones() {
        let all = ModelScale::ALL.map(|scale| {
            let plan = Plan::new(scale, 80);
            (plan.parameters(), (plan.gflops(640) * 1000.0).round(), Plan::new(scale, 3).parameters())
        });
        let published = [
            (3_157_200, 8_855.0, 3_011_433),
            (11_166_560, 28_812.0, 11_136_761),
            (25_902_640, 79_314.0, 25_858_057),
            (43_691_520, 165_735.0, 43_632_153),
            (68_229_648, 258_537.0, 68_155_497),
        ];
        assert_eq!(all, published);
    }
}
