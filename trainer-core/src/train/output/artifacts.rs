//! What a run leaves for its user: weights, results.csv, args.yaml, TensorBoard's events, pictures.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::Kind;
use trainyard_data::Batch;
use trainyard_files::write_atomically;
use trainyard_types::{Batch as BatchSize, TrainSpec};

use super::tables::RESULTS;
use crate::eval::{Detection, Metrics, NmsConfig};
use crate::model::Model;
use crate::report::{args_yaml, pictures, tensorboard};
use crate::train::batch_tensors::images_of;
use crate::train::error::TrainError;
use crate::train::setup::Setup;
use crate::train::validate::detections;
use crate::weights::{self, HostTensors, Metadata, TensorFile};

/// The weights of the epoch with the highest mAP50-95.
pub const BEST: &str = "weights/best.safetensors";
/// The newest epoch's weights.
pub const LAST: &str = "weights/last.safetensors";
/// Every setting of the run.
pub const ARGS: &str = "args.yaml";
/// Images in the picture of a validation batch.
const SHOWN: usize = 16;

/// The artifacts of a run, relative to its directory, as far as they are there: what `finished` lists.
pub fn all(run_dir: &Path) -> Vec<PathBuf> {
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let validation = (0..pictures::VAL_BATCHES)
        .flat_map(|number| [pictures::val_labels(number), pictures::val_predictions(number)]);
    let training = pictures::train_batches(run_dir).into_iter().map(pictures::train_batch);
    let files = names(&[BEST, LAST, RESULTS, ARGS])
        .into_iter()
        .chain(names(&pictures::VALIDATION))
        .chain(names(&[pictures::RESULTS, pictures::LABELS]))
        .chain(validation)
        .chain(training)
        .map(PathBuf::from);
    let mut found: Vec<PathBuf> = files.filter(|name| run_dir.join(name).is_file()).collect();
    found.extend(tensorboard::event_file(run_dir));
    found
}

/// Why tensors of a model can always be encoded.
pub const ENCODABLE: &str = "tensors of a model have distinct names and known types";

/// The averaged weights of an epoch, on the host.
#[derive(Debug)]
pub struct EpochWeights {
    /// The epoch, from 1.
    pub epoch: u32,
    /// The tensors, under Ultralytics' names.
    pub tensors: Arc<HostTensors>,
    /// What is needed to use the weights: model, class names, image size.
    pub metadata: Metadata,
}

impl EpochWeights {
    /// Copies `model` as it is after `epoch` epochs. Waits for the device.
    pub fn copy(model: &Model, setup: &Setup, epoch: u32) -> Self {
        let names = serde_json::to_string(&setup.names).expect("texts are always JSON");
        let metadata = Metadata::from([
            ("model".to_owned(), setup.spec().model.to_string()),
            ("names".to_owned(), names),
            ("nc".to_owned(), setup.names.len().to_string()),
            ("imgsz".to_owned(), setup.spec().imgsz.to_string()),
            ("stride".to_owned(), "32".to_owned()),
            ("dtype".to_owned(), "float32".to_owned()),
            ("epoch".to_owned(), epoch.to_string()),
            ("format".to_owned(), "pt".to_owned()),
        ]);
        Self { epoch, tensors: Arc::new(HostTensors::copy(model.weights().named())), metadata }
    }

    /// The inverse of [`EpochWeights::encode`].
    ///
    /// # Errors
    /// A sentence, when it is something else.
    pub fn decode(bytes: &[u8], epoch: u32) -> Result<Self, String> {
        let TensorFile { tensors, metadata } = weights::parse(bytes)?;
        let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        Ok(Self { epoch, tensors: Arc::new(HostTensors::copy(named)), metadata })
    }

    /// Bytes of a safetensors file.
    pub fn encode(&self) -> Vec<u8> {
        self.tensors.encode(&self.metadata).expect(ENCODABLE)
    }
}

/// Replaces a file of the run directory, whose folder is made if need be.
pub fn write(run_dir: &Path, name: &str, bytes: &[u8]) -> Result<(), TrainError> {
    let path = run_dir.join(name);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
    }
    write_atomically(&path, bytes).map_err(TrainError::io(path))
}

/// Writes args.yaml: the spec, with the optimiser and the batch size that are really used.
pub fn write_args(run_dir: &Path, setup: &Setup, batch_size: u32) -> Result<(), TrainError> {
    let path = run_dir.join(ARGS);
    let used = TrainSpec { batch: BatchSize::Size(batch_size), ..setup.resolved.clone() };
    args_yaml::write(&path, setup.spec(), &used).map_err(TrainError::io(path))
}

/// What `finished` says about the best weights: the means, then mAP per class.
pub fn final_metrics(metrics: &Metrics, names: &[String]) -> BTreeMap<String, f64> {
    let mut all = mean_metrics(metrics);
    for class in &metrics.classes {
        let Some(name) = names.get(class.class) else { continue };
        all.insert(format!("metrics/mAP50(B)/{name}"), class.ap50());
        all.insert(format!("metrics/mAP50-95(B)/{name}"), class.ap50_95());
    }
    all
}

/// The four columns of results.csv that come from a validation.
pub fn mean_metrics(metrics: &Metrics) -> BTreeMap<String, f64> {
    BTreeMap::from([
        ("metrics/precision(B)".to_owned(), metrics.precision),
        ("metrics/recall(B)".to_owned(), metrics.recall),
        ("metrics/mAP50(B)".to_owned(), metrics.map50),
        ("metrics/mAP50-95(B)".to_owned(), metrics.map50_95),
    ])
}

/// The first validation images, as a model sees them.
#[derive(Debug)]
pub struct Sample {
    number: usize,
    batch: Batch,
    found: Vec<Vec<Detection>>,
}

impl Sample {
    /// The first images, sheet by sheet, as `model` sees them. On the device one at a time: where a batch of training
    /// just fits, as many at once in 32 bits may not.
    pub fn of<'a>(
        setup: &Setup,
        model: &'a Model,
    ) -> impl Iterator<Item = Result<Self, TrainError>> + use<'a> {
        let batch_size = u32::try_from(SHOWN / 2).unwrap_or(1);
        let batches = setup.val_loader(batch_size).pass().take(pictures::VAL_BATCHES).enumerate();
        batches.map(|(number, batch)| {
            let batch = batch?;
            let see = |image: usize| {
                let images = images_of(&batch, image..image + 1, model.device(), Kind::Float);
                detections(&model.detect(&images), &NmsConfig::predict())
            };
            let found = (0..batch.n).flat_map(see).collect();
            Ok(Self { number, batch, found })
        })
    }

    /// Draws the images with their labels, and with what the model sees.
    ///
    /// # Errors
    /// When a picture cannot be written.
    pub fn write(&self, run_dir: &Path, names: &[String]) -> Result<(), TrainError> {
        let labels = run_dir.join(pictures::val_labels(self.number));
        pictures::write_batch(&labels, &self.batch, names).map_err(TrainError::io(labels))?;
        let predictions = run_dir.join(pictures::val_predictions(self.number));
        pictures::write_predictions(&predictions, &self.batch, &self.found, names)
            .map_err(TrainError::io(predictions))
    }
}
