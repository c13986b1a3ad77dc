//! Complete, verified directories to resume from: `checkpoints/step-NNNNNNNN/` under the run directory. A
//! damaged one gets another name, so that nobody takes it for the newest.
//!
//! Knows nothing of models: a checkpoint is named files, and a manifest with their hashes.

pub mod manifest;
pub mod write;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use self::manifest::{Best, Identity, Manifest, Progress, Row};
pub use self::write::{CheckpointFile, prune, save};

/// The folder of checkpoints in a run directory.
pub const FOLDER: &str = "checkpoints";
/// How many checkpoints of a run are kept.
const KEEP: usize = 2;
/// How a checkpoint's name begins.
const STEP: &str = "step-";
/// How the name of a damaged checkpoint begins. An agent takes what begins with `step-` for a checkpoint.
const DAMAGED: &str = "damaged-step-";

/// The directory of a checkpoint that was made after so many `batches`; names sort by them.
pub fn name(batches: u64) -> String {
    format!("{STEP}{batches:08}")
}

/// A checkpoint whose hashes agree.
#[derive(Debug)]
pub struct Loaded {
    /// Its directory.
    pub directory: PathBuf,
    /// Where training stood.
    pub progress: Progress,
    /// Its files' contents, by name.
    pub files: HashMap<String, Vec<u8>>,
}

/// The newest whole checkpoint under `root`, and what was wrong with newer ones.
#[derive(Debug, Default)]
pub struct NewestCheckpoint {
    /// The checkpoint, if there is one.
    pub checkpoint: Option<Loaded>,
    /// Newer directories that are no whole checkpoint, the newest first.
    pub skipped: Vec<Skipped>,
}

impl NewestCheckpoint {
    /// What another version of the trainer could go on from, where this one finds nothing that it can.
    pub fn of_another_version(&self) -> Option<&Skipped> {
        let foreign = |skipped: &&Skipped| matches!(skipped.reason, Damage::Version(_));
        self.skipped.iter().find(foreign).filter(|_| self.checkpoint.is_none())
    }
}

/// A directory that is named as a checkpoint and is none, for this trainer.
#[derive(Debug)]
pub struct Skipped {
    /// The batches in its name.
    pub batches: u64,
    /// The directory.
    pub directory: PathBuf,
    /// What is wrong with it.
    pub reason: Damage,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is skipped: {}", self.directory.display(), self.reason)
    }
}

impl Skipped {
    /// Renames it to `damaged-step-NNNNNNNN`, in the place of an earlier one of that name. Otherwise its number
    /// would keep it among the newest, and the good ones that follow would be pruned for it.
    ///
    /// # Errors
    /// The file system's error.
    pub fn mark_damaged(&self) -> io::Result<PathBuf> {
        let renamed = self.directory.with_file_name(format!("{DAMAGED}{:08}", self.batches));
        if renamed.exists() {
            fs::remove_dir_all(&renamed)?;
        }
        fs::rename(&self.directory, &renamed)?;
        Ok(renamed)
    }
}

/// Looks for the newest checkpoint whose files are all there and as they were written.
///
/// # Errors
/// When `root` exists and cannot be listed, or a file cannot be read for a reason that may pass: that says nothing
/// of the checkpoint.
pub fn newest(root: &Path) -> io::Result<NewestCheckpoint> {
    let mut found = NewestCheckpoint::default();
    for (batches, directory) in directories(root, STEP)? {
        match load(&directory) {
            Ok(loaded) => {
                found.checkpoint = Some(loaded);
                break;
            }
            Err(Damage::Io { source, .. }) if !is_damage(&source) => return Err(source),
            Err(reason) => found.skipped.push(Skipped { batches, directory, reason }),
        }
    }
    Ok(found)
}

/// Why a directory is not a whole checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// A file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// Its name.
        file: String,
        /// The file system's error.
        source: io::Error,
    },
    /// The manifest is cut short, or something else.
    #[error("its manifest cannot be read: {0}")]
    Manifest(#[from] serde_json::Error),
    /// Another version of the trainer has made it.
    #[error("it has version {0}, this trainer reads {version}", version = manifest::VERSION)]
    Version(u32),
    /// A file has changed since.
    #[error("`{0}` is not what was written (its hash differs)")]
    Hash(String),
}

/// Whether an error says that what was written is not there any more, or that the disk cannot give it back.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, UnexpectedEof};
    let kinds = [InvalidData, IsADirectory, NotADirectory, NotFound, UnexpectedEof];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(libc::EIO)
}

/// The part of a manifest that every version has.
#[derive(Deserialize)]
struct AnyManifest {
    version: u32,
}

fn load(directory: &Path) -> Result<Loaded, Damage> {
    let read = |file: &str| {
        fs::read(directory.join(file)).map_err(|source| Damage::Io { file: file.to_owned(), source })
    };
    let text = read(manifest::FILE)?;
    // By itself: another version's manifest may have other fields.
    let AnyManifest { version } = serde_json::from_slice(&text)?;
    if version != manifest::VERSION {
        return Err(Damage::Version(version));
    }
    let manifest: Manifest = serde_json::from_slice(&text)?;
    let mut files = HashMap::new();
    for (name, hash) in manifest.files {
        let bytes = read(&name)?;
        if write::sha256(&bytes) != hash.sha256 {
            return Err(Damage::Hash(name));
        }
        files.insert(name, bytes);
    }
    Ok(Loaded { directory: directory.to_owned(), progress: manifest.progress, files })
}

