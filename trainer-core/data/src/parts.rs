//! Work on the parts of a list by several threads; what comes of them is in the list's order.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Items in a part: few enough to share them evenly, enough that sharing costs nothing.
const PART: usize = 1024;

/// What `work` makes of each part of `items`. Parts are the same for any number of threads.
pub(crate) fn by_parts<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&[T]) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = items.chunks(PART).nth(number) else { return done };
            done.push((number, work(part)));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(run)).collect();
        let mut done = run();
        for other in others {
            match other.join() {
                Ok(found) => done.extend(found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, made)| made).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_same_and_in_order_for_any_number_of_threads() {
        let items: Vec<usize> = (0..3 * PART + 7).collect();
        for threads in [0, 1, 2, 5] {
            let parts = by_parts(&items, threads, <[usize]>::to_vec);
            assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [PART, PART, PART, 7], "{threads}");
            assert_eq!(parts.concat(), items);
        }
        assert_eq!(by_parts(&items[..0], 2, <[usize]>::len), Vec::<usize>::new());
    }
}
