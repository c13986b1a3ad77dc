//! The attributes that every `torch.nn.Module` has in a pickle, and the modules that are always the same.

use super::super::pickle::Py;
use crate::import::RawTensor;

/// A class: its Python module and its name.
pub type Class = (&'static str, &'static str);

/// An object's attributes, in order.
pub type Attributes<'a> = Vec<(Py<'a>, Py<'a>)>;

/// The classes of a YOLOv8.
pub mod class {
    use super::Class;

    /// Convolution, batch normalisation, activation.
    pub const CONV: Class = ("ultralytics.nn.modules.conv", "Conv");
    /// Joins along the channels.
    pub const CONCAT: Class = ("ultralytics.nn.modules.conv", "Concat");
    /// Cross-stage block.
    pub const C2F: Class = ("ultralytics.nn.modules.block", "C2f");
    /// A link of a C2f block's chain: two convolutions.
    pub const BOTTLENECK: Class = ("ultralytics.nn.modules.block", "Bottleneck");
    /// Spatial pyramid pooling.
    pub const SPPF: Class = ("ultralytics.nn.modules.block", "SPPF");
    /// Expectation over the bins of a box side.
    pub const DFL: Class = ("ultralytics.nn.modules.block", "DFL");
    /// The detection head.
    pub const DETECT: Class = ("ultralytics.nn.modules.head", "Detect");
    /// Batch normalisation.
    pub const BATCH_NORM: Class = ("torch.nn.modules.batchnorm", "BatchNorm2d");
    /// Twice the size, nearest neighbour.
    pub const UPSAMPLE: Class = ("torch.nn.modules.upsampling", "Upsample");
}

/// Names with their modules.
pub fn modules<'a, const N: usize>(inner: [(&str, Py<'a>); N]) -> Attributes<'a> {
    Py::named(inner)
}

/// A module's attributes, those of its class left out.
pub fn module<'a, const P: usize, const B: usize>(
    parameters: [(&str, Py<'a>); P],
    buffers: [(&str, Py<'a>); B],
    inner: Attributes<'a>,
) -> Attributes<'a> {
    const HOOKS: [&str; 11] = [
        "_backward_pre_hooks",
        "_backward_hooks",
        "_forward_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called",
        "_forward_pre_hooks",
        "_forward_pre_hooks_with_kwargs",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
    ];
    let mut attributes = Py::named([
        ("training", Py::Bool(false)),
        ("_parameters", Py::Dict(Py::named(parameters))),
        ("_buffers", Py::Dict(Py::named(buffers))),
        ("_non_persistent_buffers_set", Py::Set),
        ("_is_full_backward_hook", Py::None),
    ]);
    let hooks = HOOKS.map(|name| (Py::text(name), Py::Ordered(Vec::new())));
    attributes.extend(hooks);
    attributes.push((Py::text("_modules"), Py::Dict(inner)));
    attributes
}

/// Modules under the names `0`, `1` …
fn numbered<'a>(inner: impl IntoIterator<Item = Py<'a>>) -> Attributes<'a> {
    let named = (0..).zip(inner).map(|(at, value): (usize, _)| (Py::text(at.to_string()), value));
    module([], [], named.collect())
}

/// Modules one after the other.
pub fn sequence<'a>(inner: impl IntoIterator<Item = Py<'a>>) -> Py<'a> {
    Py::Object("torch.nn.modules.container", "Sequential", numbered(inner))
}

/// Modules side by side.
pub fn list<'a>(inner: impl IntoIterator<Item = Py<'a>>) -> Py<'a> {
    Py::Object("torch.nn.modules.container", "ModuleList", numbered(inner))
}

/// A pair of equal numbers: `(side, side)`.
fn square(side: i64) -> Py<'static> {
    Py::ints([side, side])
}

/// A convolution.
pub struct Conv2d<'a> {
    /// The kernel: `[out, in, side, side]`.
    pub weight: &'a RawTensor,
    /// The bias: `[out]`.
    pub bias: Option<&'a RawTensor>,
    /// Channels in and out.
    pub channels: (Py<'a>, Py<'a>),
    /// Pixels of the kernel's side.
    pub side: usize,
    /// Pixels between two outputs.
    pub stride: i64,
}

impl<'a> Conv2d<'a> {
    /// The convolution as a Python object.
    pub fn object(self) -> Py<'a> {
        let side = i64::try_from(self.side).unwrap_or(i64::MAX);
        let padding = side / 2;
        let parameters =
            [("weight", Py::Parameter(self.weight)), ("bias", self.bias.map_or(Py::None, Py::Parameter))];
        let mut attributes = module(parameters, [], Vec::new());
        attributes.extend(Py::named([
            ("in_channels", self.channels.0),
            ("out_channels", self.channels.1),
            ("kernel_size", square(side)),
            ("stride", square(self.stride)),
            ("padding", square(padding)),
            ("dilation", square(1)),
            ("transposed", Py::Bool(false)),
            ("output_padding", square(0)),
            ("groups", Py::Int(1)),
            ("padding_mode", Py::text("zeros")),
            ("_reversed_padding_repeated_twice", Py::ints([padding; 4])),
        ]));
        Py::Object("torch.nn.modules.conv", "Conv2d", attributes)
    }
}

/// The activation.
pub fn silu<'a>() -> Py<'a> {
    let mut attributes = module([], [], Vec::new());
    attributes.extend(Py::named([("inplace", Py::Bool(true))]));
    Py::Object("torch.nn.modules.activation", "SiLU", attributes)
}

/// The pool of the pyramid.
pub fn max_pool<'a>() -> Py<'a> {
    let mut attributes = module([], [], Vec::new());
    attributes.extend(Py::named([
        ("kernel_size", Py::Int(5)),
        ("stride", Py::Int(1)),
        ("padding", Py::Int(2)),
        ("dilation", Py::Int(1)),
        ("return_indices", Py::Bool(false)),
        ("ceil_mode", Py::Bool(false)),
    ]));
    Py::Object("torch.nn.modules.pooling", "MaxPool2d", attributes)
}

/// Attributes of [`class::UPSAMPLE`].
pub fn upsample<'a>() -> Attributes<'a> {
    let mut attributes = module([], [], Vec::new());
    attributes.extend(Py::named([
        ("name", Py::text("Upsample")),
        ("size", Py::None),
        ("scale_factor", Py::Float(2.0)),
        ("mode", Py::text("nearest")),
        ("align_corners", Py::None),
        ("recompute_scale_factor", Py::None),
    ]));
    attributes
}
