//! A loader's batch as tensors: images as the model takes them, objects as the assigner takes them.

use std::ops::Range;

use tch::{Device, Kind, Tensor};
use trainyard_data::Batch;

use crate::loss::assign::{Object, Targets};
use crate::model::Layout;

/// A batch on a device, ready for a forward and a backward pass.
#[derive(Debug)]
pub struct BatchTensors {
    /// `[n, 3, height, width]` float in 0 to 1, channels last.
    pub images: Tensor,
    /// The objects in the images, in pixels.
    pub targets: Targets,
}

impl BatchTensors {
    /// `batch` on `device`.
    pub fn new(batch: &Batch, device: Device) -> Self {
        Self { images: images(batch, device), targets: targets(batch, device) }
    }
}

/// A batch's images, as the model takes them: see [`normalise`].
pub fn images(batch: &Batch, device: Device) -> Tensor {
    images_in(batch, 0..batch.n, device)
}

/// [`images`], of those at the positions `range` only.
pub(super) fn images_in(batch: &Batch, range: Range<usize>, device: Device) -> Tensor {
    let bytes = 3 * batch.height * batch.width;
    let pixels = &batch.images[range.start * bytes..range.end * bytes];
    from_pixels(pixels, [range.len(), batch.height, batch.width], device)
}

/// A batch's objects, as the assigner takes them.
pub fn targets(batch: &Batch, device: Device) -> Targets {
    targets_in(batch, 0..batch.n, device)
}

/// [`targets`], of the images at the positions `range` only.
pub(super) fn targets_in(batch: &Batch, range: Range<usize>, device: Device) -> Targets {
    let first = u32::try_from(range.start).unwrap_or(u32::MAX);
    let objects: Vec<Object> = batch
        .targets
        .iter()
        .filter(|target| range.contains(&(target.image as usize)))
        .map(|target| Object { image: target.image - first, class: target.class, cxcywh: target.cxcywh })
        .collect();
    let size = [batch.height, batch.width].map(|side| i64::try_from(side).unwrap_or(0));
    Targets::new(&objects, range.len(), size, device)
}

/// Pixels as the model takes them.
///
/// `pixels`: `[n, 3, height, width]` bytes. Returns float in 0 to 1 on `device`, channels last.
pub fn from_pixels(pixels: &[u8], [n, height, width]: [usize; 3], device: Device) -> Tensor {
    let shape = [n, 3, height, width].map(|side| i64::try_from(side).unwrap_or(0));
    normalise(&Tensor::from_slice(pixels).view(shape).to_device(device))
}

/// Bytes `[n, 3, height, width]` as float in 0 to 1, channels last.
pub fn normalise(bytes: &Tensor) -> Tensor {
    Layout::default().apply(bytes).to_kind(Kind::Float) / 255.0
}
