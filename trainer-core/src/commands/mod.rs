//! The commands of `trainyard-trainer`.

pub mod cache;
pub mod check;
pub mod export;
pub mod info;
pub mod predict;
pub mod self_test;
mod sources;
pub mod spec_args;
pub mod train;
pub mod val;

use std::path::{Path, PathBuf};

use tch::Device;
use trainyard_data::YamlError;
use trainyard_types::text::clean_lines;
use trainyard_types::{Violation, habit};

use crate::libtorch;
use crate::model::{Layout, Model};
use crate::train::error::TrainError;
use crate::weights::{self, Metadata, TensorFile, Tensors, WeightsError};

/// The device of that name. Without a name: the first GPU where there is an NVIDIA driver, or else the CPU.
///
/// `cuda` is what [`libtorch::load_cuda`] returned.
///
/// # Errors
/// It cannot be used. On a machine with a driver that goes without a name, too: training on its CPU in silence is not
/// what anybody wants.
pub fn device(name: Option<&str>, cuda: &Result<(), String>) -> Result<Device, TrainError> {
    let name = name.unwrap_or_else(|| libtorch::device::default_name(cuda));
    Ok(libtorch::device(name, cuda)?)
}

/// Prints what a command was asked for.
///
/// # Errors
/// Standard output does not take it, and not because nobody reads it any more.
fn print(text: impl std::fmt::Display) -> Result<(), TrainError> {
    trainyard_console::print(text).map_err(TrainError::io("standard output"))
}

/// Says on standard error what is wrong. It may name files and classes as a stranger has called them.
pub fn complain(error: &dyn std::fmt::Display) {
    trainyard_console::note(clean_lines(&format!("error: {error}")));
}

/// Has a GPU whose context breaks end the process with what it says. Dropping what lies there would end it without.
fn end_with_the_gpu() {
    libtorch::last_words::set(Box::new(|error| {
        let error = TrainError::Torch(error.clone());
        complain(&error);
        libtorch::last_words::end_at_once(error.exit_code());
    }));
}

/// The data.yaml that `path` is, or that lies in the folder `path`.
///
/// # Errors
/// A folder that holds none, or several of which none has the usual name.
pub fn data_file(path: &Path) -> Result<PathBuf, TrainError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let unread = |source| YamlError::Read { file: path.to_owned(), source };
    let entries = std::fs::read_dir(path).map_err(unread)?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let name = habit::data_yaml(names.collect());
    let wrong = |text| TrainError::Spec(vec![Violation::new("data", format!("`{}` {text}", path.display()))]);
    name.map(|name| path.join(name)).map_err(wrong)
}

/// A model from a weights file, with what its metadata says.
#[derive(Debug)]
pub struct LoadedModel {
    /// On the device.
    pub model: Model,
    /// Class names by id; numbers where the file has none.
    pub names: Vec<String>,
    /// Long side that it was trained with.
    pub imgsz: usize,
}

/// Image size of a weights file that does not say.
const DEFAULT_IMGSZ: usize = 640;

/// Reads a weights file: safetensors, or PyTorch's `.pt`.
///
/// # Errors
/// When it is damaged, of another model, or holds values that are not finite.
pub fn load_model(path: &Path, device: Device) -> Result<LoadedModel, TrainError> {
    let TensorFile { tensors, metadata } = weights::read(path)?;
    libtorch::catch_on(device, || model_from(&tensors, &metadata, device))?
}

fn model_from(tensors: &Tensors, metadata: &Metadata, device: Device) -> Result<LoadedModel, TrainError> {
    let model = Model::from_tensors(tensors, Layout::default(), device)?;
    let mut found: Vec<&String> = tensors.keys().collect();
    found.sort();
    for name in found {
        let Some(tensor) = model.weights().get(name) else {
            return Err(WeightsError::Unexpected(name.clone()).into());
        };
        if tensor.is_floating_point() && !bool::try_from(tensor.isfinite().all()).unwrap_or(false) {
            return Err(WeightsError::NotFinite(name.clone()).into());
        }
    }
    let classes = usize::try_from(model.plan().head.classes).unwrap_or(0);
    let names = metadata.get("names").and_then(|names| serde_json::from_str::<Vec<String>>(names).ok());
    let names = names.filter(|names| names.len() == classes);
    let names = names.unwrap_or_else(|| (0..classes).map(|id| id.to_string()).collect());
    let imgsz = metadata.get("imgsz").and_then(|size| size.parse().ok()).unwrap_or(DEFAULT_IMGSZ);
    Ok(LoadedModel { model, names, imgsz })
}
