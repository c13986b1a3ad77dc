//! The memory of batches. Each sample is written where it will stay, by whichever worker makes it. A buffer is used
//! again once its batch is dropped.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pixel_memory::{BatchMemory, PixelBuffer, PixelMemory};

/// Buffers that no batch uses now. Copies from some may go on.
#[derive(Debug, Default)]
pub struct BufferPool {
    /// In the order in which they came back.
    free: Mutex<Vec<BatchMemory>>,
    keep: AtomicUsize,
    /// Where buffers come from; none: they are the process's own.
    source: Option<Arc<dyn PixelMemory>>,
}

impl BufferPool {
    /// A pool that keeps up to `keep` unused buffers from `source`.
    pub fn new(keep: usize, source: Option<Arc<dyn PixelMemory>>) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), keep: AtomicUsize::new(keep), source })
    }

    /// Keeps up to `keep` unused buffers from now on.
    pub fn set_keep(&self, keep: usize) {
        if self.keep.swap(keep, Ordering::Relaxed) > keep {
            self.free().truncate(keep);
        }
    }

    /// A buffer of `length` bytes with any content. Waits if there are as many as are kept, and all are still read.
    fn take(&self, length: usize) -> BatchMemory {
        match &self.source {
            Some(source) => self.take_lent(length, source.as_ref()),
            None => BatchMemory::Own(self.take_own(length)),
        }
    }

    fn take_own(&self, length: usize) -> Vec<u8> {
        let free = self.free().pop();
        own(free, length)
    }

    fn take_lent(&self, length: usize, source: &dyn PixelMemory) -> BatchMemory {
        let fits = |memory: &BatchMemory| memory.lent().is_some_and(|buffer| buffer.length() >= length);
        if let Some(known) = self.take_known(fits) {
            known.lent().inspect(|buffer| buffer.wait());
            return known;
        }
        // Not under the lock: locking pages takes a while, and others give back meanwhile.
        if let Some(buffer) = source.allocate(length) {
            return BatchMemory::Lent(buffer);
        }
        let mut free = self.free();
        let place = free.iter().position(|memory| memory.lent().is_none());
        let spare = place.map(|place| free.remove(place));
        drop(free);
        BatchMemory::Own(own(spare, length))
    }

    /// One that nobody reads any more. Where as many are kept as may be: the oldest, which may still be read; or none, and
    /// one that is too small is gone.
    fn take_known(&self, fits: impl Fn(&BatchMemory) -> bool) -> Option<BatchMemory> {
        let mut free = self.free();
        let is_read = |memory: &BatchMemory| memory.lent().is_some_and(PixelBuffer::is_read);
        if let Some(ready) = free.iter().position(|memory| fits(memory) && !is_read(memory)) {
            return Some(free.remove(ready));
        }
        if free.len() < self.keep.load(Ordering::Relaxed).max(1) {
            return None;
        }
        if let Some(small) = free.iter().position(|memory| memory.lent().is_some() && !fits(memory)) {
            free.remove(small);
            return None;
        }
        free.iter().position(fits).map(|oldest| free.remove(oldest))
    }

    fn free(&self) -> MutexGuard<'_, Vec<BatchMemory>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, memory: BatchMemory) {
        let mut free = self.free();
        if free.len() < self.keep.load(Ordering::Relaxed) {
            free.push(memory);
        }
    }
}

/// Memory of the process's own of so many bytes, `memory` if it is.
fn own(memory: Option<BatchMemory>, length: usize) -> Vec<u8> {
    let mut buffer = match memory {
        Some(BatchMemory::Own(buffer)) => buffer,
        Some(BatchMemory::Lent(_)) | None => Vec::new(),
    };
    if buffer.capacity() < length {
        // Memory from the system is zero already: nothing is copied, nothing filled.
        buffer = vec![0; length];
    }
    buffer.resize(length, 0);
    buffer
}

/// The pixels of a batch, `[n, 3, height, width]`, as a slice of bytes. When dropped, its memory goes back to the loader.
pub struct Pixels {
    /// Present until it is dropped.
    memory: Option<BatchMemory>,
    length: usize,
    pool: Option<Arc<BufferPool>>,
}

impl Pixels {
    /// The buffer of another, if they lie in one of this type.
    pub fn lent<T: Any>(&self) -> Option<&T> {
        let buffer: &dyn Any = self.memory.as_ref()?.lent()?;
        buffer.downcast_ref()
    }
}

impl From<Vec<u8>> for Pixels {
    fn from(bytes: Vec<u8>) -> Self {
        Self { length: bytes.len(), memory: Some(BatchMemory::Own(bytes)), pool: None }
    }
}

impl Deref for Pixels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| memory.bytes(self.length))
    }
}

