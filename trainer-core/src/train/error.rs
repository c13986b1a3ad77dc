//! Why a run cannot go on, and what its exit code is then.

use std::io;
use std::path::PathBuf;

use trainyard_data::{DataError, LoadError, YamlError};
use trainyard_types::Violation;
use trainyard_types::trainer::{Failed, exit_code};

use super::monitoring::divergence::Cause;
use super::unfit::unfit;
use crate::libtorch::{DeviceError, TorchError};
use crate::weights::WeightsError;

/// Why training, validating or predicting cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Fields of the spec are wrong.
    #[error("{}", join(.0))]
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
    /// A data set of a cluster's store names what it does not have, on every machine alike.
    #[error("{0}; a pushed data set has all that it names in its own folder: push it again so")]
    Stored(String),
    /// Images cannot be read any more.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The machine has no such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Weights cannot be read or do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The learning rate is too high, or the data are odd.
    #[error("the loss is no longer a number since step {batch}, in epoch {epoch}: {cause}")]
    NotFinite {
        /// Its number in the run, from 1.
        batch: u64,
        /// Its epoch, from 1.
        epoch: u32,
        /// The most likely cause.
        cause: Cause,
    },
    /// The learning rate is far too high.
    #[error(
        "the model has collapsed, since step {batch} in epoch {epoch}: it says nothing of images with objects any more; {cause}; then begin anew, as this run's checkpoints may have collapsed, too"
    )]
    Collapsed {
        /// The first batch without a loss by its number in the run, from 1, as far as is known.
        batch: u64,
        /// Its epoch, from 1.
        epoch: u32,
        /// The most likely cause.
        cause: Cause,
    },
    /// `pretrained` cannot be used.
    #[error("`pretrained` {path}: {source}", path = path.display())]
    Pretrained {
        /// The weights file.
        path: PathBuf,
        /// What is wrong with the file.
        source: WeightsError,
    },
    /// `pretrained` may not be read.
    #[error("`pretrained` {}: lies outside of the agent's `data_roots`", .0.display())]
    PretrainedOutside(PathBuf),
    /// The batch is smaller than what batch normalisation is to see.
    #[error(
        "`bn_group` is {bn_group}, and only {batch_size} images fit in a batch here; lower `bn_group`, or train on a GPU with more memory"
    )]
    BnGroup {
        /// The value in the spec.
        bn_group: u32,
        /// Images per batch.
        batch_size: u32,
    },
    /// The run directory has checkpoints of an earlier run.
    #[error(
        "{} has checkpoints of an earlier run; go on with it by --resume, or give another --run-dir", .0.display()
    )]
    Occupied(PathBuf),
    /// The checkpoints are of another run.
    #[error(
        "{}: the checkpoint belongs to another run: {difference}; go on with what that run was trained on, or give another --run-dir",
        checkpoint.display()
    )]
    Foreign {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What is different.
        difference: String,
    },
    /// The checkpoints are of another version of the trainer.
    #[error(
        "{}: the checkpoint is of another version of the trainer ({reason}), and no other one is whole; go on with the trainer that made it, or give another --run-dir",
        checkpoint.display()
    )]
    OtherVersion {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What says so: its version.
        reason: String,
    },
    /// Not even one image at a time fits.
    #[error("the GPU's memory is too small even for batch 1: {error}; {advice}")]
    OutOfMemory {
        /// libtorch's own words.
        error: TorchError,
        /// Advice on what would fit.
        advice: String,
    },
    /// Batches that had fitted do not any more.
    #[error(
        "the GPU's memory ran out again with batches that had fitted, {doing}: {error}; another process uses the GPU, or its memory is in pieces: a new trainer goes on from the newest checkpoint"
    )]
    OutOfMemoryAgain {
        /// libtorch's own words.
        error: TorchError,
        /// What the trainer was doing.
        doing: &'static str,
    },
    /// libtorch cannot do something.
    #[error("libtorch failed: {0}")]
    Torch(#[from] TorchError),
    /// A panic that is not libtorch's.
    #[error("this is a bug of the trainer, please report it: {0}")]
    Bug(String),
    /// The file system refuses something.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path that failed.
        path: PathBuf,
        /// The file system's error.
        source: io::Error,
    },
    /// Some of a folder's pictures cannot be read.
    #[error("{unreadable} of {images} images could not be read; what was seen in the others is written")]
    Unreadable {
        /// Images that could not be read.
        unreadable: usize,
        /// All images.
        images: usize,
    },
    /// A picture cannot be read or written.
    #[error("{}: {reason}", path.display())]
    Picture {
        /// The picture's file.
        path: PathBuf,
        /// Why it cannot be read or written.
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
    /// The error of the file system about `path`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { path: path.into(), source }
    }

    /// The process's exit code.
    pub const fn exit_code(&self) -> i32 {
        match self {
            Self::Spec(_)
            | Self::Data(_)
            | Self::Outside { .. }
            | Self::Stored(_)
            | Self::Load(LoadError::NothingReadable { .. })
            | Self::Weights(_)
            | Self::NotFinite { .. }
            | Self::Collapsed { .. }
            | Self::Pretrained { .. }
            | Self::PretrainedOutside(_)
            | Self::Occupied(_)
            | Self::Foreign { .. }
            | Self::OtherVersion { .. }
            | Self::Picture { .. }
            | Self::Device(DeviceError::Unknown(_))
            | Self::Unreadable { .. } => exit_code::BAD_SPEC,
            Self::OutOfMemory { .. } | Self::BnGroup { .. } => exit_code::GPU_OOM,
            Self::OutOfMemoryAgain { .. } => exit_code::GPU_OOM_AGAIN,
            Self::Load(LoadError::WorkerGone)
            | Self::Bug(_)
            | Self::Device(_)
            | Self::Torch(_)
            | Self::Io { .. } => exit_code::INTERNAL,
        }
    }

    /// The report of the failure to the agent.
    pub fn failed(&self) -> Failed {
        let message = self.to_string();
        let violations = match self {
            Self::Spec(violations) => violations.clone(),
            Self::Data(_)
            | Self::Outside { .. }
            | Self::Stored(_)
            | Self::Load(LoadError::NothingReadable { .. }) => {
                vec![Violation::new("data", message.clone())]
            }
            Self::NotFinite { cause, .. } | Self::Collapsed { cause, .. } => {
                vec![Violation::new(cause.field(), message.clone())]
            }
            Self::Pretrained { .. } | Self::PretrainedOutside(_) => {
                vec![Violation::new("pretrained", message.clone())]
            }
            Self::BnGroup { .. } => vec![Violation::new("bn_group", message.clone())],
            _ => Vec::new(),
        };
        Failed { message, violations, unfit: unfit(self) }
    }
}
