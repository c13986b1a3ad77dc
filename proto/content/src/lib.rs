//! Data sets and weights by content: what a version consists of, what it is called, and how many small files lie
//! in one object.
//!
//! A version is a [`Manifest`]: paths, sizes and hashes of its files. Its [`id`](Manifest::id) is the hash of that,
//! so that equal folders are one version wherever they come from. Contents lie in [`pack`]s.
//!
//! Must not know: where anything is stored, and how it travels.

mod digest;
mod manifest;
pub mod pack;
mod path_rules;

pub use digest::{Digest, Hasher, ParseDigestError};
pub use manifest::{
    Builder, Entry, Kind, MAX_FILE_BYTES, MAX_FILES, Manifest, ManifestError, ParseKindError,
};
pub use path_rules::{MAX_PATH_BYTES, PULL_MARKER, PathError, SpellingClashes, check_path, clash};
