//! How much of its epochs a job still has to do, as far as jobs of late really went.
//!
//! Users declare epochs; many jobs stop before. What is learned is at which share of their epochs jobs end,
//! and from that how much is to be expected of one that has come as far as this.

use serde::{Deserialize, Serialize};

/// Bins of the share of its epochs at which a job ended, and one for all of them.
const BINS: usize = 20;
/// So many jobs that went all the way are assumed to have been seen already.
const PRIOR: f64 = 10.0;
/// What older ends count less with each new one: the last thousand or so count.
const FADE: f64 = 0.998;

/// What is stored of when jobs stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StopsRecord {
    /// Jobs that ended in each twentieth of their epochs, and those that did all of them.
    pub ended: Vec<f64>,
}

/// At which share of their epochs jobs ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EarlyStops {
    ended: [f64; BINS + 1],
}

impl Default for EarlyStops {
    fn default() -> Self {
        let mut ended = [0.0; BINS + 1];
        ended[BINS] = PRIOR;
        Self { ended }
    }
}

impl EarlyStops {
    /// A job came to its end at this share of its epochs, 0 to 1.
    pub(crate) fn end(&mut self, share: f64) -> StopsRecord {
        for count in &mut self.ended {
            *count *= FADE;
        }
        self.ended[bin(share)] += 1.0;
        StopsRecord { ended: self.ended.to_vec() }
    }

    pub(crate) fn load(&mut self, record: &StopsRecord) {
        let sound = record.ended.iter().all(|count| count.is_finite() && *count >= 0.0);
        if let (true, Ok(ended)) = (sound, <[f64; BINS + 1]>::try_from(record.ended.as_slice())) {
            self.ended = ended;
        }
    }

    /// What share of all its epochs a job that has done `done` of them, 0 to 1, is still to do on average.
    pub fn left(&self, done: f64) -> f64 {
        let from = bin(done.clamp(0.0, 1.0));
        let (mut sum, mut count) = (0.0, 0.0);
        for (at, &ended) in self.ended.iter().enumerate().skip(from) {
            let end = if at == BINS { 1.0 } else { (at as f64 + 0.5) / BINS as f64 };
            sum += ended * (end - done).max(0.0);
            count += ended;
        }
        // Nobody is seen to have come so far: it does what it said.
        let left = if count > 0.0 { sum / count } else { 1.0 - done };
        left.max(1e-3)
    }
}

fn bin(share: f64) -> usize {
    (share.clamp(0.0, 1.0) * BINS as f64 + 1e-9).floor() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_early_stops_a_job_does_what_it_declares() {
        let stops = EarlyStops::default();
        assert!((stops.left(0.0) - 1.0).abs() < 1e-12);
        assert!((stops.left(0.75) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn early_stops_shorten_what_is_expected_until_they_are_behind() {
        let mut stops = EarlyStops::default();
        for _ in 0..500 {
            stops.end(1.0);
            stops.end(0.5);
        }
        assert!((stops.left(0.0) - 0.76).abs() < 0.02, "{}", stops.left(0.0));
        assert!((stops.left(0.6) - 0.4).abs() < 1e-9);
    }
}
