//! Batch buffers: each sample is written where it will stay, by whichever thread makes it, and a buffer is
//! used again when its batch is done with.

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that no batch uses now. Here page-locked memory would come from, for a card to copy from.
#[derive(Debug, Default)]
pub struct Pool {
    free: Mutex<Vec<Vec<u8>>>,
    keep: AtomicUsize,
}

impl Pool {
    /// Keeps up to `keep` buffers.
    pub fn new(keep: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), keep: AtomicUsize::new(keep) })
    }

    /// Keeps up to `keep` buffers from now on.
    pub fn set_keep(&self, keep: usize) {
        if self.keep.swap(keep, Ordering::Relaxed) > keep {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).truncate(keep);
        }
    }

    /// A buffer of `length` bytes, whatever they are.
    fn take(&self, length: usize) -> Vec<u8> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = free.unwrap_or_default();
        if buffer.capacity() < length {
            // Memory from the system is zero already: nothing is copied, nothing filled.
            buffer = vec![0; length];
        }
        buffer.resize(length, 0);
        buffer
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.keep.load(Ordering::Relaxed) {
            free.push(buffer);
        }
    }
}

/// The pixels of a batch; a slice of bytes to whoever uses it. Its memory goes back to the loader.
pub struct Pixels {
    bytes: Vec<u8>,
    pool: Option<Arc<Pool>>,
}

impl From<Vec<u8>> for Pixels {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, pool: None }
    }
}

impl Deref for Pixels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Clone for Pixels {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), pool: None }
    }
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl Drop for Pixels {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

/// A batch that is being made by several threads.
struct Shared {
    bytes: UnsafeCell<Vec<u8>>,
    start: *mut u8,
    image_bytes: usize,
}

// SAFETY: the bytes are reached only through slots, each of which has a part of its own, and by whoever
// holds the last slot.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The place of one image in a batch.
pub struct Slot {
    shared: Arc<Shared>,
    image: usize,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.image)
    }
}

impl Slot {
    /// The places of a batch of `n` images of so many bytes each.
    pub fn of_batch(pool: &Pool, n: usize, image_bytes: usize) -> Vec<Self> {
        let mut bytes = pool.take(n * image_bytes);
        let start = bytes.as_mut_ptr();
        let shared = Arc::new(Shared { bytes: UnsafeCell::new(bytes), start, image_bytes });
        (0..n).map(|image| Self { shared: Arc::clone(&shared), image }).collect()
    }

    /// The bytes of the image, left from whatever was there before.
    pub fn pixels(&mut self) -> &mut [u8] {
        let length = self.shared.image_bytes;
        // SAFETY: the buffer has `n * image_bytes` bytes and is not moved while a slot exists; `of_batch`
        // gives each part to one slot, a slot cannot be cloned, and it is borrowed mutably here.
        unsafe { std::slice::from_raw_parts_mut(self.shared.start.add(self.image * length), length) }
    }

    /// The whole batch, once all its slots have come together; `None` if one is missing.
    pub fn join(slots: Vec<Self>, pool: &Arc<Pool>) -> Option<Pixels> {
        let mut last = None;
        for slot in slots {
            last = Some(slot.shared);
        }
        let shared = Arc::into_inner(last?)?;
        Some(Pixels { bytes: shared.bytes.into_inner(), pool: Some(Arc::clone(pool)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_written_by_threads_make_one_batch_and_its_memory_comes_back() {
        let pool = Pool::new(2);
        for round in 0..3_u8 {
            let mut slots = Slot::of_batch(&pool, 4, 5);
            std::thread::scope(|scope| {
                for (index, slot) in slots.iter_mut().enumerate() {
                    scope.spawn(move || slot.pixels().fill(round * 10 + u8::try_from(index).unwrap()));
                }
            });
            let pixels = Slot::join(slots, &pool).unwrap();
            let expected: Vec<u8> = (0..20).map(|at| round * 10 + at / 5).collect();
            assert_eq!(&*pixels, expected);
            drop(pixels);
            assert_eq!(pool.free.lock().unwrap().len(), 1);
        }
    }

    #[test]
    fn a_batch_with_a_slot_elsewhere_is_none() {
        let pool = Pool::new(2);
        let mut slots = Slot::of_batch(&pool, 2, 1);
        let kept = slots.pop();
        assert!(Slot::join(slots, &pool).is_none() && kept.is_some());
        assert!(Slot::join(Vec::new(), &pool).is_none());
    }
}
