//! The blocks that backbone, neck and head are made of, and the builder that names their weights.

use tch::{Device, Kind, Tensor};

use crate::weights::{Entry, Role, Weights};

/// The epsilon of every batch normalisation.
pub const BN_EPS: f64 = 1e-3;
/// Share of a new batch in the running statistics.
pub const BN_MOMENTUM: f64 = 0.03;

/// The memory format of tensors of four dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// PyTorch's `channels_last`: all channels of a pixel together. Convolutions are a quarter faster on a CPU.
    #[default]
    ChannelsLast,
    /// PyTorch's `contiguous_format`: all pixels of a channel together, as the reference computes. Sums come in its order.
    ChannelsFirst,
}

impl Layout {
    /// `tensor` in this layout; of other than four dimensions, contiguous.
    pub fn apply(self, tensor: &Tensor) -> Tensor {
        if tensor.dim() == 4 && self == Self::ChannelsLast {
            tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
        } else {
            tensor.contiguous()
        }
    }
}

/// Creates tensors with torch's default initialisation and keeps them under their names.
#[derive(Debug)]
pub struct Builder {
    weights: Weights,
    device: Device,
    /// Layers below this number keep their weights.
    freeze: usize,
    layer: usize,
    layout: Layout,
}

impl Builder {
    /// Tensors go to `device`; layers 0 to `freeze - 1` are frozen.
    pub fn new(device: Device, freeze: usize, layout: Layout) -> Self {
        Self { weights: Weights::default(), device, freeze, layer: 0, layout }
    }

    /// Says which layer the next tensors belong to, and returns its path.
    pub fn enter(&mut self, layer: usize) -> String {
        self.layer = layer;
        format!("model.{layer}")
    }

    /// All tensors, in the order of their making.
    pub fn finish(self) -> Weights {
        self.weights
    }

    fn is_frozen(&self) -> bool {
        self.layer < self.freeze
    }

    /// Keeps `tensor` under `name`, on the builder's device.
    pub fn keep(&mut self, name: String, role: Role, tensor: &Tensor) -> Tensor {
        let frozen = self.is_frozen();
        let device = if role == Role::Counter { Device::Cpu } else { self.device };
        let mut tensor = self.layout.apply(&tensor.to_device(device));
        if role.is_trained() && !frozen {
            tensor = tensor.set_requires_grad(true);
        }
        self.weights.push(Entry { name, role, frozen, tensor: tensor.shallow_clone() });
        tensor
    }

    /// Weights of a convolution: uniform within one over the root of a kernel's inputs (Kaiming, a = sqrt 5).
    fn kernel(&mut self, name: String, [output, input, side]: [i64; 3]) -> Tensor {
        let bound = 1.0 / ((input * side * side) as f64).sqrt();
        let values = Tensor::empty([output, input, side, side], (Kind::Float, Device::Cpu));
        let values = tch::no_grad(|| values.shallow_clone().uniform_(-bound, bound));
        self.keep(name, Role::Weight, &values)
    }

    fn filled(&mut self, name: String, role: Role, size: i64, value: f64) -> Tensor {
        self.keep(name, role, &Tensor::full([size], value, (Kind::Float, Device::Cpu)))
    }
}

/// Batch normalisation.
#[derive(Debug)]
pub struct Norm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    counter: Tensor,
    frozen: bool,
}

impl Norm {
    fn new(builder: &mut Builder, path: &str, channels: i64) -> Self {
        Self {
            weight: builder.filled(format!("{path}.weight"), Role::Norm, channels, 1.0),
            bias: builder.filled(format!("{path}.bias"), Role::Bias, channels, 0.0),
            running_mean: builder.filled(format!("{path}.running_mean"), Role::Statistic, channels, 0.0),
            running_var: builder.filled(format!("{path}.running_var"), Role::Statistic, channels, 1.0),
            counter: builder.keep(
                format!("{path}.num_batches_tracked"),
                Role::Counter,
                &Tensor::zeros([0; 0], (Kind::Int64, Device::Cpu)),
            ),
            frozen: builder.is_frozen(),
        }
    }

    /// Normalises by the batch's statistics while it learns, and by the running ones otherwise.
    ///
    /// One value of each channel has no variance: PyTorch's Python layer refuses it, libtorch divides by zero
    /// values and the running variance is no number from then on. It is normalised by the running statistics,
    /// which stay as they are. So a batch of one image of 32 pixels trains: its deepest map is one pixel.
    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let train = train && !self.frozen && x.numel() > self.weight.numel();
        if train {
            let _ = self.counter.shallow_clone().g_add_scalar_(1);
        }
        x.batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            train,
            BN_MOMENTUM,
            BN_EPS,
            true,
        )
    }
}