impl Clone for Pixels {
    fn clone(&self) -> Self {
        Self::from(self.to_vec())
    }
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.length)
    }
}

impl Drop for Pixels {
    fn drop(&mut self) {
        if let (Some(pool), Some(memory)) = (&self.pool, self.memory.take()) {
            pool.give_back(memory);
        }
    }
}

/// The buffer of a batch that several workers are writing.
struct SharedBuffer {
    memory: UnsafeCell<BatchMemory>,
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
        let mut memory = pool.take(n * image_bytes);
        let start = memory.start();
        let shared = Arc::new(SharedBuffer { memory: UnsafeCell::new(memory), start, image_bytes });
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
        let (mut last, images) = (None, slots.len());
        for slot in slots {
            last = Some(slot.shared);
        }
        let shared = Arc::into_inner(last?)?;
        let length = images * shared.image_bytes;
        Some(Pixels { memory: Some(shared.memory.into_inner()), length, pool: Some(Arc::clone(pool)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_written_by_threads_make_one_batch_and_its_memory_comes_back() {
        let pool = BufferPool::new(2, None);
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
        let pool = BufferPool::new(2, None);
        let mut slots = ImageSlot::for_batch(&pool, 2, 1);
        let kept = slots.pop();
        assert!(ImageSlot::join(slots, &pool).is_none() && kept.is_some());
        assert!(ImageSlot::join(Vec::new(), &pool).is_none());
    }
    /// Memory that is read until somebody waits for it, or for so many times that one asks.
    #[derive(Debug)]
    struct Read {
        bytes: Vec<UnsafeCell<u8>>,
        log: Arc<Mutex<Vec<String>>>,
        asks: AtomicUsize,
    }

    // SAFETY: the bytes are its own; `is_read` is what the test makes of it.
    unsafe impl PixelBuffer for Read {
        fn start(&self) -> *mut u8 {
            self.bytes.as_ptr().cast_mut().cast()
        }

        fn length(&self) -> usize {
            self.bytes.len()
        }

        fn is_read(&self) -> bool {
            let left = self.asks.load(Ordering::Relaxed);
            self.asks.store(left.saturating_sub(1), Ordering::Relaxed);
            left > 0
        }

        fn wait(&self) {
            if self.asks.swap(0, Ordering::Relaxed) > 0 {
                self.log.lock().unwrap().push(format!("wait for {}", self.length()));
            }
        }
    }

    #[derive(Debug, Default)]
    struct Lender {
        log: Arc<Mutex<Vec<String>>>,
        asks: usize,
        most: usize,
    }

    impl PixelMemory for Lender {
        fn allocate(&self, bytes: usize) -> Option<Box<dyn PixelBuffer>> {
            if bytes > self.most {
                return None;
            }
            self.log.lock().unwrap().push(format!("allocate {bytes}"));
            let (log, asks) = (Arc::clone(&self.log), AtomicUsize::new(self.asks));
            Some(Box::new(Read { bytes: (0..bytes).map(|_| UnsafeCell::new(0)).collect(), log, asks }))
        }
    }

    /// What a pool that keeps two buffers asks its lender for, as batches of these lengths come and go; `asks`: how often
    /// a buffer is still read.
    fn asked(lengths: &[usize], asks: usize) -> Vec<String> {
        let log = Arc::default();
        let pool = BufferPool::new(2, Some(Arc::new(Lender { log: Arc::clone(&log), asks, most: 100 })));
        for &length in lengths {
            let mut slots = ImageSlot::for_batch(&pool, 1, length);
            slots[0].pixels().fill(7);
            let pixels = ImageSlot::join(slots, &pool).unwrap();
            assert_eq!((pixels.len(), pixels.iter().all(|byte| *byte == 7)), (length, true));
            assert_eq!(pixels.lent::<Read>().is_some(), length <= 100);
        }
        log.lock().unwrap().clone()
    }

    #[test]
    fn memory_of_another_is_used_again_once_nobody_reads_it() {
        assert_eq!(asked(&[8, 8, 6, 8], 0), ["allocate 8"]);
        // Nobody waits while there may be another buffer.
        assert_eq!(asked(&[8, 8, 8], 1), ["allocate 8", "allocate 8"]);
        assert_eq!(asked(&[8, 8, 8], 9), ["allocate 8", "allocate 8", "wait for 8"]);
    }

    #[test]
    fn what_is_too_small_makes_room_and_what_another_has_not_the_loader_has() {
        assert_eq!(asked(&[4, 8, 9, 9], 0), ["allocate 4", "allocate 8", "allocate 9"]);
        assert_eq!(asked(&[101, 101, 4, 4], 0), ["allocate 4"]);
    }
}
