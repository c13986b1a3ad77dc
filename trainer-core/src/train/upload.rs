//! A batch's way to the device: beside what a GPU computes, so that neither waits for the other.
//!
//! An ordinary copy waits until the GPU has done all that it was told before. This one is of
//! page-locked memory, on a stream of its own: the host goes on at once, the GPU computes the step before
//! meanwhile, and only the step of this batch waits for it, on the GPU. The loader writes pixels into such memory itself.

use std::ops::Range;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};
use trainyard_data::Batch;

use super::batch_tensors::{BatchTensors, images_of, normalise, pixels, places, size, targets_in};
use super::locked_pixels::LockedPixels;
use super::multi_scale;
use crate::libtorch::copies::{Copier, pinned};
use crate::libtorch::{Precision, TorchError, rethrow};
use crate::loss::assign::Targets;

/// Brings batches to one device.
#[derive(Debug)]
pub struct Uploader {
    device: Device,
    /// The type of the images' numbers.
    kind: Kind,
    /// The copier of a GPU; none on a CPU.
    copier: Option<Rc<Copier>>,
}

impl Uploader {
    /// An uploader to `device`, where images become numbers of this precision. An exception of libtorch comes as a panic,
    /// as from tch.
    pub fn new(device: Device, precision: Precision) -> Self {
        let copier = match device {
            Device::Cuda(_) => Some(Rc::new(Copier::new(device).unwrap_or_else(|error| rethrow(&error)))),
            Device::Cpu | Device::Mps | Device::Vulkan => None,
        };
        Self { device, kind: precision.kind(), copier }
    }

    /// An uploader whose images become numbers of another precision. Both copy on one stream: the allocator keeps memory
    /// for each stream by itself.
    #[must_use]
    pub fn in_precision(&self, precision: Precision) -> Self {
        Self { device: self.device, kind: precision.kind(), copier: self.copier.clone() }
    }

    /// `batch` on the device.
    pub fn upload(&self, batch: &Batch) -> BatchTensors {
        self.upload_part(batch, 0..batch.n)
    }

    /// The images of `batch` at the positions `range` on the device, with their objects.
    pub fn upload_part(&self, batch: &Batch, range: Range<usize>) -> BatchTensors {
        let targets = targets_in(batch, range.clone(), size(batch));
        self.bring(batch, range, targets)
    }

    /// A square `batch` on the device, its images made `side` pixels wide and high there.
    pub fn upload_scaled(&self, batch: &Batch, side: usize) -> BatchTensors {
        let targets = targets_in(batch, 0..batch.n, [side; 2].map(|side| i64::try_from(side).unwrap_or(0)));
        let BatchTensors { images, targets } = self.bring(batch, 0..batch.n, targets);
        BatchTensors { images: multi_scale::resize(images, side), targets }
    }

    /// Images of `batch` and objects, which are on the host.
    fn bring(&self, batch: &Batch, range: Range<usize>, targets: Targets) -> BatchTensors {
        let Some(copier) = &self.copier else {
            return BatchTensors { images: images_of(batch, range, self.device, self.kind), targets };
        };
        send(copier, batch, range, targets, self.kind).unwrap_or_else(|error| rethrow(&error))
    }
}

fn send(
    copier: &Copier,
    batch: &Batch,
    range: Range<usize>,
    targets: Targets,
    kind: Kind,
) -> Result<BatchTensors, TorchError> {
    let shape = [range.len(), 3, batch.height, batch.width].map(|side| i64::try_from(side).unwrap_or(0));
    let locked = batch.images.lent::<LockedPixels>();
    let bytes = match locked {
        Some(locked) => locked.view(places(batch, &range)),
        None => lock_bytes(pixels(batch, &range))?,
    };
    let [boxes, indices] = targets.tensors().map(lock);
    let sent = copier.send(&[&bytes.view(shape), &boxes?, &indices?])?;
    if let Some(locked) = locked {
        locked.read_until(sent.arrival());
    }
    let mut there = copier.receive(sent)?.into_iter();
    let mut next = || there.next().unwrap_or_default();
    let images = normalise(&next(), kind);
    let targets = targets.with_tensors([next(), next()]);
    Ok(BatchTensors { images, targets })
}

/// A copy of bytes in page-locked memory, for a batch that was not made there.
fn lock_bytes(bytes: &[u8]) -> Result<Tensor, TorchError> {
    if bytes.is_empty() {
        return Ok(Tensor::from_slice(bytes));
    }
    let locked = pinned(bytes.len())?;
    // SAFETY: it has as many bytes, on the host and one after the other, and nobody else knows of it yet.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), locked.data_ptr().cast::<u8>(), bytes.len()) };
    Ok(locked)
}

/// A copy of a small tensor in page-locked memory.
fn lock(tensor: &Tensor) -> Result<Tensor, TorchError> {
    let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
    if bytes == 0 {
        return Ok(tensor.shallow_clone());
    }
    let mut locked = as_kind(&pinned(bytes)?, tensor.kind()).view(tensor.size().as_slice());
    locked.copy_(tensor);
    Ok(locked)
}

/// A view of bytes as numbers of another type.
fn as_kind(bytes: &Tensor, kind: Kind) -> Tensor {
    if kind == Kind::Uint8 { bytes.shallow_clone() } else { bytes.view_dtype(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_data::Target;

    fn batch() -> Batch {
        let pixels: Vec<u8> = (0..2 * 3 * 32 * 32_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let object = |image| Target { image, class: 1, cxcywh: [0.5, 0.4, 0.2, 0.3] };
        Batch {
            number: 0,
            images: pixels.into(),
            n: 2,
            height: 32,
            width: 32,
            targets: vec![object(0), object(1), object(1)],
            indices: vec![0, 1],
            placements: Vec::new(),
        }
    }

    #[test]
    fn on_a_cpu_a_batch_is_as_the_model_takes_it() {
        let batch = batch();
        let BatchTensors { images, targets } = Uploader::new(Device::Cpu, Precision::Fp16).upload(&batch);
        assert!(images.equal(&crate::train::batch_tensors::images(&batch, Device::Cpu, Kind::Half)));
        assert_eq!((targets.count(), targets.grid()), (3, &[(4, 4), (2, 2), (1, 1)]));
    }

    #[test]
    fn objects_of_a_batch_that_is_scaled_are_for_the_size_that_its_images_get() {
        let BatchTensors { images, targets } =
            Uploader::new(Device::Cpu, Precision::Fp32).upload_scaled(&batch(), 64);
        assert_eq!(images.size(), [2, 3, 64, 64]);
        assert_eq!(targets.grid(), &[(8, 8), (4, 4), (2, 2)]);
        let boxes = Vec::<f32>::try_from(targets.tensors()[0].get(0)).unwrap();
        let expected = [25.6, 16.0, 38.4, 35.2];
        assert!(
            boxes.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-4),
            "{boxes:?}"
        );
    }

    #[test]
    fn bytes_become_numbers_of_any_type_again() {
        let numbers = Tensor::from_slice(&[1.5_f32, -2.0]);
        let bytes = numbers.view_dtype(Kind::Uint8);
        assert!(as_kind(&bytes, Kind::Float).equal(&numbers));
        assert!(as_kind(&bytes, Kind::Uint8).equal(&bytes));
    }
}
