//! Writes weights for other programs: ONNX, and PyTorch's `.pt`. Knows nothing of libtorch.

mod graph;
pub mod onnx;
pub mod onnx_nms;
pub mod pickle;
mod proto;
pub mod pt;
mod storages;
pub mod ultralytics;

use std::collections::BTreeMap;

use crate::import::{RawTensor, Values};

/// Tensors by name.
pub type RawTensors = BTreeMap<String, RawTensor>;

/// Why weights cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The model needs a tensor that is not there, or not in that shape.
    #[error("tensor `{0}` is missing or has another shape than the model's")]
    Missing(String),
    /// The file became too large.
    #[error("the file cannot be made: {0}")]
    Zip(#[from] zip::result::ZipError),
}

fn floats<'a>(name: &str, tensor: &'a RawTensor) -> Result<&'a [f32], ExportError> {
    if let Values::Float(values) = &tensor.values {
        Ok(values)
    } else {
        Err(ExportError::Missing(name.to_owned()))
    }
}
