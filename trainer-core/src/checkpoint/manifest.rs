//! What a checkpoint says about itself: where training stands, and the hashes of its files.
//!
//! Names on the disk stay as they are, as older and newer trainers read each other's checkpoints.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use trainyard_types::{ModelScale, Optimizer};

/// Version of the layout on disk.
pub const VERSION: u32 = 2;
/// Name of the manifest's file.
pub const FILE: &str = "manifest.json";

/// The manifest's content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// Where training stands.
    pub progress: Progress,
    /// Every other file of the directory, by name.
    pub files: BTreeMap<String, FileHash>,
}

/// The hash and the size of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHash {
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Which run a checkpoint belongs to; one of another run is not resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The model's scale.
    pub model: ModelScale,
    /// Class names by id.
    pub names: Vec<String>,
    /// Training images.
    pub images: u64,
    /// The spec's seed.
    pub seed: u64,
    /// Digest of the training images' names and sizes; empty in checkpoints that were made before there
    /// was one.
    #[serde(default)]
    pub images_digest: String,
    /// Digest of the training images' objects; empty as above.
    #[serde(default)]
    pub labels_digest: String,
    /// Digest of the validation images, which say what the best epoch is; empty as above.
    #[serde(default)]
    pub val_digest: String,
    /// Digest of the validation images' objects; empty as above.
    #[serde(default)]
    pub val_labels_digest: String,
    /// Long side of the images; unknown in older checkpoints, as all that follows.
    #[serde(default)]
    pub imgsz: Option<u32>,
    /// Images of an optimiser step.
    #[serde(default)]
    pub nbs: Option<u32>,
    /// The optimiser; never `auto`.
    #[serde(default)]
    pub optimizer: Option<Optimizer>,
}

impl Identity {
    /// Without all that older checkpoints do not know, which nothing is compared with then.
    pub const fn new(model: ModelScale, names: Vec<String>, images: u64, seed: u64) -> Self {
        Self {
            model,
            names,
            images,
            seed,
            images_digest: String::new(),
            labels_digest: String::new(),
            val_digest: String::new(),
            val_labels_digest: String::new(),
            imgsz: None,
            nbs: None,
            optimizer: None,
        }
    }

    /// In what a run with this identity differs from one with `other`'s, so that it cannot go on from its
    /// checkpoints: a sentence without its beginning.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.model != other.model {
            return Some(format!("its model is {}, not {}", other.model, self.model));
        }
        if self.names != other.names {
            let classes = |names: &[String]| names.join(", ");
            return Some(format!("its classes are {}, not {}", classes(&other.names), classes(&self.names)));
        }
        if self.images != other.images {
            return Some(format!("it has {} training images, not {}", other.images, self.images));
        }
        if differ(&self.images_digest, &other.images_digest) {
            return Some("its training images have other names or sizes".to_owned());
        }
        if differ(&self.val_digest, &other.val_digest) {
            return Some("its validation images are others, or have other names or sizes".to_owned());
        }
        let rule = |optimizer: Option<Optimizer>| optimizer.map(Optimizer::name);
        field("imgsz", self.imgsz, other.imgsz)
            .or_else(|| field("nbs", self.nbs, other.nbs))
            .or_else(|| field("optimizer", rule(self.optimizer), rule(other.optimizer)))
            .or_else(|| field("seed", Some(self.seed), Some(other.seed)))
    }

    /// Which images are the same and have other objects, if any.
    pub fn changed_labels(&self, other: &Self) -> Option<&'static str> {
        let train = differ(&self.labels_digest, &other.labels_digest);
        let val = differ(&self.val_labels_digest, &other.val_labels_digest);
        match (train, val) {
            (true, true) => Some("training and validation images"),
            (true, false) => Some("training images"),
            (false, true) => Some("validation images"),
            (false, false) => None,
        }
    }
}

/// Whether two digests are known and differ.
fn differ(a: &str, b: &str) -> bool {
    !a.is_empty() && !b.is_empty() && a != b
}

/// The sentence about a field, if both know it and it differs.
fn field<T: PartialEq + fmt::Display>(name: &str, ours: Option<T>, theirs: Option<T>) -> Option<String> {
    let (ours, theirs) = (ours?, theirs?);
    (ours != theirs).then(|| format!("its `{name}` is {theirs}, not {ours}"))
}

