//! Work on the chunks of a list by several threads; the results are in the list's order.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Items in a chunk: few enough to share the work evenly, enough that sharing costs nothing.
const CHUNK: usize = 1024;

/// What `work` makes of each chunk of `items`, in order. Chunks are the same for any number of threads.
pub(crate) fn map_chunks<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&[T]) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = items.chunks(CHUNK).nth(number) else { return done };
            done.push((number, work(chunk)));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(run)).collect();
        let mut done = run();
        for other in others {
            match other.join() {
                Ok(results) => done.extend(results),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_the_same_and_in_order_for_any_number_of_threads() {
        let items: Vec<usize> = (0..3 * CHUNK + 7).collect();
        for threads in [0, 1, 2, 5] {
            let chunks = map_chunks(&items, threads, <[usize]>::to_vec);
            assert_eq!(
                chunks.iter().map(Vec::len).collect::<Vec<_>>(),
                [CHUNK, CHUNK, CHUNK, 7],
                "{threads}"
            );
            assert_eq!(chunks.concat(), items);
        }
        assert_eq!(map_chunks(&items[..0], 2, <[usize]>::len), Vec::<usize>::new());
    }
}
