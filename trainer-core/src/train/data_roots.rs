//! Keeps a run to the directories that it may read data sets from: a data.yaml inside of them may list
//! images that are not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use trainyard_data::Dataset;

/// A folder of the data set's images that lies, links resolved, in none of `roots`. No roots allow all.
///
/// Looks at folders, not at each image: a link to a single file was put there by who owns the folder.
pub fn folder_outside<'a>(dataset: &'a Dataset, roots: &[PathBuf]) -> Option<&'a Path> {
    let folders: BTreeSet<&Path> = dataset.images.folders().collect();
    folders.into_iter().find(|folder| !is_allowed(folder, roots))
}

/// Whether `path` lies, links resolved, in one of `roots`. No roots allow all.
pub fn is_allowed(path: &Path, roots: &[PathBuf]) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let path = real(path);
    roots.is_empty() || roots.iter().any(|root| path.starts_with(real(root)))
}
