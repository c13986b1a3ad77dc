//! Why a run cannot go on, and what its exit code is then.

use std::io;
use std::path::PathBuf;

use trainyard_types::Violation;
use trainyard_types::trainer::{Failed, exit_code};

use crate::data::{DataError, LoadError, YamlError};
use crate::libtorch::{DeviceError, TorchError};
use crate::weights::WeightsError;

/// Why training, validating or predicting cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Fields of the spec are wrong.
    #[error("the training spec is not valid: {}", join(.0))]
    Spec(Vec<Violation>),
    /// The data set is wrong.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A data.yaml that may be read lists images that may not.
    #[error(
        "{} lists images in {}, which is outside of the agent's `data_roots`", data.display(), folder.display()
    )]
    Outside {
        /// The data.yaml.
        data: PathBuf,
        /// Where its images are.
        folder: PathBuf,
    },
    /// Images cannot be read any more.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Weights cannot be read or do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The learning rate is too high, or the data are odd.
    #[error("the loss is no longer a number in epoch {epoch}; lower `lr0` (it is {lr0})")]
    NotFinite {
        /// From 1.
        epoch: u32,
        /// As in the spec.
        lr0: f64,
    },
    /// There is a run already.
    #[error(
        "{} has checkpoints of an earlier run; go on with it by --resume, or give another --run-dir", .0.display()
    )]
    Occupied(PathBuf),
    /// The checkpoints are of another run.
    #[error(
        "{}: the checkpoint belongs to another run ({difference}); give another --run-dir", place.display()
    )]
    Foreign {
        /// The checkpoint.
        place: PathBuf,
        /// What is different.
        difference: &'static str,
    },
    /// Not even one image at a time fits.
    #[error("the card's memory is too small even for batch 1: {0}; use a smaller model or `imgsz`")]
    OutOfMemory(TorchError),
    /// libtorch said no.
    #[error("libtorch failed: {0}")]
    Torch(#[from] TorchError),
    /// A panic that is not libtorch's.
    #[error("this is a bug of the trainer, please report it: {0}")]
    Bug(String),
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A picture cannot be read or written.
    #[error("{}: {reason}", path.display())]
    Picture {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

fn join(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<YamlError> for TrainError {
    fn from(error: YamlError) -> Self {
        Self::Data(error.into())
    }
}

impl TrainError {
    /// What the file system said about `path`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { path: path.into(), source }
    }

    /// The process's exit code.
    pub const fn exit_code(&self) -> i32 {
        match self {
            Self::Spec(_)
            | Self::Data(_)
            | Self::Outside { .. }
            | Self::Load(LoadError::NothingReadable { .. })
            | Self::Weights(_)
            | Self::NotFinite { .. }
            | Self::Occupied(_)
            | Self::Foreign { .. }
            | Self::Picture { .. } => exit_code::BAD_SPEC,
            Self::OutOfMemory(_) => exit_code::GPU_OOM,
            Self::Load(LoadError::WorkerGone)
            | Self::Bug(_)
            | Self::Device(_)
            | Self::Torch(_)
            | Self::Io { .. } => exit_code::INTERNAL,
        }
    }

    /// What the agent is told.
    pub fn failed(&self) -> Failed {
        let message = self.to_string();
        let violations = match self {
            Self::Spec(violations) => violations.clone(),
            Self::Data(_) | Self::Outside { .. } | Self::Load(LoadError::NothingReadable { .. }) => {
                vec![Violation::new("data", message.clone())]
            }
            Self::NotFinite { .. } => vec![Violation::new("lr0", message.clone())],
            _ => Vec::new(),
        };
        Failed { message, violations }
    }
}
