//! The detectors: tables of layers, blocks, head, and weights under Ultralytics' names.
//!
//! `yolov8.rs` is the table of a family, `plan.rs` that table at some scale, `layers.rs` the plan with weights.

pub mod blocks;
pub mod family;
pub mod head;
pub mod layers;
pub mod plan;
pub mod yolov8;

use tch::{Device, Tensor};
use trainyard_types::ModelScale;

use self::blocks::Builder;
use self::head::{Head, Prediction};
use self::layers::Layers;
use self::plan::Plan;
use crate::weights::{Tensors, Weights, WeightsError};

pub use self::blocks::Layout;

/// A detector on some device.
#[derive(Debug)]
pub struct Model {
    layers: Layers,
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
        let layers = Layers::new(&mut builder, &plan);
        let head = Head::new(&mut builder, &plan);
        Self { layers, head, weights: builder.finish(), plan, device, layout }
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

    /// All tensors of the model, by name.
    pub const fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The plan that the model was built from.
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The device that it is on.
    pub const fn device(&self) -> Device {
        self.device
    }

    /// The head, which decodes predictions.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The three maps that enter the head. See [`Model::forward`] for `images` and `train`.
    pub fn features(&self, images: &Tensor, train: bool) -> [Tensor; 3] {
        self.layers.forward(&self.layout.apply(images), train)
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