/// Directories whose names are `prefix` and a number of batches, newest first; none without `root`.
fn directories(root: &Path, prefix: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file_name = entry.file_name();
        let batches = file_name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
        if let Some(batches) = batches {
            found.push((batches, entry.path()));
        }
    }
    found.sort_by_key(|(batches, _)| std::cmp::Reverse(*batches));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;

    fn progress(batches: u64) -> Progress {
        let identity = Identity::new(ModelScale::N, vec!["cell".into()], 4, 0);
        Progress { batches, ..Progress::start(identity, 2) }
    }

    fn checkpoint_files(text: &str) -> Vec<CheckpointFile> {
        vec![CheckpointFile { name: "model.safetensors", bytes: text.as_bytes().to_vec() }]
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
            save(&root, &progress(step), checkpoint_files(&step.to_string())).unwrap();
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
        save(root, &progress(1), checkpoint_files("one")).unwrap();
        save(root, &progress(2), checkpoint_files("two")).unwrap();
        fs::write(root.join("step-00000002/model.safetensors"), "twp").unwrap();
        let found = newest(root).unwrap();
        assert_eq!(found.checkpoint.unwrap().progress, progress(1));
        assert!(found.skipped[0].to_string().contains("hash differs"), "{:?}", found.skipped);
    }

    #[test]
    fn one_that_is_set_aside_costs_no_good_one_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for round in 0..2 {
            for step in [8 + round, 10, 12] {
                save(root, &progress(step), checkpoint_files("later")).unwrap();
                fs::write(root.join(name(step)).join(manifest::FILE), "torn").unwrap();
            }
            let found = newest(root).unwrap();
            assert!(found.checkpoint.is_none() && found.of_another_version().is_none(), "{round}");
            assert_eq!(found.skipped.len(), 3);
            for skipped in &found.skipped {
                assert!(skipped.mark_damaged().unwrap().is_dir());
            }
        }
        for step in [2, 4, 6] {
            save(root, &progress(step), checkpoint_files(&step.to_string())).unwrap();
            prune(root).unwrap();
            assert_eq!(newest_text(root), Some(step.to_string()));
        }
        assert!(newest(root).unwrap().skipped.is_empty());
        assert_eq!(fs::read_dir(root).unwrap().count(), 4, "as many damaged ones stay as good ones");
    }

    #[test]
    fn a_file_that_cannot_be_read_for_now_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        save(root, &progress(1), checkpoint_files("one")).unwrap();
        save(root, &progress(2), checkpoint_files("two")).unwrap();
        let file = root.join("step-00000002/model.safetensors");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&file, &file).unwrap();
        assert!(newest(root).is_err(), "a loop of links is for somebody to look at");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(newest_text(root).as_deref(), Some("one"));
    }

    #[test]
    fn a_manifest_keeps_the_names_that_other_versions_read() {
        let stored = serde_json::to_value(progress(1)).unwrap();
        for name in ["step", "units_waiting", "images_waiting", "scores_waiting", "epoch_waited"] {
            assert!(stored.get(name).is_some(), "{name} in {stored}");
        }
    }

    #[test]
    fn one_of_another_version_is_told_from_a_torn_one_whatever_else_its_manifest_has() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        save(root, &progress(2), checkpoint_files("two")).unwrap();
        save(root, &progress(3), checkpoint_files("three")).unwrap();
        fs::write(root.join("step-00000003").join(manifest::FILE), r#"{"version": 99, "new": []}"#).unwrap();
        let found = newest(root).unwrap();
        assert!(found.of_another_version().is_none(), "there is one to go on from");
        assert_eq!(found.checkpoint.unwrap().progress.batches, 2);
        fs::remove_file(root.join("step-00000002").join(manifest::FILE)).unwrap();
        let found = newest(root).unwrap();
        let foreign = found.of_another_version().unwrap().to_string();
        assert!(foreign.contains("step-00000003") && foreign.contains("it has version 99"), "{foreign}");
    }

    #[test]
    fn a_torn_one_is_passed_over_whatever_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        save(root, &progress(1), checkpoint_files("one")).unwrap();
        let damages: [fn(&Path); 4] = [
            |directory| fs::write(directory.join("model.safetensors"), "tw").unwrap(),
            |directory| fs::remove_file(directory.join("model.safetensors")).unwrap(),
            |directory| fs::remove_file(directory.join(manifest::FILE)).unwrap(),
            |directory| {
                let text = fs::read_to_string(directory.join(manifest::FILE)).unwrap();
                fs::write(directory.join(manifest::FILE), &text[..text.len() / 2]).unwrap();
            },
        ];
        for damage in damages {
            save(root, &progress(2), checkpoint_files("two")).unwrap();
            damage(&root.join("step-00000002"));
            let found = newest(root).unwrap();
            assert_eq!(found.checkpoint.unwrap().progress, progress(1));
            let [skipped] = &found.skipped[..] else { panic!("{:?}", found.skipped) };
            assert!(skipped.to_string().contains("step-00000002 is skipped"), "{skipped}");
        }
    }

    #[test]
    fn an_empty_directory_and_a_draft_are_not_checkpoints() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &progress(1), checkpoint_files("one")).unwrap();
        fs::create_dir(folder.path().join("step-00000005")).unwrap();
        fs::create_dir(folder.path().join(".step-00000006.tmp")).unwrap();
        assert_eq!(newest_text(folder.path()).as_deref(), Some("one"));
    }

    #[test]
    fn a_second_one_of_the_same_step_replaces_the_first() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &progress(1), checkpoint_files("old")).unwrap();
        save(folder.path(), &progress(1), checkpoint_files("new")).unwrap();
        assert_eq!(newest_text(folder.path()).as_deref(), Some("new"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
