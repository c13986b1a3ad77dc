//! `val`: how good weights are on a data set.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use trainyard_data::{CacheMode, DataYaml, ImageStore, OpenOptions, Split, ValConfig, ValLoader};
use trainyard_types::Violation;

use super::{data_file, device, end_with_the_gpu, load_model};
use crate::events::Events;
use crate::libtorch::{self, Precision};
use crate::loss::Gains;
use crate::report::pictures;
use crate::train::error::TrainError;
use crate::train::locked_pixels::pixel_memory;
use crate::train::memory::PhaseTracker;
use crate::train::output::console;
use crate::train::setup::{cores, open_split};
use crate::train::upload::Uploader;
use crate::train::validate::{ValidationConfig, ValidationDetails, validate_in_detail};

/// Print the mAP of weights on a data set.
#[derive(Debug, Args)]
pub struct Val {
    /// A weights file: safetensors, or PyTorch's .pt (read without running anything in it).
    #[arg(long, alias = "model", value_name = "FILE")]
    weights: PathBuf,
    /// The data set's data.yaml.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Which images: train, val or test.
    #[arg(long, default_value = "val", value_parser = ["train", "val", "test"])]
    split: String,
    /// Long side of the images; a multiple of 32. Default: as the weights were trained.
    #[arg(long)]
    imgsz: Option<usize>,
    /// Images per forward pass.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Treat every class as one.
    #[arg(long)]
    single_cls: bool,
    /// Draw the curves and the confusion matrix into this folder.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// cpu or cuda:0. Default: a GPU if the machine has a driver for one.
    #[arg(long)]
    device: Option<String>,
}

impl Val {
    /// Validates and prints the table.
    pub fn run(&self, cuda: &Result<(), String>) -> Result<(), TrainError> {
        libtorch::use_all_cores();
        end_with_the_gpu();
        let device = device(self.device.as_deref(), cuda)?;
        let loaded = load_model(&self.weights, device)?;
        let imgsz = self.imgsz.unwrap_or(loaded.imgsz);
        check_imgsz(imgsz)?;
        let data = data_file(&self.data)?;
        let yaml = DataYaml::read(&std::path::absolute(&data).map_err(TrainError::io(&data))?)?;
        let split = match self.split.as_str() {
            "train" => Split::Train,
            "test" => Split::Test,
            _ => Split::Val,
        };
        let options = OpenOptions { single_cls: self.single_cls, threads: cores(), ..OpenOptions::default() };
        let dataset = open_split(&yaml, split, &options, None, &[], &mut Events::default())?;
        if dataset.names.len() != loaded.names.len() {
            let (data, model) = (dataset.names.len(), loaded.names.len());
            let text =
                format!("has {data} classes, the weights have {model}; use weights trained on such data");
            return Err(TrainError::Spec(vec![Violation::new("data", text)]));
        }
        let names = dataset.names.clone();
        let (most_objects, tracker) = (dataset.most_objects(), PhaseTracker::default());
        let (gains, precision) = (Gains::default(), Precision::Fp32);
        let show = console::validating(&Events::default());
        let uploader = &libtorch::catch(|| Uploader::new(device, precision))?;
        let config = ValidationConfig { gains, precision, uploader, most_objects, tracker: &tracker, show };
        let store = Arc::new(ImageStore::new(Arc::new(dataset), imgsz, CacheMode::None));
        let loading = ValConfig { imgsz, batch_size: self.batch as usize, workers: cores(), prefetch: 2 };
        let loader = ValLoader::new(store, loading).with_memory(pixel_memory(device));
        let never = AtomicBool::new(false);
        let details = libtorch::catch(|| validate_in_detail(&loaded.model, &loader, &config, &never))??;
        let Some(ValidationDetails { result, evaluator, confusion, time }) = details else { return Ok(()) };
        let (table, speed) =
            (console::table(&result.metrics, &names), console::speed(time, result.metrics.images));
        let printed = super::print(format_args!("{table}{speed}\n"));
        if let Some(folder) = &self.plots {
            std::fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
            pictures::write_validation(folder, &names, &evaluator, &confusion)
                .map_err(TrainError::io(folder))?;
        }
        // Pictures that were asked for are drawn first, whatever became of the table.
        printed
    }
}

/// Whether `value` is a share.
pub(super) fn check_share(name: &str, value: f32) -> Result<(), TrainError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(TrainError::Spec(vec![Violation::new(name, format!("is {value}; use 0 to 1"))]))
}

/// Refuses a size that the model's strides do not divide.
pub fn check_imgsz(imgsz: usize) -> Result<(), TrainError> {
    if imgsz.is_multiple_of(32) && (32..=4096).contains(&imgsz) {
        return Ok(());
    }
    let text = format!("is {imgsz}; use a multiple of 32 from 32 to 4096");
    Err(TrainError::Spec(vec![Violation::new("imgsz", text)]))
}
