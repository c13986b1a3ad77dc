//! How many worker threads load images, which may change while they do, and how many batches may wait.
//!
//! Which pixels a sample has depends on neither.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The wanted number of worker threads. Clones share it, and each may ask for another number.
#[derive(Debug, Clone)]
pub struct WorkerCount(Arc<AtomicUsize>);

impl WorkerCount {
    /// Starts with `workers` threads; with 0, batches are made on the thread that asks for them.
    pub fn new(workers: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(workers)))
    }

    /// How many threads are wanted now.
    pub fn wanted(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks for another number of threads, at least one, and returns the number before. A running pass follows at its
    /// next sample; one that makes batches on its consumer's thread goes on so to its end.
    pub fn request(&self, workers: usize) -> usize {
        self.0.swap(workers.max(1), Ordering::Relaxed)
    }
}

/// The worker slots of a pass: which of them a thread fills. One thread adds workers, each worker leaves by itself.
#[derive(Debug, Default)]
pub(super) struct WorkerSlots(Mutex<Vec<bool>>);

impl WorkerSlots {
    /// Takes the slots below `wanted` that no thread fills.
    pub(super) fn take_free(&self, wanted: usize) -> Vec<usize> {
        let mut filled = lock(&self.0);
        let length = filled.len().max(wanted);
        filled.resize(length, false);
        let free: Vec<usize> = (0..wanted).filter(|slot| !filled[*slot]).collect();
        for &slot in &free {
            filled[slot] = true;
        }
        free
    }

    /// Whether the worker in `slot` is one too many and has to end. The slot is free then.
    pub(super) fn leaves(&self, slot: usize, workers: &WorkerCount) -> bool {
        if slot < workers.wanted().max(1) {
            return false;
        }
        let mut filled = lock(&self.0);
        // Looked at again under the lock, so that nobody counts on a thread that ends.
        let leaves = slot >= workers.wanted().max(1);
        if leaves && let Some(filled) = filled.get_mut(slot) {
            *filled = false;
        }
        leaves
    }
}

/// Bounds how many finished batches wait for their consumer. The bound may change at any time.
#[derive(Debug, Default)]
pub(super) struct PrefetchGate {
    /// How many batches wait; `None` once nobody wants them any more.
    waiting: Mutex<Option<usize>>,
    change: Condvar,
}

impl PrefetchGate {
    pub(super) fn open() -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::new(Some(0)), change: Condvar::new() })
    }

    /// Blocks until fewer than `limit` batches wait, then counts one more. `false` if nobody wants it any more.
    pub(super) fn enter(&self, limit: impl Fn() -> usize) -> bool {
        let mut waiting = lock(&self.waiting);
        loop {
            match &mut *waiting {
                None => return false,
                Some(count) if *count < limit().max(1) => {
                    *count += 1;
                    return true;
                }
                Some(_) => {}
            }
            waiting = self.change.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The consumer has taken a batch.
    pub(super) fn leave(&self) {
        if let Some(count) = &mut *lock(&self.waiting) {
            *count = count.saturating_sub(1);
        }
        self.change.notify_all();
    }

    /// The consumer wants no more batches.
    pub(super) fn close(&self) {
        *lock(&self.waiting) = None;
        self.change.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_slots_above_the_number_are_left_and_can_be_filled_again() {
        let (workers, slots) = (WorkerCount::new(3), WorkerSlots::default());
        assert_eq!(slots.take_free(3), [0, 1, 2]);
        assert_eq!(slots.take_free(3), Vec::<usize>::new());
        assert_eq!(workers.request(1), 3);
        assert_eq!([0, 1, 2].map(|slot| slots.leaves(slot, &workers)), [false, true, true]);
        workers.request(2);
        assert_eq!(slots.take_free(2), [1]);
        assert_eq!(workers.request(0), 2);
        assert_eq!(workers.wanted(), 1, "somebody must load");
    }

    #[test]
    fn a_gate_lets_in_as_many_as_may_wait_and_none_after_it_is_closed() {
        let gate = PrefetchGate::open();
        assert!(gate.enter(|| 2) && gate.enter(|| 2));
        gate.leave();
        assert!(gate.enter(|| 2));
        let other = Arc::clone(&gate);
        let waits = std::thread::spawn(move || other.enter(|| 2));
        gate.close();
        assert!(!waits.join().unwrap() && !gate.enter(|| 9));
    }
}
