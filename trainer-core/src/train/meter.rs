//! How fast training goes, and how much of the time it waits for data.

use std::time::{Duration, Instant};

/// Speed over the last second or so.
#[derive(Debug)]
pub struct Meter {
    since: Instant,
    waited: Duration,
    images: u64,
}

/// What a [`Meter`] read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Training images a second.
    pub images_per_second: f64,
    /// Share of the time spent waiting for data, 0 to 1.
    pub loader_wait_ratio: f64,
}

/// Readings are at least so far apart.
const INTERVAL: Duration = Duration::from_secs(1);

impl Meter {
    /// Begins to measure.
    pub fn start() -> Self {
        Self { since: Instant::now(), waited: Duration::ZERO, images: 0 }
    }

    /// Takes note of a batch; `waited` is the loader's wait since the epoch began. Gives a reading and
    /// starts over when one is due.
    pub fn add(&mut self, images: u64, waited: Duration) -> Option<Reading> {
        self.images += images;
        let span = self.since.elapsed();
        if span < INTERVAL {
            return None;
        }
        let reading = reading(self.images, span, waited.saturating_sub(self.waited));
        *self = Self { since: Instant::now(), waited, images: 0 };
        Some(reading)
    }
}

/// Images over a span of which `waited` went by waiting.
#[expect(clippy::cast_precision_loss, reason = "images of a run are far below 2^52")]
pub fn reading(images: u64, span: Duration, waited: Duration) -> Reading {
    let seconds = span.as_secs_f64().max(1e-9);
    Reading {
        images_per_second: images as f64 / seconds,
        loader_wait_ratio: (waited.as_secs_f64() / seconds).clamp(0.0, 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_images_over_time_and_the_share_of_waiting() {
        let found = reading(32, Duration::from_secs(4), Duration::from_secs(1));
        assert_eq!(found, Reading { images_per_second: 8.0, loader_wait_ratio: 0.25 });
    }
}
