//! A loader's batch as tensors: images as the model takes them, objects as the assigner takes them.

use std::ops::Range;

use tch::{Device, Kind, Tensor};
use trainyard_data::Batch;

use crate::loss::assign::{Object, Targets};
use crate::model::Layout;

/// A batch on a device, ready for a forward and a backward pass.
#[derive(Debug)]
pub struct BatchTensors {
    /// `[n, 3, height, width]` in 0 to 1, channels last.
    pub images: Tensor,
    /// The objects in the images, in pixels.
    pub targets: Targets,
}

impl BatchTensors {
    /// `batch` on `device`, its images as numbers of type `kind`.
    pub fn new(batch: &Batch, device: Device, kind: Kind) -> Self {
        let targets = targets_in(batch, 0..batch.n, size(batch)).to(device);
        Self { images: images(batch, device, kind), targets }
    }
}

/// A batch's images, as the model takes them: see [`normalise`].
pub fn images(batch: &Batch, device: Device, kind: Kind) -> Tensor {
    images_of(batch, 0..batch.n, device, kind)
}

/// [`images`], of those at the positions `range` only.
pub(super) fn images_of(batch: &Batch, range: Range<usize>, device: Device, kind: Kind) -> Tensor {
    from_pixels(pixels(batch, &range), [range.len(), batch.height, batch.width], device, kind)
}

/// The bytes of a batch's images at the positions `range`.
pub(super) fn pixels<'a>(batch: &'a Batch, range: &Range<usize>) -> &'a [u8] {
    &batch.images[places(batch, range)]
}

/// Where these bytes are among those of the batch.
pub(super) fn places(batch: &Batch, range: &Range<usize>) -> Range<usize> {
    let bytes = 3 * batch.height * batch.width;
    range.start * bytes..range.end * bytes
}

/// A batch's `[height, width]`.
pub(super) fn size(batch: &Batch) -> [i64; 2] {
    [batch.height, batch.width].map(|side| i64::try_from(side).unwrap_or(0))
}

/// The objects in the images at the positions `range`, which will be of `size`, as the assigner takes them; on the host.
pub(super) fn targets_in(batch: &Batch, range: Range<usize>, size: [i64; 2]) -> Targets {
    let first = u32::try_from(range.start).unwrap_or(u32::MAX);
    let objects: Vec<Object> = batch
        .targets
        .iter()
        .filter(|target| range.contains(&(target.image as usize)))
        .map(|target| Object { image: target.image - first, class: target.class, cxcywh: target.cxcywh })
        .collect();
    Targets::new(&objects, range.len(), size, Device::Cpu)
}

/// Pixels as the model takes them.
///
/// `pixels`: `[n, 3, height, width]` bytes. Returns numbers in 0 to 1 on `device`, channels last.
pub fn from_pixels(pixels: &[u8], [n, height, width]: [usize; 3], device: Device, kind: Kind) -> Tensor {
    let shape = [n, 3, height, width].map(|side| i64::try_from(side).unwrap_or(0));
    normalise(&Tensor::from_slice(pixels).view(shape).to_device(device), kind)
}

/// Bytes `[n, 3, height, width]` as numbers in 0 to 1, channels last.
///
/// In 16 bits they are those in 32 bits, rounded: a byte is exact in either, and libtorch divides in 32 bits. That
/// takes less than half as many bytes from and to memory as dividing in 32 bits and rounding later.
pub fn normalise(bytes: &Tensor, kind: Kind) -> Tensor {
    Layout::default().apply(bytes).to_kind(kind) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_the_same_in_16_bits_as_rounded_from_32() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3 * 256).collect();
        let bytes = Tensor::from_slice(&bytes).view([1, 3, 16, 16]);
        for kind in [Kind::Half, Kind::BFloat16] {
            let found = normalise(&bytes, kind);
            assert_eq!(found.kind(), kind);
            assert!(found.equal(&normalise(&bytes, Kind::Float).to_kind(kind)), "{kind:?}");
        }
    }
}
