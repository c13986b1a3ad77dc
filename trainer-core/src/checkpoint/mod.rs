//! Complete, verified directories to resume from: `checkpoints/step-NNNNNNNN/` under the run directory.
//!
//! Knows nothing of models: a checkpoint is named files, and a manifest with their hashes.

pub mod manifest;
pub mod write;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use self::manifest::{Best, Identity, Manifest, Progress, Row};
pub use self::write::{Part, prune, replace, save};

/// The folder of checkpoints in a run directory.
pub const FOLDER: &str = "checkpoints";
/// How many are kept.
const KEPT: usize = 2;

/// A checkpoint's directory name; it sorts by step.
pub fn name(step: u64) -> String {
    format!("step-{step:08}")
}

/// A checkpoint whose hashes agree.
#[derive(Debug)]
pub struct Loaded {
    /// Where it is.
    pub place: PathBuf,
    /// Where training stood.
    pub progress: Progress,
    /// Its files.
    pub files: HashMap<String, Vec<u8>>,
}

/// The newest whole checkpoint under `root`, and what was wrong with newer ones.
#[derive(Debug, Default)]
pub struct Found {
    /// `None` where there is none.
    pub checkpoint: Option<Loaded>,
    /// A sentence for each directory that was passed over.
    pub warnings: Vec<String>,
}

/// Looks for the newest checkpoint whose files are all there and as they were written.
///
/// # Errors
/// Only when `root` exists and cannot be listed.
pub fn newest(root: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    for (_, place) in directories(root)? {
        match load(&place) {
            Ok(loaded) => {
                found.checkpoint = Some(loaded);
                break;
            }
            Err(reason) => found.warnings.push(format!("{} is skipped: {reason}", place.display())),
        }
    }
    Ok(found)
}

/// Why a directory is not a whole checkpoint.
#[derive(Debug, thiserror::Error)]
enum Torn {
    #[error("{file}: {source}")]
    Io { file: String, source: io::Error },
    #[error("its manifest cannot be read: {0}")]
    Manifest(#[from] serde_json::Error),
    #[error("it has version {0}, this trainer reads {version}", version = manifest::VERSION)]
    Version(u32),
    #[error("`{0}` is not what was written (its hash differs)")]
    Hash(String),
}

fn load(place: &Path) -> Result<Loaded, Torn> {
    let read =
        |file: &str| fs::read(place.join(file)).map_err(|source| Torn::Io { file: file.to_owned(), source });
    let manifest: Manifest = serde_json::from_slice(&read(manifest::FILE)?)?;
    if manifest.version != manifest::VERSION {
        return Err(Torn::Version(manifest.version));
    }
    let mut files = HashMap::new();
    for (name, hash) in manifest.files {
        let bytes = read(&name)?;
        if write::sha256(&bytes) != hash.sha256 {
            return Err(Torn::Hash(name));
        }
        files.insert(name, bytes);
    }
    Ok(Loaded { place: place.to_owned(), progress: manifest.progress, files })
}

/// Directories that are named as checkpoints, newest first; none if `root` is not there.
fn directories(root: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file_name = entry.file_name();
        let step = file_name.to_str().and_then(|name| name.strip_prefix("step-")?.parse().ok());
        if let Some(step) = step {
            found.push((step, entry.path()));
        }
    }
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;

    fn progress(step: u64) -> Progress {
        let identity = Identity::new(ModelScale::N, vec!["cell".into()], 4, 0);
        Progress { step, ..Progress::start(identity, 2) }
    }

    fn parts(text: &str) -> Vec<Part> {
        vec![Part { name: "model.safetensors", bytes: text.as_bytes().to_vec() }]
    }

    fn newest_text(root: &Path) -> Option<String> {
        let loaded = newest(root).unwrap().checkpoint?;
        Some(String::from_utf8(loaded.files["model.safetensors"].clone()).unwrap())
    }

    #[test]
    fn the_newest_two_are_kept_and_the_newest_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("checkpoints");
        assert_eq!(newest_text(&root), None);
        for step in [9, 10, 100] {
            save(&root, &progress(step), parts(&step.to_string())).unwrap();
        }
        prune(&root).unwrap();
        assert_eq!(newest_text(&root).as_deref(), Some("100"));
        let mut names: Vec<_> =
            fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["step-00000010", "step-00000100"]);
    }

    #[test]
    fn a_damaged_one_is_passed_over_with_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        save(root, &progress(1), parts("one")).unwrap();
        save(root, &progress(2), parts("two")).unwrap();
        fs::write(root.join("step-00000002/model.safetensors"), "twp").unwrap();
        let found = newest(root).unwrap();
        assert_eq!(found.checkpoint.unwrap().progress, progress(1));
        assert!(found.warnings[0].contains("hash differs"), "{:?}", found.warnings);
    }

    #[test]
    fn a_torn_one_is_passed_over_whatever_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        save(root, &progress(1), parts("one")).unwrap();
        let damages: [fn(&Path); 4] = [
            |place| fs::write(place.join("model.safetensors"), "tw").unwrap(),
            |place| fs::remove_file(place.join("model.safetensors")).unwrap(),
            |place| fs::remove_file(place.join(manifest::FILE)).unwrap(),
            |place| {
                let text = fs::read_to_string(place.join(manifest::FILE)).unwrap();
                fs::write(place.join(manifest::FILE), &text[..text.len() / 2]).unwrap();
            },
        ];
        for damage in damages {
            save(root, &progress(2), parts("two")).unwrap();
            damage(&root.join("step-00000002"));
            let found = newest(root).unwrap();
            assert_eq!(found.checkpoint.unwrap().progress, progress(1));
            assert_eq!(found.warnings.len(), 1);
            assert!(found.warnings[0].contains("step-00000002 is skipped"), "{:?}", found.warnings);
        }
    }

    #[test]
    fn an_empty_directory_and_a_draft_are_not_checkpoints() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &progress(1), parts("one")).unwrap();
        fs::create_dir(folder.path().join("step-00000005")).unwrap();
        fs::create_dir(folder.path().join(".step-00000006.tmp")).unwrap();
        assert_eq!(newest_text(folder.path()).as_deref(), Some("one"));
    }

    #[test]
    fn a_second_one_of_the_same_step_replaces_the_first() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &progress(1), parts("old")).unwrap();
        save(folder.path(), &progress(1), parts("new")).unwrap();
        assert_eq!(newest_text(folder.path()).as_deref(), Some("new"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
