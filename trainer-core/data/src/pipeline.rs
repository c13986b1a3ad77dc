//! Work spread over threads, results in order, a bounded number in flight, cancelled when dropped. The number of
//! threads may change meanwhile.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::crew::{Crew, Posts};

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

/// What the threads of a pass share.
struct Shop<W: Work> {
    work: Arc<W>,
    crew: Crew,
    posts: Posts,
    cancelled: AtomicBool,
    to_do: Receiver<Numbered<W::Task>>,
    done: Sender<Numbered<Result<W::Output, Panicked>>>,
}

/// The results of tasks, in their order.
pub struct Ordered<W: Work> {
    shop: Arc<Shop<W>>,
    scratch: W::Scratch,
    threads: Vec<JoinHandle<()>>,
    tasks: Tasks<W>,
    /// Tasks in flight for each thread.
    each: usize,
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
    /// Starts as many threads as `crew` wants on `tasks`; none with 0, then [`Iterator::next`] works itself.
    /// At most `each` results for each thread exist before they are taken, at least one in all.
    pub fn start(
        work: Arc<W>,
        tasks: impl Iterator<Item = W::Task> + Send + 'static,
        crew: &Crew,
        each: usize,
    ) -> Self {
        let (give, to_do) = unbounded();
        let (done, results) = unbounded();
        let (crew, posts, cancelled) = (crew.clone(), Posts::default(), AtomicBool::new(false));
        let inline = crew.wanted() == 0;
        let mut ordered = Self {
            shop: Arc::new(Shop { work, crew, posts, cancelled, to_do, done }),
            scratch: W::Scratch::default(),
            threads: Vec::new(),
            tasks: Box::new(tasks),
            each,
            to_do: (!inline).then_some(give),
            results,
            early: BTreeMap::new(),
            taken: 0,
            handed_out: 0,
        };
        ordered.follow();
        ordered
    }

    /// Adds threads that are missing, and gives them as many tasks as may be in flight.
    fn follow(&mut self) {
        let Some(to_do) = &self.to_do else { return };
        let wanted = self.shop.crew.wanted().max(1);
        for post in self.shop.posts.take_free(wanted) {
            let shop = Arc::clone(&self.shop);
            self.threads.retain(|thread| !thread.is_finished());
            self.threads.push(std::thread::spawn(move || run(&shop, post)));
        }
        while self.handed_out - self.taken < (self.each * wanted).max(1)
            && let Some(task) = self.tasks.next()
        {
            // The shop holds the other end as long as this one lives.
            let _ = to_do.send((self.handed_out, task));
            self.handed_out += 1;
        }
    }
}

fn run<W: Work>(shop: &Shop<W>, post: usize) {
    crate::threads::begin();
    let mut scratch = W::Scratch::default();
    while let Ok((number, task)) = shop.to_do.recv() {
        if shop.cancelled.load(Ordering::Relaxed) {
            return;
        }
        let made = guarded(&*shop.work, task, &mut scratch);
        if shop.done.send((number, made)).is_err() || shop.posts.leaves(post, &shop.crew) {
            return;
        }
    }
}

/// A panic becomes a value, so that whoever waits for the result learns of it.
fn guarded<W: Work>(work: &W, task: W::Task, scratch: &mut W::Scratch) -> Result<W::Output, Panicked> {
    let made = catch_unwind(AssertUnwindSafe(|| work.make(task, scratch))).map_err(|_| Panicked);
    crate::pulse::tick();
    made
}

impl<W: Work> Iterator for Ordered<W> {
    type Item = Result<W::Output, Panicked>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.to_do.is_none() {
            return self.tasks.next().map(|task| guarded(&*self.shop.work, task, &mut self.scratch));
        }
        if self.taken == self.handed_out {
            return None;
        }
        let number = self.taken;
        self.taken += 1;
        loop {
            if let Some(result) = self.early.remove(&number) {
                self.follow();
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
        self.shop.cancelled.store(true, Ordering::Relaxed);
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
            for each in [0, 1, 5, 100] {
                let results = Ordered::start(squares(None).0, 3..40, &Crew::new(workers), each);
                let found: Vec<_> = results.map(Result::unwrap).collect();
                assert_eq!(found, (3..40).map(|x| x * x).collect::<Vec<_>>(), "{workers} {each}");
            }
        }
    }

    #[test]
    fn no_more_than_allowed_is_made_ahead_and_nothing_after_a_drop() {
        let (work, made) = squares(None);
        let mut results = Ordered::start(work, 0..1000, &Crew::new(2), 2);
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
            let results: Vec<_> = Ordered::start(squares(Some(2)).0, 0..5, &Crew::new(workers), 3).collect();
            assert_eq!(results, [Ok(0), Ok(1), Err(Panicked), Ok(9), Ok(16)]);
        }
    }

    #[test]
    fn threads_come_and_go_while_results_stay_in_order() {
        let crew = Crew::new(1);
        let mut results = Ordered::start(squares(None).0, 0..400, &crew, 2);
        let mut found = Vec::new();
        for workers in [5, 1, 3, 8, 2, 1, 4] {
            crew.ask(workers);
            found.extend(results.by_ref().take(50).map(Result::unwrap));
            assert!(results.handed_out - results.taken <= 2 * workers.max(8), "bounded");
            let filled = results.shop.posts.take_free(workers);
            assert_eq!(filled, Vec::<usize>::new(), "all {workers} are there");
        }
        // Those that are too many go when they have done what they are at.
        crew.ask(1);
        found.extend(results.by_ref().map(Result::unwrap));
        assert_eq!(found, (0..400).map(|x| x * x).collect::<Vec<_>>());
    }
}
