//! How much work a job still has: epochs times images, as far as jobs of late really went.
//!
//! Users declare epochs; many jobs stop before. What is learned is at which share of their epochs jobs end,
//! and from that how much is to be expected of one that has come as far as this.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Bins of the share of its epochs at which a job ended, and one for all of them.
const BINS: usize = 20;
/// So many jobs that went all the way are assumed to have been seen already.
const PRIOR: f64 = 10.0;
/// What older ends count less with each new one: the last thousand or so count.
const FADE: f64 = 0.998;
/// Images of a data set of which nothing is known.
const TYPICAL_IMAGES: u64 = 5000;
/// What an image costs that is only validated, of one that trains: the forward pass without the backward one.
const VALIDATION_COSTS: f64 = 1.0 / 3.0;
/// Data sets that are remembered.
const DATA_SETS: usize = 10_000;

/// What is stored of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRecord {
    /// Its data.yaml, as users name it.
    pub path: PathBuf,
    /// Images that train, all of them.
    pub images: u64,
    /// Images that validate.
    #[serde(default)]
    pub val_images: u64,
    /// Counts up with each data set that is seen; the lowest is forgotten first.
    pub seen: u64,
}

/// What is stored of when jobs stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StopsRecord {
    /// Jobs that ended in each twentieth of their epochs, and those that did all of them.
    pub ended: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Images {
    train: u64,
    val: u64,
    seen: u64,
}

/// Data sets and stops.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    images: BTreeMap<PathBuf, Images>,
    by_age: BTreeSet<(u64, PathBuf)>,
    ended: [f64; BINS + 1],
}

impl Default for Sizes {
    fn default() -> Self {
        let mut ended = [0.0; BINS + 1];
        ended[BINS] = PRIOR;
        Self { images: BTreeMap::new(), by_age: BTreeSet::new(), ended }
    }
}

impl Sizes {
    /// How many images train, as the newest job with this data set said; otherwise what is typical.
    pub fn images(&self, path: &Path) -> u64 {
        self.images.get(path).map_or(TYPICAL_IMAGES, |images| images.train)
    }

    /// What an epoch over this fraction of the training images costs, validation included, in training images.
    pub(crate) fn work(&self, path: &Path, fraction: f64) -> f64 {
        let val = self.images.get(path).map_or(0, |images| images.val);
        #[expect(clippy::cast_precision_loss, reason = "images are far below 2^52")]
        let (train, val) = (self.images(path) as f64, val as f64);
        train * fraction + val * VALIDATION_COSTS
    }

    /// A trainer counted its images, of which it takes this fraction. Returns what is to be stored, and what to
    /// be forgotten.
    pub(crate) fn count(
        &mut self,
        path: &Path,
        (taken, val_images): (u64, u64),
        fraction: f64,
    ) -> Option<(DataRecord, Option<PathBuf>)> {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "images are far below 2^52, and not negative"
        )]
        let images = (taken as f64 / fraction).round() as u64;
        let same = |known: &Images| {
            // Rounded fractions give all images but for a few.
            known.train.abs_diff(images) <= images / 100 && known.val == val_images
        };
        if self.images.get(path).is_some_and(same) || taken == 0 {
            return None;
        }
        let seen = self.by_age.last().map_or(0, |(seen, _)| seen + 1);
        let record = DataRecord { path: path.to_owned(), images, val_images, seen };
        self.load_data(record.clone());
        let oldest = if self.images.len() > DATA_SETS { self.by_age.pop_first() } else { None };
        let forgotten = oldest.map(|(_, path)| path);
        if let Some(path) = &forgotten {
            self.images.remove(path);
        }
        Some((record, forgotten))
    }

    pub(crate) fn load_data(&mut self, record: DataRecord) {
        let DataRecord { path, images, val_images, seen } = record;
        let images = Images { train: images, val: val_images, seen };
        if let Some(before) = self.images.insert(path.clone(), images) {
            self.by_age.remove(&(before.seen, path.clone()));
        }
        self.by_age.insert((seen, path));
    }

    /// A job came to its end at this share of its epochs, 0 to 1.
    pub(crate) fn end(&mut self, share: f64) -> StopsRecord {
        for count in &mut self.ended {
            *count *= FADE;
        }
        self.ended[bin(share)] += 1.0;
        StopsRecord { ended: self.ended.to_vec() }
    }

    pub(crate) fn load_stops(&mut self, record: &StopsRecord) {
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
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and BINS")]
    let bin = (share.clamp(0.0, 1.0) * BINS as f64 + 1e-9).floor() as usize;
    bin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_early_stops_a_job_does_what_it_declares() {
        let sizes = Sizes::default();
        assert!((sizes.left(0.0) - 1.0).abs() < 1e-12);
        assert!((sizes.left(0.75) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn early_stops_shorten_what_is_expected_until_they_are_behind() {
        let mut sizes = Sizes::default();
        for _ in 0..500 {
            sizes.end(1.0);
            sizes.end(0.5);
        }
        assert!((sizes.left(0.0) - 0.76).abs() < 0.02, "{}", sizes.left(0.0));
        assert!((sizes.left(0.6) - 0.4).abs() < 1e-9);
    }

    #[test]
    fn the_newest_count_of_a_data_set_counts_and_the_oldest_set_is_forgotten() {
        let mut sizes = Sizes::default();
        let path = |number: usize| PathBuf::from(format!("/data/{number}.yaml"));
        for number in 0..DATA_SETS {
            assert_eq!(sizes.count(&path(number), (7, 0), 1.0).unwrap().1, None);
        }
        assert_eq!(sizes.count(&path(0), (7, 0), 1.0), None);
        assert_eq!(sizes.count(&path(0), (8, 0), 1.0).unwrap().0.images, 8);
        assert_eq!(sizes.count(&path(DATA_SETS), (9, 0), 1.0).unwrap().1, Some(path(1)));
        assert_eq!((sizes.images(&path(0)), sizes.images(&path(1))), (8, TYPICAL_IMAGES));
    }

    #[test]
    fn a_job_that_takes_a_fraction_does_not_make_the_data_set_smaller_for_others() {
        let (mut sizes, path) = (Sizes::default(), Path::new("/data/cells.yaml"));
        sizes.count(path, (100, 300), 0.1);
        assert_eq!((sizes.images(path), sizes.work(path, 1.0), sizes.work(path, 0.1)), (1000, 1100.0, 200.0));
        assert_eq!(sizes.count(path, (333, 300), 1.0 / 3.0), None, "the same set, but for rounding");
        assert_eq!(sizes.count(path, (500, 300), 1.0).unwrap().0.images, 500);
    }
}
