//! What a YOLOv8 of some scale is made of: every layer's channels, and what they cost. Plain numbers.
//!
//! Must not know libtorch: `info` prints from here, and the blocks are built from here.

use trainyard_types::ModelScale;

/// Bins of the distribution that a box side is predicted with.
pub const BINS: i64 = 16;
/// Pixels per cell at the three levels of the head.
pub const STRIDES: [i64; 3] = [8, 16, 32];

/// What a layer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A 3x3 convolution with stride 2, batch normalisation, SiLU.
    Conv,
    /// Cross-stage block with two convolutions and a chain of bottlenecks.
    C2f {
        /// Channels of a bottleneck.
        hidden: i64,
        /// Bottlenecks.
        repeats: usize,
        /// Whether a bottleneck adds its input to its output.
        shortcut: bool,
    },
    /// Spatial pyramid pooling, three chained 5x5 max-pools.
    Sppf {
        /// Channels that are pooled.
        hidden: i64,
    },
    /// Nearest neighbour, twice the size.
    Upsample,
    /// Along the channels.
    Concat,
}

impl Kind {
    /// As layer tables print it.
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

/// One of the layers 0 to 21; layer 22 is the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its number, which names its weights: `model.{index}`.
    pub index: usize,
    /// The layers whose outputs it takes; empty for the image.
    pub from: Vec<usize>,
    /// What it does.
    pub kind: Kind,
    /// Channels in.
    pub input: i64,
    /// Channels out.
    pub output: i64,
    /// Image pixels per cell of its output.
    pub stride: i64,
}

/// The detection head's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadPlan {
    /// Channels in, per level.
    pub inputs: [i64; 3],
    /// Channels inside the box branches.
    pub box_channels: i64,
    /// Channels inside the class branches.
    pub class_channels: i64,
    /// Classes.
    pub classes: i64,
}

/// A whole model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Which scale.
    pub scale: ModelScale,
    /// Layers 0 to 21.
    pub layers: Vec<Layer>,
    /// Layer 22.
    pub head: HeadPlan,
}

/// Depth multiple, width multiple, and the channels that the multiple is applied to at most.
const fn multiples(scale: ModelScale) -> (f64, f64, i64) {
    match scale {
        ModelScale::N => (0.33, 0.25, 1024),
        ModelScale::S => (0.33, 0.50, 1024),
        ModelScale::M => (0.67, 0.75, 768),
        ModelScale::L => (1.0, 1.0, 512),
        ModelScale::X => (1.0, 1.25, 512),
    }
}

/// Channels of a layer whose published width is `base`: a multiple of 8.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "at most 1280")]
fn channels(scale: ModelScale, base: i64) -> i64 {
    let (_, width, most) = multiples(scale);
    (base.min(most) as f64 * width / 8.0).ceil() as i64 * 8
}

/// Bottlenecks of a layer whose published depth is `base`.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most 6"
)]
fn repeats(scale: ModelScale, base: usize) -> usize {
    let (depth, _, _) = multiples(scale);
    ((base as f64 * depth).round_ties_even() as usize).max(1)
}

/// A row of the published table: (sources, what, base channels, base repeats, shortcut).
type Row = (&'static [usize], &'static str, i64, usize, bool);

const TABLE: [Row; 22] = [
    (&[], "Conv", 64, 0, false),
    (&[0], "Conv", 128, 0, false),
    (&[1], "C2f", 128, 3, true),
    (&[2], "Conv", 256, 0, false),
    (&[3], "C2f", 256, 6, true),
    (&[4], "Conv", 512, 0, false),
    (&[5], "C2f", 512, 6, true),
    (&[6], "Conv", 1024, 0, false),
    (&[7], "C2f", 1024, 3, true),
    (&[8], "SPPF", 1024, 0, false),
    (&[9], "Upsample", 0, 0, false),
    (&[10, 6], "Concat", 0, 0, false),
    (&[11], "C2f", 512, 3, false),
    (&[12], "Upsample", 0, 0, false),
    (&[13, 4], "Concat", 0, 0, false),
    (&[14], "C2f", 256, 3, false),
    (&[15], "Conv", 256, 0, false),
    (&[16, 12], "Concat", 0, 0, false),
    (&[17], "C2f", 512, 3, false),
    (&[18], "Conv", 512, 0, false),
    (&[19, 9], "Concat", 0, 0, false),
    (&[20], "C2f", 1024, 3, false),
];

impl Plan {
    /// The published architecture at that scale, for so many classes.
    pub fn new(scale: ModelScale, classes: i64) -> Self {
        let mut layers: Vec<Layer> = Vec::with_capacity(TABLE.len());
        for (index, (from, what, base, depth, shortcut)) in TABLE.into_iter().enumerate() {
            let input = if from.is_empty() { 3 } else { from.iter().map(|&at| layers[at].output).sum() };
            let before = from.first().map_or(1, |&at| layers[at].stride);
            let wide = channels(scale, base);
            let (kind, output, stride) = match what {
                "Conv" => (Kind::Conv, wide, before * 2),
                "C2f" => {
                    (Kind::C2f { hidden: wide / 2, repeats: repeats(scale, depth), shortcut }, wide, before)
                }
                "SPPF" => (Kind::Sppf { hidden: input / 2 }, wide, before),
                "Upsample" => (Kind::Upsample, input, before / 2),
                _ => (Kind::Concat, input, before),
            };
            layers.push(Layer { index, from: from.to_vec(), kind, input, output, stride });
        }
        let inputs = [15, 18, 21].map(|at: usize| layers[at].output);
        let box_channels = 16.max(inputs[0] / 4).max(BINS * 4);
        let class_channels = inputs[0].max(classes.min(100));
        Self { scale, layers, head: HeadPlan { inputs, box_channels, class_channels, classes } }
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

    /// Parameters in all.
    pub fn parameters(&self) -> i64 {
        self.parameters_by_layer().iter().sum()
    }

    /// Billions of floating point operations for one square image of `side` pixels, as YOLO papers count:
    /// two per multiply-add of a convolution, eight per output of a batch normalisation.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
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
                Kind::Conv => add(layer.input, layer.output, 3),
                Kind::C2f { hidden, repeats, .. } => {
                    add(layer.input, 2 * hidden, 1);
                    for _ in 0..2 * repeats {
                        add(hidden, hidden, 3);
                    }
                    let width = 2 + i64::try_from(repeats).unwrap_or(0);
                    add(width * hidden, layer.output, 1);
                }
                Kind::Sppf { hidden } => {
                    add(layer.input, hidden, 1);
                    add(4 * hidden, layer.output, 1);
                }
                Kind::Upsample | Kind::Concat => {}
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
