//! What is stored of versions of data sets and weights, beside their contents.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trainyard_content::{Digest, Kind};
use trainyard_types::{Reference, Time};
use uuid::Uuid;

/// The names of weights that a job left begin so, before the job's id.
pub const JOB_WEIGHTS_NAME: &str = "job-";

/// A pack that a version's contents lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PackRecord {
    pub id: Uuid,
    /// Bytes of the pack's contents, without its index.
    pub size_bytes: u64,
}

/// A version of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    #[serde(with = "crate::stored_text")]
    pub kind: Kind,
    pub name: String,
    #[serde(with = "crate::stored_text")]
    pub id: Digest,
    /// The user who pushed the version first.
    pub user: String,
    /// When it was pushed last: the newest of a name is the one that was.
    pub created: Time,
    pub files: u64,
    /// Bytes of all files.
    pub size_bytes: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Sorted, each once.
    pub packs: Vec<PackRecord>,
    /// Whether it was made of a job's weights: it goes when no job needs it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_of_job: bool,
}

impl VersionRecord {
    /// The name of the version's field in the store.
    pub fn field(&self) -> String {
        format!("{}/{}@{}", self.kind, self.name, self.id)
    }

    /// The exact reference that jobs keep.
    pub fn reference(&self) -> Reference {
        Reference::exact(&self.name, &self.id.to_string())
    }
}

/// All versions at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentRecords {
    /// Number of changes so far.
    pub revision: u64,
    pub versions: Vec<VersionRecord>,
}

/// A change of one version.
#[derive(Debug, Clone)]
pub enum ContentChange {
    Put(Arc<VersionRecord>),
    Remove(Arc<VersionRecord>),
}
