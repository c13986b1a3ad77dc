//! Work spread over threads, results in order, a bounded number in flight, cancelled when dropped.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

/// A function from a task to a result, with buffers of its own for each thread.
pub trait Work: Send + Sync + 'static {
    /// Made once per thread.
    type Scratch: Default + Send;
    /// What to do.
    type Task: Send + 'static;
    /// What comes of it.
    type Output: Send + 'static;

    /// Does a task.
    fn make(&self, task: Self::Task, scratch: &mut Self::Scratch) -> Self::Output;
}

/// A panic in a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panicked;

/// Tasks, made when they are handed out.
type Tasks<W> = Box<dyn Iterator<Item = <W as Work>::Task> + Send>;

type Numbered<T> = (usize, T);

/// The results of tasks, in their order.
pub struct Ordered<W: Work> {
    work: Arc<W>,
    scratch: W::Scratch,
    threads: Vec<JoinHandle<()>>,
    cancelled: Arc<AtomicBool>,
    tasks: Tasks<W>,
    /// Where the threads find their tasks; `None` when there are no threads.
    to_do: Option<Sender<Numbered<W::Task>>>,
    results: Receiver<Numbered<Result<W::Output, Panicked>>>,
    /// Results that came before their turn.
    early: BTreeMap<usize, Result<W::Output, Panicked>>,
    /// Results taken.
    taken: usize,
    /// Tasks handed out.
    handed_out: usize,
}

impl<W: Work> Ordered<W> {
    /// Starts `workers` threads on `tasks`; none with 0, then [`Iterator::next`] works itself.
    /// At most `ahead` results exist before they are taken.
    pub fn start(
        work: Arc<W>,
        tasks: impl Iterator<Item = W::Task> + Send + 'static,
        workers: usize,
        ahead: usize,
    ) -> Self {
        let (to_do, take) = unbounded();
        let (done, results) = unbounded();
        let cancelled = Arc::new(AtomicBool::new(false));
        let threads = (0..workers)
            .map(|_| {
                let (work, cancelled) = (Arc::clone(&work), Arc::clone(&cancelled));
                let (take, done) = (take.clone(), done.clone());
                std::thread::spawn(move || run(&*work, &take, &done, &cancelled))
            })
            .collect();
        let to_do = (workers > 0).then_some(to_do);
        let mut ordered = Self {
            work,
            scratch: W::Scratch::default(),
            threads,
            cancelled,
            tasks: Box::new(tasks),
            to_do,
            results,
            early: BTreeMap::new(),
            taken: 0,
            handed_out: 0,
        };
        for _ in 0..ahead.max(1) {
            ordered.hand_out();
        }
        ordered
    }

    /// Gives the threads one more task.
    fn hand_out(&mut self) {
        if let Some(to_do) = &self.to_do
            && let Some(task) = self.tasks.next()
        {
            // The threads hold their end until this one is dropped.
            let _ = to_do.send((self.handed_out, task));
            self.handed_out += 1;
        }
    }
}

fn run<W: Work>(
    work: &W,
    to_do: &Receiver<Numbered<W::Task>>,
    done: &Sender<Numbered<Result<W::Output, Panicked>>>,
    cancelled: &AtomicBool,
) {
    // Not on the core of whoever started it, which computes.
    crate::libtorch::anywhere();
    let mut scratch = W::Scratch::default();
    while let Ok((number, task)) = to_do.recv() {
        if cancelled.load(Ordering::Relaxed) {
            return;
        }
        let made = guarded(work, task, &mut scratch);
        if done.send((number, made)).is_err() {
            return;
        }
    }
}

/// A panic becomes a value, so that whoever waits for the result learns of it.
fn guarded<W: Work>(work: &W, task: W::Task, scratch: &mut W::Scratch) -> Result<W::Output, Panicked> {
    catch_unwind(AssertUnwindSafe(|| work.make(task, scratch))).map_err(|_| Panicked)
}

impl<W: Work> Iterator for Ordered<W> {
    type Item = Result<W::Output, Panicked>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.to_do.is_none() {
            return self.tasks.next().map(|task| guarded(&*self.work, task, &mut self.scratch));
        }
        if self.taken == self.handed_out {
            return None;
        }
        let number = self.taken;
        self.taken += 1;
        loop {
            if let Some(result) = self.early.remove(&number) {
                self.hand_out();
                return Some(result);
            }
            match self.results.recv() {
                Ok((number, result)) => self.early.insert(number, result),
                Err(_) => return Some(Err(Panicked)),
            };
        }
    }
}

impl<W: Work> Drop for Ordered<W> {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.to_do = None;
        for thread in self.threads.drain(..) {
            // A thread ends after the result that it is at; its panics were caught there.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Squares {
        made: Arc<AtomicUsize>,
        panics_at: Option<usize>,
    }

    impl Work for Squares {
        type Scratch = ();
        type Task = usize;
        type Output = usize;

        fn make(&self, position: usize, (): &mut ()) -> usize {
            self.made.fetch_add(1, Ordering::SeqCst);
            assert_ne!(Some(position), self.panics_at, "told to");
            position * position
        }
    }

    fn squares(panics_at: Option<usize>) -> (Arc<Squares>, Arc<AtomicUsize>) {
        let made = Arc::new(AtomicUsize::new(0));
        (Arc::new(Squares { made: Arc::clone(&made), panics_at }), made)
    }

    #[test]
    fn results_come_in_order_with_any_number_of_threads() {
        for workers in [0, 1, 3, 8] {
            for ahead in [0, 1, 5, 100] {
                let found: Vec<_> =
                    Ordered::start(squares(None).0, 3..40, workers, ahead).map(Result::unwrap).collect();
                assert_eq!(found, (3..40).map(|x| x * x).collect::<Vec<_>>(), "{workers} {ahead}");
            }
        }
    }

    #[test]
    fn no_more_than_allowed_is_made_ahead_and_nothing_after_a_drop() {
        let (work, made) = squares(None);
        let mut results = Ordered::start(work, 0..1000, 2, 4);
        for _ in 0..10 {
            results.next();
        }
        drop(results);
        let made_then = made.load(Ordering::SeqCst);
        assert!((10..=14).contains(&made_then), "{made_then}");
    }

    #[test]
    fn a_panic_is_a_result_and_the_others_still_come() {
        for workers in [0, 2] {
            let results: Vec<_> = Ordered::start(squares(Some(2)).0, 0..5, workers, 3).collect();
            assert_eq!(results, [Ok(0), Ok(1), Err(Panicked), Ok(9), Ok(16)]);
        }
    }
}
