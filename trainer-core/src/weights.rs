//! The tensors of a model under their names, and the files that they go to and come from.
//!
//! Names are those of Ultralytics' state dict (`model.0.conv.weight`), so that weights can be exchanged.

mod download;
mod host;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};
use trainyard_data::files;
use trainyard_types::{ModelScale, SizeLimit};

pub use self::host::HostTensors;
use crate::import::{self, PtError, PtFile, Values};

/// The role of a tensor in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Weights of a convolution: decay.
    Weight,
    /// Scale of a batch normalisation: trained without decay.
    Norm,
    /// Any bias, batch normalisation's too: trained without decay, at a learning rate of its own in warm-up.
    Bias,
    /// Running mean or variance.
    Statistic,
    /// How many batches a batch normalisation has seen; stays on the CPU.
    Counter,
    /// A constant, which never changes.
    Constant,
}

impl Role {
    /// Whether gradients flow to it.
    pub const fn is_trained(self) -> bool {
        matches!(self, Self::Weight | Self::Norm | Self::Bias)
    }

    /// Whether it counts as a parameter of the model.
    pub const fn is_parameter(self) -> bool {
        matches!(self, Self::Weight | Self::Norm | Self::Bias | Self::Constant)
    }
}

/// One tensor of a model.
#[derive(Debug)]
pub struct Entry {
    /// The tensor's name, such as `model.0.conv.weight`.
    pub name: String,
    /// Its role in training.
    pub role: Role,
    /// Whether it belongs to a layer that keeps its weights.
    pub frozen: bool,
    /// Shared with the block that computes with it.
    pub tensor: Tensor,
}

impl Entry {
    /// Whether an optimiser moves it.
    pub fn is_trained(&self) -> bool {
        self.role.is_trained() && !self.frozen
    }
}

/// Why weights cannot be read, written or taken.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file system refused it.
    #[error("{path}: {source}")]
    Io {
        /// The weights file.
        path: PathBuf,
        /// The file system's error.
        source: std::io::Error,
    },
    /// Not a safetensors file, or a damaged one.
    #[error("{path} is not a whole safetensors file: {reason}")]
    Format {
        /// The weights file.
        path: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// A `.pt` file that cannot be read.
    #[error("{path} {source}")]
    Checkpoint {
        /// The weights file.
        path: PathBuf,
        /// What is wrong with the file.
        source: PtError,
    },
    /// Training went wrong, or the file is damaged.
    #[error("tensor `{0}` has values that are not numbers or are infinite; use weights of an earlier epoch")]
    NotFinite(String),
    /// A tensor that the file has and the model has not.
    #[error("tensor `{0}` is none of a YOLOv8 detector's; are these weights of another model?")]
    Unexpected(String),
    /// A tensor that the model has and the file has not.
    #[error("tensor `{0}` is missing; are these weights of another model?")]
    Missing(String),
    /// The first layer has as many channels as no scale has.
    #[error("the first layer has {0} channels; yolov8 n, s, m, l, x have 16, 32, 48, 64, 80")]
    Scale(i64),
    /// Weights of another scale of the same family.
    #[error("these are weights of {found}, the model is {expected}; use weights of the same model")]
    OtherScale {
        /// The scale of the file's weights.
        found: ModelScale,
        /// The scale of the model.
        expected: ModelScale,
    },
    /// A tensor of another shape than the model's.
    #[error(
        "tensor `{name}` has shape {found:?}, the model's has {expected:?}; are these weights of another model or class count?"
    )]
    Shape {
        /// The tensor's name.
        name: String,
        /// The shape in the file.
        found: Vec<i64>,
        /// The shape in the model.
        expected: Vec<i64>,
    },
}

/// All tensors of a model, in the order of Ultralytics' state dict.
#[derive(Debug, Default)]
pub struct Weights {
    entries: Vec<Entry>,
    places: HashMap<String, usize>,
}

impl Weights {
    /// Adds a tensor; a name twice is a bug.
    pub fn push(&mut self, entry: Entry) {
        let before = self.places.insert(entry.name.clone(), self.entries.len());
        assert!(before.is_none(), "tensor {} named twice", entry.name);
        self.entries.push(entry);
    }

    /// All tensors, in the model's order.
    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    /// Names and tensors, in order.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.iter().map(|entry| (entry.name.as_str(), &entry.tensor))
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.places.get(name).map(|&at| &self.entries[at].tensor)
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Parameters, the constant ones included.
    pub fn parameters(&self) -> u64 {
        self.iter().filter(|entry| entry.role.is_parameter()).map(|entry| entry.tensor.numel() as u64).sum()
    }

    /// Takes every value from the tensors that `source` gives by name, whatever their float type.
    ///
    /// Tensors keep their memory layout. Nothing is changed when one is missing or has another shape.
    pub fn assign(&self, source: impl Fn(&str) -> Option<Tensor>) -> Result<(), WeightsError> {
        let mut found = Vec::with_capacity(self.len());
        for entry in &self.entries {
            let tensor = source(&entry.name).ok_or_else(|| WeightsError::Missing(entry.name.clone()))?;
            let (found_shape, expected) = (tensor.size(), entry.tensor.size());
            if found_shape != expected {
                return Err(WeightsError::Shape { name: entry.name.clone(), found: found_shape, expected });
            }
            found.push(tensor);
        }
        let _no_grad = tch::no_grad_guard();
        for (entry, value) in self.entries.iter().zip(&found) {
            entry.tensor.shallow_clone().copy_(value);
        }
        Ok(())
    }

