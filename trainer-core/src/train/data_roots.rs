//! Keeps a run to the directories that it may read data sets from: a data.yaml inside of them may list
//! images that are not.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use trainyard_data::{DataError, DataYaml};

use super::error::TrainError;

/// Whether `path` lies, links resolved, in one of `roots`. No roots allow all.
///
/// Asked for folders, not for each image: a link to a single file was put there by who owns the folder.
pub fn is_allowed(path: &Path, roots: &[PathBuf]) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let path = real(path);
    roots.is_empty() || roots.iter().any(|root| path.starts_with(real(root)))
}

/// Why the data set of `yaml` cannot be opened: that a place of it lies outside, where that is so. An agent's trainer cannot
/// even look there.
pub fn refusal(error: DataError, yaml: &DataYaml, roots: &[PathBuf]) -> TrainError {
    let outside = match &error {
        DataError::NotAllowed { folder, .. } => Some(folder),
        DataError::List { place, source } if source.kind() == ErrorKind::PermissionDenied => Some(place),
        _ => None,
    };
    match outside.filter(|place| !is_allowed(place, roots)) {
        Some(folder) => TrainError::Outside { data: yaml.file.clone(), folder: folder.clone() },
        None => error.into(),
    }
}