/// Where training stands, next to the tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The run that the checkpoint is of.
    pub identity: Identity,
    /// Batches trained since the start. Only grows, so it names and orders a run's checkpoints.
    #[serde(rename = "step")]
    pub batches: u64,
    /// Optimiser updates done, skipped ones included.
    pub updates: u64,
    /// Epochs completed, validation included.
    pub epoch: u32,
    /// Images of the next epoch that are trained already.
    pub images_done: u64,
    /// Batches of that epoch that are trained already.
    pub batches_done: u64,
    /// Units of images (see [`crate::optim::Schedule`]) of earlier epochs whose gradients were accumulated, but
    /// had not made a step, when that epoch began.
    #[serde(rename = "units_waiting")]
    pub units_accumulated: u64,
    /// Images of the accumulated gradients, which are in a file of their own.
    #[serde(rename = "images_waiting")]
    pub images_accumulated: u64,
    /// Soft scores in those images.
    #[serde(rename = "scores_waiting")]
    pub scores_accumulated: f64,
    /// Images per batch, at most.
    pub batch_size: u32,
    /// Updates of the exponential moving average.
    pub ema_updates: u64,
    /// Box, class and distribution loss times images, summed up over that epoch's batches so far.
    pub loss_sums: [f64; 3],
    /// Seconds since training began, pauses left out.
    pub seconds: f64,
    /// Seconds that epoch has trained so far.
    pub epoch_seconds: f64,
    /// Of those, seconds spent waiting for the loader.
    #[serde(rename = "epoch_waited")]
    pub epoch_loader_wait: f64,
    /// Loss scale and the steps since it changed.
    pub scaler: Option<(f64, i64)>,
    /// Whether 16-bit training had to be given up.
    pub amp_off: bool,
    /// Whether 16-bit floats of little range had to be; unknown in older checkpoints.
    #[serde(default)]
    pub fp16_off: bool,
    /// Epochs that the run's `time` is enough for, as far as is known.
    #[serde(default)]
    pub epochs: Option<u32>,
    /// The best epoch so far.
    pub best: Option<Best>,
    /// One row per completed epoch.
    pub rows: Vec<Row>,
}

/// The best epoch so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its number, from 1.
    pub epoch: u32,
    /// Its mAP50-95.
    pub fitness: f64,
    /// Its metrics by name, as the `finished` event has them.
    pub metrics: BTreeMap<String, f64>,
}

/// An epoch's row of results.csv; rows are in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Seconds since training began.
    pub seconds: f64,
    /// The other columns, by name.
    pub metrics: BTreeMap<String, f64>,
}

impl Progress {
    /// Before the first step.
    pub const fn start(identity: Identity, batch_size: u32) -> Self {
        Self {
            identity,
            batches: 0,
            updates: 0,
            epoch: 0,
            images_done: 0,
            batches_done: 0,
            units_accumulated: 0,
            images_accumulated: 0,
            scores_accumulated: 0.0,
            batch_size,
            ema_updates: 0,
            loss_sums: [0.0; 3],
            seconds: 0.0,
            epoch_seconds: 0.0,
            epoch_loader_wait: 0.0,
            scaler: None,
            amp_off: false,
            fp16_off: false,
            epochs: None,
            best: None,
            rows: Vec::new(),
        }
    }

    /// Closes an epoch, whose figures are `row`. `units_left`: units whose gradients are accumulated still.
    pub fn begin_next_epoch(&mut self, units_left: u64, row: Row) {
        self.units_accumulated = units_left;
        self.epoch += 1;
        self.images_done = 0;
        self.batches_done = 0;
        self.epoch_seconds = 0.0;
        self.epoch_loader_wait = 0.0;
        self.rows.push(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_checkpoint_has_given_up_nothing_that_it_does_not_know() {
        let identity = Identity::new(ModelScale::N, Vec::new(), 4, 0);
        let mut stored = serde_json::to_value(Progress::start(identity.clone(), 2)).unwrap();
        assert!(stored.as_object_mut().unwrap().remove("fp16_off").is_some());
        assert_eq!(serde_json::from_value::<Progress>(stored).unwrap(), Progress::start(identity, 2));
    }

    #[test]
    fn an_older_checkpoint_is_compared_in_what_it_knows() {
        let text = r#"{"model": "yolov8n", "names": ["cell"], "images": 4, "seed": 1}"#;
        let old: Identity = serde_json::from_str(text).unwrap();
        let new = Identity {
            val_digest: "v".into(),
            imgsz: Some(64),
            nbs: Some(64),
            optimizer: Some(Optimizer::Sgd),
            ..Identity::new(ModelScale::N, vec!["cell".into()], 4, 1)
        };
        assert_eq!((new.difference(&old), new.changed_labels(&old)), (None, None));
        let other = Identity { optimizer: Some(Optimizer::AdamW), ..new.clone() };
        assert_eq!(new.difference(&other).unwrap(), "its `optimizer` is AdamW, not SGD");
        assert_eq!(new.difference(&Identity { seed: 2, ..old }).unwrap(), "its `seed` is 2, not 1");
    }
}
