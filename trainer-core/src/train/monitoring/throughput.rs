//! How fast training goes, in images a second, and the share of the time that it waits for data.

use std::time::{Duration, Instant};

/// Measures the throughput over the last second or so.
#[derive(Debug)]
pub struct ThroughputMeter {
    since: Instant,
    /// The loader's wait since the epoch began, at `since`.
    loader_wait: Duration,
    images: u64,
}

/// How fast training goes over some span.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Training images a second.
    pub images_per_second: f64,
    /// Share of the time spent waiting for data, 0 to 1.
    pub loader_wait_ratio: f64,
}

/// Measurements are at least so far apart.
const INTERVAL: Duration = Duration::from_secs(1);

impl ThroughputMeter {
    /// Begins to measure.
    pub fn start() -> Self {
        Self { since: Instant::now(), loader_wait: Duration::ZERO, images: 0 }
    }

    /// Whether the next measurement is due in half of the time between two, or less.
    pub fn is_half_over(&self) -> bool {
        self.since.elapsed() >= INTERVAL / 2
    }

    /// Counts a batch; `loader_wait` is since the epoch began. Returns the throughput and starts over when
    /// a measurement is due.
    pub fn add(&mut self, images: u64, loader_wait: Duration) -> Option<Throughput> {
        self.images += images;
        let span = self.since.elapsed();
        if span < INTERVAL {
            return None;
        }
        let found = Throughput::of(self.images, span, loader_wait.saturating_sub(self.loader_wait));
        *self = Self { since: Instant::now(), loader_wait, images: 0 };
        Some(found)
    }
}

impl Throughput {
    /// `images` over a span, `loader_wait` of which went by waiting.
    pub fn of(images: u64, span: Duration, loader_wait: Duration) -> Self {
        let seconds = span.as_secs_f64().max(1e-9);
        Self {
            images_per_second: images as f64 / seconds,
            loader_wait_ratio: (loader_wait.as_secs_f64() / seconds).clamp(0.0, 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_images_over_time_and_the_share_of_waiting() {
        let found = Throughput::of(32, Duration::from_secs(4), Duration::from_secs(1));
        assert_eq!(found, Throughput { images_per_second: 8.0, loader_wait_ratio: 0.25 });
    }
}
