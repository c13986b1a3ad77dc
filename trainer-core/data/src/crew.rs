//! How many threads load images. The number may change while they do: whoever has a clone may ask for another.
//!
//! Which pixels a sample has does not depend on it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The number of threads that are wanted.
#[derive(Debug, Clone)]
pub struct Crew(Arc<AtomicUsize>);

impl Crew {
    /// So many to begin with; with 0, batches are made by whoever asks for them.
    pub fn new(workers: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(workers)))
    }

    /// How many are wanted now.
    pub fn wanted(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks for another number; returns the one before. A pass that runs follows at its next sample, one that
    /// makes batches by itself when it ends.
    pub fn ask(&self, workers: usize) -> usize {
        self.0.swap(workers.max(1), Ordering::Relaxed)
    }
}

/// The posts of a pass: which of them a thread fills. One thread adds threads, each leaves by itself.
#[derive(Debug, Default)]
pub(super) struct Posts(Mutex<Vec<bool>>);

impl Posts {
    /// Takes the posts below `wanted` that nobody fills.
    pub(super) fn take_free(&self, wanted: usize) -> Vec<usize> {
        let mut filled = lock(&self.0);
        let length = filled.len().max(wanted);
        filled.resize(length, false);
        let free: Vec<usize> = (0..wanted).filter(|post| !filled[*post]).collect();
        for &post in &free {
            filled[post] = true;
        }
        free
    }

    /// Whether whoever fills `post` is to go, as far as `crew` wants. The post is free then.
    pub(super) fn leaves(&self, post: usize, crew: &Crew) -> bool {
        if post < crew.wanted().max(1) {
            return false;
        }
        let mut filled = lock(&self.0);
        // Looked at again under the lock, so that nobody counts on a thread that goes.
        let leaves = post >= crew.wanted().max(1);
        if leaves && let Some(filled) = filled.get_mut(post) {
            *filled = false;
        }
        leaves
    }
}

/// Lets finished batches wait for their consumer, and no more than may wait at the moment.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// How many wait; `None` when nobody wants them any more.
    waiting: Mutex<Option<usize>>,
    change: Condvar,
}

impl Gate {
    pub(super) fn open() -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::new(Some(0)), change: Condvar::new() })
    }

    /// Waits until fewer than `limit` wait, and adds one. `false` if nobody wants it.
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

    /// One has been taken.
    pub(super) fn leave(&self) {
        if let Some(count) = &mut *lock(&self.waiting) {
            *count = count.saturating_sub(1);
        }
        self.change.notify_all();
    }

    /// Nobody wants any more.
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
    fn posts_above_the_number_are_left_and_can_be_filled_again() {
        let (crew, posts) = (Crew::new(3), Posts::default());
        assert_eq!(posts.take_free(3), [0, 1, 2]);
        assert_eq!(posts.take_free(3), Vec::<usize>::new());
        assert_eq!(crew.ask(1), 3);
        assert_eq!([0, 1, 2].map(|post| posts.leaves(post, &crew)), [false, true, true]);
        crew.ask(2);
        assert_eq!(posts.take_free(2), [1]);
        assert_eq!(crew.ask(0), 2);
        assert_eq!(crew.wanted(), 1, "somebody must load");
    }

    #[test]
    fn a_gate_lets_in_as_many_as_may_wait_and_none_after_it_is_closed() {
        let gate = Gate::open();
        assert!(gate.enter(|| 2) && gate.enter(|| 2));
        gate.leave();
        assert!(gate.enter(|| 2));
        let other = Arc::clone(&gate);
        let waits = std::thread::spawn(move || other.enter(|| 2));
        gate.close();
        assert!(!waits.join().unwrap() && !gate.enter(|| 9));
    }
}
