//! Page-locked memory that the loader writes batches into, so that a GPU copies them from where they were made.
//!
//! A copy may go on when its batch is gone. The loader writes such memory again only when the copy's event has passed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Device, Tensor};
use trainyard_data::{PixelBuffer, PixelMemory};

use crate::libtorch::copies::{Arrival, pinned};

/// The most that is locked for pixels. What does not fit is copied once more, by the thread that trains.
const MOST_BYTES: usize = 1 << 30;

/// What has been locked in this process.
static LOCKED: Mutex<Budget> = Mutex::new(Budget(BTreeMap::new()));

/// Where the loader's batches for `device` lie; `None` for a CPU, which reads any memory.
pub fn pixel_memory(device: Device) -> Option<Arc<dyn PixelMemory>> {
    if device.is_cuda() { Some(Arc::new(LockedMemory)) } else { None }
}

/// Page-locked memory, of which libtorch keeps what is given back.
#[derive(Debug)]
struct LockedMemory;

impl PixelMemory for LockedMemory {
    fn allocate(&self, bytes: usize) -> Option<Box<dyn PixelBuffer>> {
        // As libtorch rounds it up.
        let bytes = bytes.max(1).checked_next_power_of_two()?;
        let share = Share::take(bytes)?;
        let bytes = pinned(bytes).ok()?;
        Some(Box::new(LockedPixels { bytes, copied: Mutex::new(None), _share: share }))
    }
}

/// How many pieces of each size are used, and how many were at most: those libtorch keeps for good.
#[derive(Debug, Default)]
struct Budget(BTreeMap<usize, (usize, usize)>);

impl Budget {
    /// Counts another piece of so many bytes, unless the budget is spent.
    fn take(&mut self, bytes: usize) -> bool {
        let locked: usize = self.0.iter().map(|(bytes, (_, most))| bytes.saturating_mul(*most)).sum();
        let (used, most) = self.0.entry(bytes).or_default();
        if used == most {
            if locked.saturating_add(bytes) > MOST_BYTES {
                return false;
            }
            *most += 1;
        }
        *used += 1;
        true
    }

    fn give_back(&mut self, bytes: usize) {
        if let Some((used, _)) = self.0.get_mut(&bytes) {
            *used = used.saturating_sub(1);
        }
    }
}

/// A piece of so many bytes of the budget.
#[derive(Debug)]
struct Share(usize);

impl Share {
    fn take(bytes: usize) -> Option<Self> {
        LOCKED.lock().unwrap_or_else(PoisonError::into_inner).take(bytes).then_some(Self(bytes))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        LOCKED.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.0);
    }
}

/// A batch's page-locked memory.
#[derive(Debug)]
pub struct LockedPixels {
    /// `[bytes]`, on the CPU.
    bytes: Tensor,
    /// The end of the newest copy from here. Copies are made one after the other.
    copied: Mutex<Option<Arrival>>,
    _share: Share,
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
        let mut copied = self.copied();
        // A GPU that fails reads nothing any more; whoever uses it next is told.
        if copied.as_ref().is_some_and(|arrival| arrival.is_there().unwrap_or(true)) {
            *copied = None;
        }
        copied.is_some()
    }

    fn wait(&self) {
        let arrival = self.copied().take();
        // As above.
        let _ = arrival.map(|arrival| arrival.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_locked_once_counts_for_good_and_is_used_again() {
        let (mut budget, piece) = (Budget::default(), MOST_BYTES / 4);
        assert_eq!([piece, piece, piece].map(|bytes| budget.take(bytes)), [true; 3]);
        assert!(!budget.take(MOST_BYTES / 2));
        budget.give_back(piece);
        assert!(!budget.take(MOST_BYTES / 2), "libtorch keeps it");
        assert!(budget.take(piece) && budget.take(MOST_BYTES / 8) && budget.take(MOST_BYTES / 8));
        assert!(!budget.take(1));
    }
}
