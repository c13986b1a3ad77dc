//! Page-locked memory that the loader writes batches into, so that a GPU copies them from where they were made.
//!
//! A copy may go on when its batch is gone. The loader writes such memory again only when the copy's event has passed.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Device, Tensor};
use trainyard_data::{PixelBuffer, PixelMemory};

use crate::libtorch::copies::{Arrival, pinned};

/// Where the loader's batches for `device` lie; `None` for a CPU, which reads any memory.
pub fn pixel_memory(device: Device) -> Option<Arc<dyn PixelMemory>> {
    if device.is_cuda() { Some(Arc::new(LockedMemory)) } else { None }
}

/// Page-locked memory, of which libtorch keeps what is given back.
#[derive(Debug)]
struct LockedMemory;

impl PixelMemory for LockedMemory {
    fn allocate(&self, bytes: usize) -> Option<Box<dyn PixelBuffer>> {
        // libtorch takes powers of two anyway. Where no memory can be locked, a batch is copied once more.
        let bytes = pinned(bytes.max(1).checked_next_power_of_two()?).ok()?;
        Some(Box::new(LockedPixels { bytes, copied: Mutex::new(None) }))
    }
}

/// A batch's page-locked memory.
#[derive(Debug)]
pub struct LockedPixels {
    /// `[bytes]`, on the CPU.
    bytes: Tensor,
    /// The end of the newest copy from here. Copies are made one after the other.
    copied: Mutex<Option<Arrival>>,
}

impl LockedPixels {
    /// The bytes at the positions `range`: a view of this memory.
    pub fn view(&self, range: Range<usize>) -> Tensor {
        let [start, length] =
            [range.start, range.len()].map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        self.bytes.narrow(0, start, length)
    }

    /// The memory is read until `arrival`.
    pub fn read_until(&self, arrival: Arrival) {
        *self.copied() = Some(arrival);
    }

    fn copied(&self) -> MutexGuard<'_, Option<Arrival>> {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: the tensor's memory stays where it is. The loader alone writes it, and copies from it, which are noted by
// `read_until`, are over when their event has passed.
unsafe impl PixelBuffer for LockedPixels {
    fn start(&self) -> *mut u8 {
        self.bytes.data_ptr().cast()
    }

    fn length(&self) -> usize {
        self.bytes.numel()
    }

    fn is_read(&self) -> bool {
        // A GPU that fails reads nothing any more; whoever uses it next is told.
        self.copied().as_ref().is_some_and(|arrival| !arrival.is_there().unwrap_or(true))
    }

    fn wait(&self) {
        let arrival = self.copied().take();
        // As above.
        let _ = arrival.map(|arrival| arrival.wait());
    }
}
