//! The YOLOv8 detector: backbone, neck, head, and their weights under Ultralytics' names.

pub mod backbone;
pub mod blocks;
pub mod head;
pub mod neck;
pub mod scale;

use tch::{Device, Tensor};
use trainyard_types::ModelScale;

use self::backbone::Backbone;
use self::blocks::Builder;
use self::head::{Head, Prediction};
use self::neck::Neck;
use self::scale::Plan;
use crate::weights::{Tensors, Weights, WeightsError};

pub use self::blocks::Layout;

/// A detector on some device.
#[derive(Debug)]
pub struct Model {
    backbone: Backbone,
    neck: Neck,
    head: Head,
    weights: Weights,
    plan: Plan,
    device: Device,
    layout: Layout,
}

impl Model {
    /// A fresh model; its weights are a function of libtorch's seed (`tch::manual_seed`).
    ///
    /// `freeze`: so many of the first layers keep their weights and statistics.
    pub fn new(scale: ModelScale, classes: i64, freeze: usize, device: Device) -> Self {
        Self::in_layout(Layout::default(), Plan::new(scale, classes), freeze, device)
    }

    /// [`Model::new`], in a layout other than the fastest.
    fn in_layout(layout: Layout, plan: Plan, freeze: usize, device: Device) -> Self {
        let mut builder = Builder::new(device, freeze, layout);
        let backbone = Backbone::new(&mut builder, &plan);
        let neck = Neck::new(&mut builder, &plan);
        let head = Head::new(&mut builder, &plan);
        Self { backbone, neck, head, weights: builder.finish(), plan, device, layout }
    }

    /// A model that holds `tensors`; its scale and class count are read from their shapes.
    pub fn from_tensors(tensors: &Tensors, layout: Layout, device: Device) -> Result<Self, WeightsError> {
        let size = |name: &str| -> Result<i64, WeightsError> {
            let tensor = tensors.get(name).ok_or_else(|| WeightsError::Missing(name.to_owned()))?;
            Ok(tensor.size().first().copied().unwrap_or(0))
        };
        let (stem, depth) = (size("model.0.conv.weight")?, Plan::new(ModelScale::N, 1).layers.len());
        let classes = size(&format!("model.{depth}.cv3.0.2.bias"))?;
        let mut scales = ModelScale::ALL.into_iter();
        let scale = scales.find(|&scale| Plan::new(scale, classes).layers[0].output == stem);
        let plan = Plan::new(scale.ok_or(WeightsError::Scale(stem))?, classes);
        let model = Self::in_layout(layout, plan, 0, device);
        model.weights.assign(|name| tensors.get(name).map(Tensor::shallow_clone))?;
        Ok(model)
    }

    /// All tensors.
    pub const fn weights(&self) -> &Weights {
        &self.weights
    }

    /// What the model is made of.
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where it is.
    pub const fn device(&self) -> Device {
        self.device
    }

    /// The head, for decoding.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The three maps that enter the head. See [`Model::forward`] for `images` and `train`.
    pub fn features(&self, images: &Tensor, train: bool) -> [Tensor; 3] {
        self.neck.forward(&self.backbone.forward(&self.layout.apply(images), train), train)
    }

    /// `images`: `[B, 3, H, W]` float, RGB in 0 to 1, H and W multiples of 32.
    ///
    /// With `train`, batch normalisation uses the batch's statistics and updates the running ones.
    pub fn forward(&self, images: &Tensor, train: bool) -> Prediction {
        self.head.forward(&self.features(images, train), train)
    }

    /// Boxes and scores in eval mode, without gradient; see [`Head::decode`].
    pub fn detect(&self, images: &Tensor) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        self.head.decode(&self.forward(images, false))
    }
}