/// Convolution without bias, batch normalisation, SiLU.
#[derive(Debug)]
pub struct Conv {
    weight: Tensor,
    norm: Norm,
    stride: i64,
    padding: i64,
}

impl Conv {
    /// Padded so that stride 1 keeps the size.
    pub fn new(builder: &mut Builder, path: &str, sizes: [i64; 3], stride: i64) -> Self {
        let [input, output, side] = sizes;
        Self {
            weight: builder.kernel(format!("{path}.conv.weight"), [output, input, side]),
            norm: Norm::new(builder, &format!("{path}.bn"), output),
            stride,
            padding: side / 2,
        }
    }

    /// `x`: `[B, input, H, W]`; returns `[B, output, H / stride, W / stride]`.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        let y = x.conv2d(&self.weight, None::<Tensor>, stride, padding, [1, 1], 1);
        self.norm.forward(&y, train).silu()
    }
}

/// A 1x1 convolution with bias and nothing else.
#[derive(Debug)]
pub struct Pointwise {
    weight: Tensor,
    bias: Tensor,
}

impl Pointwise {
    /// `bias` is every output's initial bias.
    pub fn new(builder: &mut Builder, path: &str, input: i64, output: i64, bias: f64) -> Self {
        Self {
            weight: builder.kernel(format!("{path}.weight"), [output, input, 1]),
            bias: builder.filled(format!("{path}.bias"), Role::Bias, output, bias),
        }
    }

    /// `x`: `[B, input, H, W]`; returns `[B, output, H, W]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.conv2d(&self.weight, Some(&self.bias), [1, 1], [0, 0], [1, 1], 1)
    }
}

/// Two 3x3 convolutions, with the input added if so wished.
#[derive(Debug)]
struct Bottleneck {
    first: Conv,
    second: Conv,
    shortcut: bool,
}

impl Bottleneck {
    fn new(builder: &mut Builder, path: &str, channels: i64, shortcut: bool) -> Self {
        let sizes = [channels, channels, 3];
        Self {
            first: Conv::new(builder, &format!("{path}.cv1"), sizes, 1),
            second: Conv::new(builder, &format!("{path}.cv2"), sizes, 1),
            shortcut,
        }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let y = self.second.forward(&self.first.forward(x, train), train);
        if self.shortcut { x + y } else { y }
    }
}

/// Splits its input in two halves, chains bottlenecks on the last, and joins everything that came up.
#[derive(Debug)]
pub struct C2f {
    entry: Conv,
    exit: Conv,
    chain: Vec<Bottleneck>,
}

impl C2f {
    /// `sizes`: channels in, out, and of a bottleneck.
    pub fn new(builder: &mut Builder, path: &str, sizes: [i64; 3], repeats: usize, shortcut: bool) -> Self {
        let [input, output, hidden] = sizes;
        let width = (2 + i64::try_from(repeats).unwrap_or(0)) * hidden;
        Self {
            entry: Conv::new(builder, &format!("{path}.cv1"), [input, 2 * hidden, 1], 1),
            exit: Conv::new(builder, &format!("{path}.cv2"), [width, output, 1], 1),
            chain: (0..repeats)
                .map(|at| Bottleneck::new(builder, &format!("{path}.m.{at}"), hidden, shortcut))
                .collect(),
        }
    }

    /// `x`: `[B, input, H, W]`; returns `[B, output, H, W]`.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let entry = self.entry.forward(x, train);
        let last = entry.chunk(2, 1).pop().expect("chunk(2) of an even number of channels gives two");
        let mut parts = vec![entry];
        let mut y = last;
        for block in &self.chain {
            y = block.forward(&y, train);
            parts.push(y.shallow_clone());
        }
        self.exit.forward(&Tensor::cat(&parts, 1), train)
    }
}

/// Spatial pyramid pooling: three chained 5x5 max-pools.
#[derive(Debug)]
pub struct Sppf {
    entry: Conv,
    exit: Conv,
}

impl Sppf {
    /// `sizes`: channels in, out, and of the pooled map.
    pub fn new(builder: &mut Builder, path: &str, [input, output, hidden]: [i64; 3]) -> Self {
        Self {
            entry: Conv::new(builder, &format!("{path}.cv1"), [input, hidden, 1], 1),
            exit: Conv::new(builder, &format!("{path}.cv2"), [4 * hidden, output, 1], 1),
        }
    }

    /// `x`: `[B, input, H, W]`; returns `[B, output, H, W]`.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let mut parts = vec![self.entry.forward(x, train)];
        for at in 0..3 {
            let pooled = parts[at].max_pool2d([5, 5], [1, 1], [2, 2], [1, 1], false);
            parts.push(pooled);
        }
        self.exit.forward(&Tensor::cat(&parts, 1), train)
    }
}
