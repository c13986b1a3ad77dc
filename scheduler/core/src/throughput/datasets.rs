//! How many images data sets have, as trainers counted them, and what an epoch over them costs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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
    /// Images of the validation set.
    #[serde(default)]
    pub val_images: u64,
    /// Counts up with each data set that is seen; the lowest is forgotten first.
    pub seen: u64,
}

/// How many images a trainer counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageCounts {
    pub(crate) train: u64,
    pub(crate) val: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Images {
    train: u64,
    val: u64,
    seen: u64,
}

/// How many images data sets have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DataSets {
    images: BTreeMap<PathBuf, Images>,
    by_age: BTreeSet<(u64, PathBuf)>,
}

impl DataSets {
    /// How many images train, as the newest job with this data set said; otherwise what is typical.
    pub fn images(&self, path: &Path) -> u64 {
        self.images.get(path).map_or(TYPICAL_IMAGES, |images| images.train)
    }

    /// What an epoch over this fraction of the training images costs, validation included, in training images.
    pub(crate) fn work(&self, path: &Path, fraction: f64) -> f64 {
        let val = self.images.get(path).map_or(0, |images| images.val);
        let (train, val) = (self.images(path) as f64, val as f64);
        train * fraction + val * VALIDATION_COSTS
    }

    /// A trainer counted its images, of which it takes this fraction. Returns what is to be stored, and what to
    /// be forgotten.
    pub(crate) fn count(
        &mut self,
        path: &Path,
        counted: ImageCounts,
        fraction: f64,
    ) -> Option<(DataRecord, Option<PathBuf>)> {
        let images = (counted.train as f64 / fraction).round() as u64;
        let same = |known: &Images| {
            // Rounded fractions give all images but for a few.
            known.train.abs_diff(images) <= images / 100 && known.val == counted.val
        };
        if self.images.get(path).is_some_and(same) || counted.train == 0 {
            return None;
        }
        let seen = self.by_age.last().map_or(0, |(seen, _)| seen + 1);
        let record = DataRecord { path: path.to_owned(), images, val_images: counted.val, seen };
        self.load(record.clone());
        let oldest = if self.images.len() > DATA_SETS { self.by_age.pop_first() } else { None };
        let forgotten = oldest.map(|(_, path)| path);
        if let Some(path) = &forgotten {
            self.images.remove(path);
        }
        Some((record, forgotten))
    }

    pub(crate) fn load(&mut self, record: DataRecord) {
        let DataRecord { path, images, val_images, seen } = record;
        let images = Images { train: images, val: val_images, seen };
        if let Some(before) = self.images.insert(path.clone(), images) {
            self.by_age.remove(&(before.seen, path.clone()));
        }
        self.by_age.insert((seen, path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_count_of_a_data_set_counts_and_the_oldest_set_is_forgotten() {
        let mut sets = DataSets::default();
        let counted = |train| ImageCounts { train, val: 0 };
        let path = |number: usize| PathBuf::from(format!("/data/{number}.yaml"));
        for number in 0..DATA_SETS {
            assert_eq!(sets.count(&path(number), counted(7), 1.0).unwrap().1, None);
        }
        assert_eq!(sets.count(&path(0), counted(7), 1.0), None);
        assert_eq!(sets.count(&path(0), counted(8), 1.0).unwrap().0.images, 8);
        assert_eq!(sets.count(&path(DATA_SETS), counted(9), 1.0).unwrap().1, Some(path(1)));
        assert_eq!((sets.images(&path(0)), sets.images(&path(1))), (8, TYPICAL_IMAGES));
    }

    #[test]
    fn a_job_that_takes_a_fraction_does_not_make_the_data_set_smaller_for_others() {
        let (mut sets, path) = (DataSets::default(), Path::new("/data/cells.yaml"));
        let counted = |train| ImageCounts { train, val: 300 };
        sets.count(path, counted(100), 0.1);
        assert_eq!((sets.images(path), sets.work(path, 1.0), sets.work(path, 0.1)), (1000, 1100.0, 200.0));
        assert_eq!(sets.count(path, counted(333), 1.0 / 3.0), None, "the same set, but for rounding");
        assert_eq!(sets.count(path, counted(500), 1.0).unwrap().0.images, 500);
    }
}
