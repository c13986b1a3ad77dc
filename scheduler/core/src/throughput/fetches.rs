//! What it costs to bring a data set of the cluster's store to a machine, as machines told that did it.
//!
//! Nothing of it is stored: it follows from the attempts of the jobs that are known.

use std::collections::BTreeMap;
use std::path::Path;

use trainyard_types::{Fetching, Reference};

/// Bytes a second before anybody has fetched anything: a line of 1 Gbit/s.
const TYPICAL_RATE: f64 = 110e6;
/// Fetches that count in the mean, at most.
const MEMORY: f64 = 20.0;
/// A fetch of less tells little of the line.
const LEAST_BYTES: u64 = 16 << 20;
/// Versions that are remembered.
const VERSIONS: usize = 10_000;

/// Sizes of versions, and the line's speed.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetches {
    /// Bytes that a machine lacked that had nothing of it; the most that any did.
    bytes: BTreeMap<String, u64>,
    /// Mean of the logarithm of bytes a second.
    log_rate: f64,
    weight: f64,
}

impl Default for Fetches {
    fn default() -> Self {
        Self { bytes: BTreeMap::new(), log_rate: TYPICAL_RATE.ln(), weight: 1.0 }
    }
}

impl Fetches {
    /// An attempt has told how far its data set has come.
    pub(crate) fn observe(&mut self, told: &Fetching) {
        self.note_size(told);
        if told.is_whole() && told.total_bytes >= LEAST_BYTES && told.bytes_per_second > 0.0 {
            self.weight = (self.weight + 1.0).min(MEMORY);
            self.log_rate += (told.bytes_per_second.ln() - self.log_rate) / self.weight;
        }
    }

    /// An agent has told how far what it prefetches has come: its size counts, and its speed does not, since a prefetch
    /// leaves the line to others.
    pub(crate) fn note_size(&mut self, told: &Fetching) {
        if self.bytes.len() < VERSIONS || self.bytes.contains_key(&told.what) {
            let known = self.bytes.entry(told.what.clone()).or_default();
            *known = (*known).max(told.total_bytes);
        }
    }

    /// Seconds until a data set is on a machine that has nothing of it; 0 of paths, and of versions that nobody has
    /// fetched: those are nowhere.
    pub fn seconds(&self, data: &Path) -> f64 {
        let is_stored = Reference::of_path(data).is_some();
        let bytes = data.to_str().filter(|_| is_stored).and_then(|data| self.bytes.get(data));
        bytes.map_or(0.0, |bytes| *bytes as f64 / self.log_rate.exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(what: &str, total_bytes: u64, bytes_per_second: f64) -> Fetching {
        Fetching { what: what.into(), done_bytes: total_bytes, total_bytes, bytes_per_second }
    }

    #[test]
    fn a_version_costs_its_bytes_on_the_line_that_was_seen() {
        let mut fetches = Fetches::default();
        let cells = Path::new("cells@0123");
        assert_eq!(fetches.seconds(cells), 0.0);
        fetches.observe(&fetched("cells@0123", 1_100_000_000, 0.0));
        assert!((fetches.seconds(cells) - 10.0).abs() < 0.1);
        // A machine that lacked little does not make it small.
        fetches.observe(&fetched("cells@0123", 1000, 1e3));
        assert!((fetches.seconds(cells) - 10.0).abs() < 0.1);
        for _ in 0..100 {
            fetches.observe(&fetched("cells@0123", 1_100_000_000, 11e6));
        }
        assert!((fetches.seconds(cells) - 100.0).abs() < 10.0, "{}", fetches.seconds(cells));
        assert_eq!(fetches.seconds(Path::new("/data/cells.yaml")), 0.0);
    }
}