    /// Takes every value of `other`, which has the same tensors.
    pub fn copy_from(&self, other: &Self) {
        let _no_grad = tch::no_grad_guard();
        for (to, from) in self.entries.iter().zip(&other.entries) {
            debug_assert_eq!(to.name, from.name);
            to.tensor.shallow_clone().copy_(&from.tensor);
        }
    }
}

/// Named tensors as read from a file, on the CPU.
pub type Tensors = HashMap<String, Tensor>;

/// The text entries of a safetensors file's header, in the order in which they are written.
pub type Metadata = BTreeMap<String, String>;

/// A safetensors file's tensors and metadata.
#[derive(Debug, Default)]
pub struct TensorFile {
    /// The tensors by name, on the CPU, in the file's types.
    pub tensors: Tensors,
    /// The header's text entries.
    pub metadata: Metadata,
}

/// Reads a safetensors file, or a `.pt` file (told by its first bytes, or else by its name).
///
/// # Errors
/// When the file cannot be read or is damaged. Nothing in a `.pt` file is executed: see [`crate::import`].
pub fn read(path: &Path) -> Result<TensorFile, WeightsError> {
    let bytes = files::read_once(path, SizeLimit::WEIGHTS)
        .map_err(|source| WeightsError::Io { path: path.to_owned(), source })?;
    let by_name = path.extension().is_some_and(|extension| extension == "pt" || extension == "pth");
    if by_name || bytes.starts_with(b"PK\x03\x04") {
        let length = bytes.len() as u64;
        let file = import::parse(std::io::Cursor::new(bytes), length);
        let file = file.map_err(|source| WeightsError::Checkpoint { path: path.to_owned(), source })?;
        return Ok(from_pt(file));
    }
    parse(&bytes).map_err(|reason| WeightsError::Format { path: path.to_owned(), reason })
}

/// The tensors of a `.pt` file, and what it says about them as a safetensors file would.
fn from_pt(file: PtFile) -> TensorFile {
    let tensors = file.tensors.into_iter().map(|(name, raw)| {
        let shape: Vec<i64> = raw.shape.iter().map(|&side| i64::try_from(side).unwrap_or(0)).collect();
        let tensor = match &raw.values {
            Values::Float(values) => Tensor::from_slice(values),
            Values::Int(values) => Tensor::from_slice(values),
        };
        (name, tensor.view(shape.as_slice()))
    });
    let names = file.names.and_then(|names| serde_json::to_string(&names).ok());
    let imgsz = file.imgsz.map(|size| size.to_string());
    let said = [("names", names), ("imgsz", imgsz), ("task", file.task)];
    let metadata = said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    TensorFile { tensors: tensors.collect(), metadata: metadata.collect() }
}

/// The content of a safetensors file.
pub fn parse(bytes: &[u8]) -> Result<TensorFile, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut tensors = Tensors::new();
    for (name, view) in file.tensors() {
        let shape: Result<Vec<i64>, _> = view.shape().iter().map(|&side| i64::try_from(side)).collect();
        let shape = shape.map_err(|_| format!("tensor `{name}` is too large"))?;
        let kind = kind(view.dtype())
            .ok_or_else(|| format!("tensor `{name}` has type {:?}, which is not supported", view.dtype()))?;
        let tensor = if view.data().is_empty() {
            Tensor::empty(&shape, (kind, Device::Cpu))
        } else {
            Tensor::from_data_size(view.data(), &shape, kind)
        };
        tensors.insert(name, tensor);
    }
    let metadata = header.metadata().iter().flatten();
    let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
    Ok(TensorFile { tensors, metadata })
}

/// Bytes of a safetensors file that holds `tensors`; the same ones for the same content.
pub fn encode<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    metadata: &Metadata,
) -> Result<Vec<u8>, String> {
    HostTensors::copy(tensors).encode(metadata)
}

const fn kind(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

const fn dtype(kind: Kind) -> Option<Dtype> {
    Some(match kind {
        Kind::Float => Dtype::F32,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Double => Dtype::F64,
        Kind::Int64 => Dtype::I64,
        Kind::Int => Dtype::I32,
        Kind::Uint8 => Dtype::U8,
        Kind::Bool => Dtype::BOOL,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_reads_back_in_row_major_order() {
        let tensor = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([2, 3, 2, 2]);
        let channels_last = tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        let metadata = Metadata::from([("nc".to_owned(), "3".to_owned())]);
        let bytes = encode([("a", &channels_last)], &metadata).unwrap();
        let file = parse(&bytes).unwrap();
        assert_eq!(file.metadata, metadata);
        assert!(file.tensors["a"].equal(&tensor));
    }

    #[test]
    fn a_torn_file_is_refused() {
        let bytes = encode([("a", &Tensor::from_slice(&[1.0_f32, 2.0]))], &Metadata::new()).unwrap();
        assert!(parse(&bytes[..bytes.len() - 1]).is_err());
    }
}
