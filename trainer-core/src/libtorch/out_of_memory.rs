//! Whether an error means that a GPU's memory ran out: by its words, and where those leave it open, by numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use tch::Device;
use trainyard_types::oom_words::{self, OomVerdict};

use super::{MemoryStats, TorchError, catch, memory_stats};

/// How often memory had run out in libtorch's allocator when its numbers were looked at last.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Notes how often memory has run out in libtorch's allocator: what comes after that is new.
pub(super) fn note(out_of_memory: u64) {
    SEEN.store(out_of_memory, Ordering::Relaxed);
}

impl TorchError {
    /// Whether the device's memory ran out, as far as words alone tell.
    pub fn is_out_of_memory(&self) -> bool {
        oom_words::verdict(&self.message) == OomVerdict::Yes
    }

    /// The same error; one that is also said for want of memory says so in words that leave no doubt, if the numbers of
    /// the allocator agree. `seen` is the count of [`MemoryStats::out_of_memory`] before, `stats` asks for the numbers.
    fn judged(self, seen: u64, stats: impl FnOnce() -> Option<MemoryStats>) -> Self {
        if oom_words::verdict(&self.message) != OomVerdict::Perhaps {
            return self;
        }
        let Some(stats) = stats() else { return self };
        let (free, total) = (stats.free_bytes >> 20, stats.total_bytes >> 20);
        let evidence = if stats.out_of_memory > seen {
            "libtorch's allocator got none".to_owned()
        } else if oom_words::is_nearly_full(free, total) {
            format!("{free} of {total} MiB are free")
        } else {
            return self;
        };
        Self { message: format!("CUDA out of memory, as {evidence}: {}", self.message) }
    }
}

/// [`catch`] of work on `device`. Memory that runs out inside of cuDNN or cuBLAS, which say it in words that also mean
/// other things, is told as such.
///
/// # Errors
/// libtorch's exception.
pub fn catch_on<T>(device: Device, work: impl FnOnce() -> T) -> Result<T, TorchError> {
    catch(work).map_err(|error| {
        let seen = SEEN.load(Ordering::Relaxed);
        error.judged(seen, || memory_stats(device))
    })
}

#[cfg(test)]
mod tests {
    use super::super::rethrow;
    use super::*;

    const AMBIGUOUS: &str = "FIND was unable to find an engine to execute this computation";

    fn stats(out_of_memory: u64, free_mib: u64) -> MemoryStats {
        MemoryStats {
            allocated_bytes: 0,
            peak_allocated_bytes: 0,
            reserved_bytes: 0,
            peak_reserved_bytes: 0,
            free_bytes: free_mib << 20,
            total_bytes: 24_564 << 20,
            out_of_memory,
            retries: 0,
        }
    }

    fn judged(message: &str, seen: u64, stats: Option<MemoryStats>) -> TorchError {
        TorchError { message: message.into() }.judged(seen, || stats)
    }

    #[test]
    fn cudnns_words_mean_memory_where_the_allocator_ran_out_or_little_is_free() {
        let rose = judged(AMBIGUOUS, 3, Some(stats(4, 9000)));
        assert!(rose.is_out_of_memory() && rose.message.ends_with(AMBIGUOUS), "{rose}");
        let full = judged(AMBIGUOUS, 4, Some(stats(4, 100)));
        assert!(full.is_out_of_memory() && full.message.contains("100 of 24564 MiB are free"), "{full}");
        // Judged once, on its way up it stays judged.
        assert_eq!(full.clone().judged(4, || Some(stats(4, 9000))), full);
    }

    #[test]
    fn cudnns_words_are_any_other_error_where_there_is_room_or_nobody_tells() {
        for stats in [Some(stats(4, 9000)), None] {
            let error = judged(AMBIGUOUS, 4, stats);
            assert!(!error.is_out_of_memory() && error.message == AMBIGUOUS, "{error}");
        }
    }

    #[test]
    fn a_broken_context_is_no_want_of_memory_and_numbers_are_not_asked_of_it() {
        let broken = TorchError { message: "CUDA error: an illegal memory access was encountered".into() };
        let same = broken.clone().judged(0, || panic!("the context is broken"));
        assert!(same == broken && !same.is_out_of_memory());
    }

    #[test]
    fn work_on_the_cpu_has_no_such_numbers() {
        let fail = |text: &str| rethrow(&TorchError { message: text.into() });
        let error = catch_on::<()>(Device::Cpu, || fail(AMBIGUOUS)).unwrap_err();
        assert!(!error.is_out_of_memory(), "{error}");
        let error = catch_on::<()>(Device::Cpu, || fail("CUDA out of memory. Tried")).unwrap_err();
        assert!(error.is_out_of_memory(), "{error}");
    }
}
