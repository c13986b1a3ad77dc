//! Reads weights from PyTorch's `.pt` files, without PyTorch and without trusting them.
//!
//! Such a file is a ZIP of a pickled tree of Python objects and the raw values of its tensors. Python
//! builds the tree by calling whatever the file names, which is how a hostile file runs commands. Here
//! nothing is called: see [`pickle`]. Knows nothing of libtorch.

mod archive;
mod checkpoint;
pub mod pickle;
mod storage;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use self::checkpoint::PtFile;
pub use self::storage::{RawTensor, Values};

/// Why a `.pt` file cannot be read. Every text continues the file's name.
#[derive(Debug, thiserror::Error)]
pub enum PtError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Not a ZIP, or a damaged one.
    #[error(
        "is not a whole .pt file ({0}); torch.save has written ZIP files since 1.6, so save an older one again"
    )]
    Zip(#[from] zip::result::ZipError),
    /// Something is not in the ZIP.
    #[error("has no `{0}` inside, so torch.save did not write it")]
    NoEntry(String),
    /// A part is larger or smaller than it must be.
    #[error("is damaged: `{name}` has {found} bytes instead of {expected}")]
    Size {
        /// The entry of the ZIP.
        name: String,
        /// Its bytes.
        found: u64,
        /// The bytes that its tensor says.
        expected: u64,
    },
    /// Written on a machine of the other kind.
    #[error("has its numbers' big end first; save it again on a little-endian machine")]
    BigEndian,
    /// It names something that weights do not need.
    #[error(
        "asks for `{global}` while it is read, which weights have no use for; nothing was run. Do not open it with other programs either, unless you know who made it"
    )]
    Refused {
        /// `os.system`
        global: String,
    },
    /// The pickle is damaged, or not of the kind that torch writes.
    #[error("is damaged: {what} at byte {at} of its pickle")]
    Pickle {
        /// Place in `data.pkl`.
        at: usize,
        /// What is there.
        what: &'static str,
    },
    /// More than any model of ours can have.
    #[error("has more than {limit} {what}, which no YOLOv8 has")]
    TooLarge {
        /// The thing that there is too much of.
        what: &'static str,
        /// How many there may be.
        limit: u64,
    },
    /// One tensor cannot be had.
    #[error("has a tensor `{name}` with {what}")]
    Tensor {
        /// Its name in the model.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// No model was found.
    #[error("holds no model: neither `ema` nor `model` is one, and it is no state dict")]
    NoModel,
}

/// Reads the model of a `.pt` file: a checkpoint of Ultralytics, or a state dict.
///
/// # Errors
/// See [`PtError`]. Nothing in the file is ever executed, and memory use is bounded by the file's size and
/// by fixed limits.
pub fn read(path: &Path) -> Result<PtFile, PtError> {
    let file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    parse(std::io::BufReader::new(file), length)
}

/// What a `.pt` file of `length` bytes says.
///
/// # Errors
/// See [`read`].
pub fn parse(file: impl std::io::Read + std::io::Seek, length: u64) -> Result<PtFile, PtError> {
    let mut archive = archive::Archive::open(file, length)?;
    let pickle = pickle::Pickle::parse(&archive.pickle()?)?;
    checkpoint::collect(&pickle, &mut archive)
}
