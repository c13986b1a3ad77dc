//! The memory of batches. Each sample is written where it will stay, by whichever worker makes it. A buffer is used
//! again once its batch is dropped.

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that no batch uses now. Page-locked memory, for a GPU to copy from, would have its place here.
#[derive(Debug, Default)]
pub struct BufferPool {
    free: Mutex<Vec<Vec<u8>>>,
    keep: AtomicUsize,
}

impl BufferPool {
    /// A pool that keeps up to `keep` unused buffers.
    pub fn new(keep: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), keep: AtomicUsize::new(keep) })
    }

    /// Keeps up to `keep` unused buffers from now on.
    pub fn set_keep(&self, keep: usize) {
        if self.keep.swap(keep, Ordering::Relaxed) > keep {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).truncate(keep);
        }
    }

    /// A buffer of `length` bytes with any content.
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

/// The pixels of a batch, `[n, 3, height, width]`, as a slice of bytes. When dropped, its memory goes back to the loader.
pub struct Pixels {
    bytes: Vec<u8>,
    pool: Option<Arc<BufferPool>>,
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

/// The buffer of a batch that several workers are writing.
struct SharedBuffer {
    bytes: UnsafeCell<Vec<u8>>,
    start: *mut u8,
    image_bytes: usize,
}

// SAFETY: the bytes are reached only through slots, each of which has a range of its own, and by whoever
// holds the last slot.
unsafe impl Send for SharedBuffer {}
// SAFETY: as above.
unsafe impl Sync for SharedBuffer {}

/// The range of a batch's buffer that belongs to one image. Only its owner can write there.
pub struct ImageSlot {
    shared: Arc<SharedBuffer>,
    image: usize,
}

impl fmt::Debug for ImageSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.image)
    }
}

impl ImageSlot {
    /// The slots of a new batch of `n` images of `image_bytes` each, in image order.
    pub fn for_batch(pool: &BufferPool, n: usize, image_bytes: usize) -> Vec<Self> {
        let mut bytes = pool.take(n * image_bytes);
        let start = bytes.as_mut_ptr();
        let shared = Arc::new(SharedBuffer { bytes: UnsafeCell::new(bytes), start, image_bytes });
        (0..n).map(|image| Self { shared: Arc::clone(&shared), image }).collect()
    }

    /// The bytes of the image, `[3, height, width]`, with any content until they are written.
    pub fn pixels(&mut self) -> &mut [u8] {
        let length = self.shared.image_bytes;
        // SAFETY: the buffer has `n * image_bytes` bytes and is not moved while a slot exists; `for_batch`
        // gives each range to one slot, a slot cannot be cloned, and it is borrowed mutably here.
        unsafe { std::slice::from_raw_parts_mut(self.shared.start.add(self.image * length), length) }
    }

    /// The whole batch, from all of its slots; `None` if one is missing.
    pub fn join(slots: Vec<Self>, pool: &Arc<BufferPool>) -> Option<Pixels> {
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
        let pool = BufferPool::new(2);
        for round in 0..3_u8 {
            let mut slots = ImageSlot::for_batch(&pool, 4, 5);
            std::thread::scope(|scope| {
                for (index, slot) in slots.iter_mut().enumerate() {
                    scope.spawn(move || slot.pixels().fill(round * 10 + u8::try_from(index).unwrap()));
                }
            });
            let pixels = ImageSlot::join(slots, &pool).unwrap();
            let expected: Vec<u8> = (0..20).map(|at| round * 10 + at / 5).collect();
            assert_eq!(&*pixels, expected);
            drop(pixels);
            assert_eq!(pool.free.lock().unwrap().len(), 1);
        }
    }

    #[test]
    fn a_batch_with_a_slot_elsewhere_is_none() {
        let pool = BufferPool::new(2);
        let mut slots = ImageSlot::for_batch(&pool, 2, 1);
        let kept = slots.pop();
        assert!(ImageSlot::join(slots, &pool).is_none() && kept.is_some());
        assert!(ImageSlot::join(Vec::new(), &pool).is_none());
    }
}
