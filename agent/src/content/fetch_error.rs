//! Why a version could not be had.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use trainyard_content::ManifestError;

use super::room::NoRoom;

/// Why a version could not be had, the end of a sentence.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The scheduler does not have it any more.
    #[error("the cluster's store does not have it any more")]
    Gone,
    /// The scheduler refuses it for another reason.
    #[error("the scheduler refuses it: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    /// No byte came for too long.
    #[error("nothing came for {} s: {last}", within.as_secs())]
    Stalled {
        /// The time in which no byte came.
        within: Duration,
        /// The last try's error.
        last: String,
    },
    /// A file came with other bytes again and again.
    #[error(
        "`{path}` came {times} times with other bytes than its SHA-256 says; the cluster's store, or the way here, damages it"
    )]
    Damaged {
        /// The file's path in the version.
        path: String,
        /// Number of times that the file came.
        times: u32,
    },
    /// The list of files is no version's.
    #[error("the scheduler's list of its files is wrong: {0}")]
    List(#[from] ManifestError),
    /// The list of files is another version's.
    #[error("the scheduler's list of its files is that of another version")]
    OtherVersion,
    /// The disk or the quota has no room for the version.
    #[error("{0}")]
    NoRoom(#[from] NoRoom),
    /// The system refuses a file.
    #[error("{path}: {source}")]
    File {
        /// The file's path on this machine.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// This agent could not open its store.
    #[error("this agent can fetch nothing: {0}")]
    NoStore(String),
    /// The agent is going down.
    #[error("the agent is stopping")]
    Stopping,
}

impl FetchError {
    /// An error of the file at `path`.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.to_owned(), source }
    }

    /// The system's error, if it refused a file.
    pub const fn file_error(&self) -> Option<&io::Error> {
        match self {
            Self::File { source, .. } => Some(source),
            _ => None,
        }
    }
}
