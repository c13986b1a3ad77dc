//! An ordered parallel map: workers take tasks from a shared queue, results come in the order of the tasks, a bounded
//! number is in flight, and a drop cancels the rest. The number of workers may change meanwhile.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::worker_pool::{WorkerCount, WorkerSlots};

/// A function from a task to a result, with buffers of its own for each worker.
pub(super) trait Work: Send + Sync + 'static {
    /// Buffers, made once for each worker.
    type Scratch: Default + Send;
    /// What one call gets.
    type Task: Send + 'static;
    /// What one call gives.
    type Output: Send + 'static;

    /// Does a task.
    fn run(&self, task: Self::Task, scratch: &mut Self::Scratch) -> Self::Output;
}

/// A worker panicked at a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panicked;

/// Tasks, each made when it is submitted.
type Tasks<W> = Box<dyn Iterator<Item = <W as Work>::Task> + Send>;

type Numbered<T> = (usize, T);

/// What the workers of a pass share.
struct SharedQueue<W: Work> {
    work: Arc<W>,
    workers: WorkerCount,
    slots: WorkerSlots,
    cancelled: AtomicBool,
    tasks: Receiver<Numbered<W::Task>>,
    results: Sender<Numbered<Result<W::Output, Panicked>>>,
}

/// The results of tasks, in the order of the tasks.
pub(super) struct OrderedResults<W: Work> {
    shared: Arc<SharedQueue<W>>,
    /// For work on the consumer's own thread.
    scratch: W::Scratch,
    threads: Vec<JoinHandle<()>>,
    tasks: Tasks<W>,
    /// Tasks in flight for each worker.
    in_flight_each: usize,
    /// The queue's end for tasks; `None` when there are no workers.
    queue: Option<Sender<Numbered<W::Task>>>,
    results: Receiver<Numbered<Result<W::Output, Panicked>>>,
    /// Results that came before their turn.
    early: BTreeMap<usize, Result<W::Output, Panicked>>,
    /// Number of results taken by the consumer.
    taken: usize,
    /// Number of tasks put into the queue.
    submitted: usize,
}

impl<W: Work> OrderedResults<W> {
    /// Starts the wanted number of workers on `tasks`. With 0 there are none, and [`Iterator::next`] does the work.
    /// At most `in_flight_each` results for each worker exist before they are taken, at least one in all.
    pub(super) fn start(
        work: Arc<W>,
        tasks: impl Iterator<Item = W::Task> + Send + 'static,
        workers: &WorkerCount,
        in_flight_each: usize,
    ) -> Self {
        let (queue, queued) = unbounded();
        let (done, results) = unbounded();
        let inline = workers.wanted() == 0;
        let shared = SharedQueue {
            work,
            workers: workers.clone(),
            slots: WorkerSlots::default(),
            cancelled: AtomicBool::new(false),
            tasks: queued,
            results: done,
        };
        let mut ordered = Self {
            shared: Arc::new(shared),
            scratch: W::Scratch::default(),
            threads: Vec::new(),
            tasks: Box::new(tasks),
            in_flight_each,
            queue: (!inline).then_some(queue),
            results,
            early: BTreeMap::new(),
            taken: 0,
            submitted: 0,
        };
        ordered.refill();
        ordered
    }

    /// Starts workers that are missing, and submits as many tasks as may be in flight.
    fn refill(&mut self) {
        let Some(queue) = &self.queue else { return };
        let wanted = self.shared.workers.wanted().max(1);
        for slot in self.shared.slots.take_free(wanted) {
            let shared = Arc::clone(&self.shared);
            self.threads.retain(|thread| !thread.is_finished());
            self.threads.push(std::thread::spawn(move || run_worker(&shared, slot)));
        }
        while self.submitted - self.taken < (self.in_flight_each * wanted).max(1)
            && let Some(task) = self.tasks.next()
        {
            // The receiving end is in `shared`, and so lives as long as this one.
            let _ = queue.send((self.submitted, task));
            self.submitted += 1;
        }
    }
}

fn run_worker<W: Work>(shared: &SharedQueue<W>, slot: usize) {
    super::thread_hook::run();
    let mut scratch = W::Scratch::default();
    while let Ok((number, task)) = shared.tasks.recv() {
        if shared.cancelled.load(Ordering::Relaxed) {
            return;
        }
        let result = run_guarded(&*shared.work, task, &mut scratch);
        if shared.results.send((number, result)).is_err() || shared.slots.leaves(slot, &shared.workers) {
            return;
        }
    }
}

/// A panic becomes a value, so that whoever waits for the result learns of it.
fn run_guarded<W: Work>(work: &W, task: W::Task, scratch: &mut W::Scratch) -> Result<W::Output, Panicked> {
    let result = catch_unwind(AssertUnwindSafe(|| work.run(task, scratch))).map_err(|_| Panicked);
    crate::activity::tick();
    result
}

impl<W: Work> Iterator for OrderedResults<W> {
    type Item = Result<W::Output, Panicked>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.queue.is_none() {
            return self.tasks.next().map(|task| run_guarded(&*self.shared.work, task, &mut self.scratch));
        }
        if self.taken == self.submitted {
            return None;
        }
        let number = self.taken;
        self.taken += 1;
        loop {
            if let Some(result) = self.early.remove(&number) {
                self.refill();
                return Some(result);
            }
            match self.results.recv() {
                Ok((number, result)) => self.early.insert(number, result),
                Err(_) => return Some(Err(Panicked)),
            };
        }
    }
}

impl<W: Work> Drop for OrderedResults<W> {
    fn drop(&mut self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
        self.queue = None;
        for thread in self.threads.drain(..) {
            // A worker ends after the task that it is at; its panics were caught there.
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

        fn run(&self, position: usize, (): &mut ()) -> usize {
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
            for each in [0, 1, 5, 100] {
                let results = OrderedResults::start(squares(None).0, 3..40, &WorkerCount::new(workers), each);
                let found: Vec<_> = results.map(Result::unwrap).collect();
                assert_eq!(found, (3..40).map(|x| x * x).collect::<Vec<_>>(), "{workers} {each}");
            }
        }
    }

    #[test]
    fn no_more_than_allowed_is_made_ahead_and_nothing_after_a_drop() {
        let (work, made) = squares(None);
        let mut results = OrderedResults::start(work, 0..1000, &WorkerCount::new(2), 2);
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
            let results: Vec<_> =
                OrderedResults::start(squares(Some(2)).0, 0..5, &WorkerCount::new(workers), 3).collect();
            assert_eq!(results, [Ok(0), Ok(1), Err(Panicked), Ok(9), Ok(16)]);
        }
    }

    #[test]
    fn threads_come_and_go_while_results_stay_in_order() {
        let count = WorkerCount::new(1);
        let mut results = OrderedResults::start(squares(None).0, 0..400, &count, 2);
        let mut found = Vec::new();
        for workers in [5, 1, 3, 8, 2, 1, 4] {
            count.request(workers);
            found.extend(results.by_ref().take(50).map(Result::unwrap));
            assert!(results.submitted - results.taken <= 2 * workers.max(8), "bounded");
            let filled = results.shared.slots.take_free(workers);
            assert_eq!(filled, Vec::<usize>::new(), "all {workers} are there");
        }
        // Those that are too many go when they have done what they are at.
        count.request(1);
        found.extend(results.by_ref().map(Result::unwrap));
        assert_eq!(found, (0..400).map(|x| x * x).collect::<Vec<_>>());
    }
}
