//! How long to wait before the next try: exponential, bounded, with jitter, so that agents do not all come back at once.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// The waits between tries that fail in a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next try.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.longest_wait();
        self.failures = self.failures.saturating_add(1);
        Self::jittered(wait)
    }

    /// `wait`, or as little as half of it.
    pub fn jittered(wait: Duration) -> Duration {
        wait.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// The wait before the next try, without jitter.
    fn longest_wait(self) -> Duration {
        FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST)
    }

    /// Begins again: a try has worked.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many tries have failed in a row.
    pub const fn failures(self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_ten_seconds_and_jitter_halves_at_most() {
        let mut backoff = Backoff::default();
        for longest in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let longest = Duration::from_millis(longest);
            let wait = backoff.next_wait();
            assert!(wait <= longest && wait >= longest / 2, "{wait:?} of {longest:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= FIRST);
    }
}
