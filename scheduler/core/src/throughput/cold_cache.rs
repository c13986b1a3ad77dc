//! What the first epoch on a machine costs that has not decoded the data set yet: it fills the cache.

use serde::{Deserialize, Serialize};

/// Epochs that count, at most.
const MEMORY: f64 = 50.0;
/// So many epochs that were no slower are assumed to have been seen already.
const PRIOR: f64 = 1.0;
/// A first epoch counts as at most so many times as long.
const LONGEST: f64 = 20.0;
/// It is stored again when it has moved by this.
const WORTH_WRITING: f64 = 0.03;

/// What is stored of the cost of a cold cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColdRecord {
    /// Mean of the logarithm of how many times as long such an epoch takes.
    pub log_mean: f64,
    /// First epochs that count in the mean.
    pub weight: f64,
}

/// How many times as long such an epoch takes as those that follow it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ColdCache {
    mean: f64,
    weight: f64,
    stored: f64,
}

impl Default for ColdCache {
    fn default() -> Self {
        Self { mean: 0.0, weight: PRIOR, stored: 0.0 }
    }
}

impl ColdCache {
    /// How many times as long a first epoch takes; at least 1.
    pub fn factor(&self) -> f64 {
        self.mean.exp().max(1.0)
    }

    /// An attempt's first epoch, and its second one, in images a second. Returns what is to be stored.
    pub(crate) fn observe(&mut self, first: f64, second: f64) -> Option<ColdRecord> {
        let ratio = second / first;
        if !(ratio.is_finite() && ratio > 0.0) {
            return None;
        }
        self.weight = (self.weight + 1.0).min(MEMORY);
        self.mean += (ratio.clamp(1.0 / LONGEST, LONGEST).ln() - self.mean) / self.weight;
        let worth = (self.mean - self.stored).abs() > WORTH_WRITING;
        if worth {
            self.stored = self.mean;
        }
        worth.then_some(ColdRecord { log_mean: self.mean, weight: self.weight })
    }

    pub(crate) fn load(&mut self, record: &ColdRecord) {
        if record.log_mean.is_finite() && record.weight.is_finite() && record.weight >= PRIOR {
            *self =
                Self { mean: record.log_mean, weight: record.weight.min(MEMORY), stored: record.log_mean };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_first_epochs_are_learned_and_fast_ones_never_make_cold_better_than_warm() {
        let mut cold = ColdCache::default();
        assert_eq!(cold.factor(), 1.0);
        for _ in 0..40 {
            cold.observe(100.0, 200.0);
        }
        assert!((cold.factor() - 2.0).abs() < 0.1, "{}", cold.factor());
        assert_eq!(cold.observe(0.0, 200.0), None);
        let mut again = ColdCache::default();
        again.load(&ColdRecord { log_mean: 2_f64.ln(), weight: 40.0 });
        assert!((again.factor() - 2.0).abs() < 1e-9);
        for _ in 0..200 {
            cold.observe(200.0, 100.0);
        }
        assert_eq!(cold.factor(), 1.0);
    }
}
