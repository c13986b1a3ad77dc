//! Complete, verified directories to resume from: `checkpoints/step-NNNNNNNN/` under the run directory. What
//! cannot be resumed from gets another name, so that nobody takes it for the newest.
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
pub use self::write::{Part, prune, replace, save};

/// The folder of checkpoints in a run directory.
pub const FOLDER: &str = "checkpoints";
/// How many are kept.
const KEPT: usize = 2;
/// How a checkpoint's name begins.
const STEP: &str = "step-";
/// How the name of one begins that was set aside. An agent takes what begins with `step-` for a checkpoint.
const ASIDE: &str = "damaged-step-";

/// A checkpoint's directory name; it sorts by step.
pub fn name(step: u64) -> String {
    format!("{STEP}{step:08}")
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
    /// Newer ones, the newest first.
    pub skipped: Vec<Skipped>,
}

impl Found {
    /// What another version of the trainer could go on from, where this one finds nothing that it can.
    pub fn of_another_version(&self) -> Option<&Skipped> {
        let foreign = |skipped: &&Skipped| matches!(skipped.reason, Torn::Version(_));
        self.skipped.iter().find(foreign).filter(|_| self.checkpoint.is_none())
    }
}

/// A directory that is named as a checkpoint and is none, for this trainer.
#[derive(Debug)]
pub struct Skipped {
    /// The step that its name says.
    pub step: u64,
    /// The directory.
    pub place: PathBuf,
    /// What is wrong with it.
    pub reason: Torn,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is skipped: {}", self.place.display(), self.reason)
    }
}

impl Skipped {
    /// Renames it to `damaged-step-NNNNNNNN`, in the place of an earlier one of that name. Otherwise its number
    /// would keep it among the newest, and the good ones that follow would be pruned for it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set_aside(&self) -> io::Result<PathBuf> {
        let aside = self.place.with_file_name(format!("{ASIDE}{:08}", self.step));
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::rename(&self.place, &aside)?;
        Ok(aside)
    }
}

/// Looks for the newest checkpoint whose files are all there and as they were written.
///
/// # Errors
/// When `root` exists and cannot be listed, or a file cannot be read for a reason that may pass: that says nothing
/// of the checkpoint.
pub fn newest(root: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    for (step, place) in directories(root, STEP)? {
        match load(&place) {
            Ok(loaded) => {
                found.checkpoint = Some(loaded);
                break;
            }
            Err(Torn::Io { source, .. }) if !is_damage(&source) => return Err(source),
            Err(reason) => found.skipped.push(Skipped { step, place, reason }),
        }
    }
    Ok(found)
}

/// Why a directory is not a whole checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum Torn {
    /// A file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// Its name.
        file: String,
        /// What the file system says.
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

/// What a manifest of any version has.
#[derive(Deserialize)]
struct AnyManifest {
    version: u32,
}

fn load(place: &Path) -> Result<Loaded, Torn> {
    let read =
        |file: &str| fs::read(place.join(file)).map_err(|source| Torn::Io { file: file.to_owned(), source });
    let text = read(manifest::FILE)?;
    // By itself: another version's manifest may have other fields.
    let AnyManifest { version } = serde_json::from_slice(&text)?;
    if version != manifest::VERSION {
        return Err(Torn::Version(version));
    }
    let manifest: Manifest = serde_json::from_slice(&text)?;
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

/// Directories whose names are `prefix` and a step, newest first; none if `root` is not there.
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
        let step = file_name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
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
        assert!(found.skipped[0].to_string().contains("hash differs"), "{:?}", found.skipped);
    }

    #[test]
    fn one_that_is_set_aside_costs_no_good_one_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for round in 0..2 {
            for step in [8 + round, 10, 12] {
                save(root, &progress(step), parts("later")).unwrap();
                fs::write(root.join(name(step)).join(manifest::FILE), "torn").unwrap();
            }
            let found = newest(root).unwrap();
            assert!(found.checkpoint.is_none() && found.of_another_version().is_none(), "{round}");
            assert_eq!(found.skipped.len(), 3);
            for skipped in &found.skipped {
                assert!(skipped.set_aside().unwrap().is_dir());
            }
        }
        for step in [2, 4, 6] {
            save(root, &progress(step), parts(&step.to_string())).unwrap();
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
        save(root, &progress(1), parts("one")).unwrap();
        save(root, &progress(2), parts("two")).unwrap();
        let file = root.join("step-00000002/model.safetensors");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&file, &file).unwrap();
        assert!(newest(root).is_err(), "a loop of links is for somebody to look at");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(newest_text(root).as_deref(), Some("one"));
    }

    #[test]
    fn one_of_another_version_is_told_from_a_torn_one_whatever_else_its_manifest_has() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        save(root, &progress(2), parts("two")).unwrap();
        save(root, &progress(3), parts("three")).unwrap();
        fs::write(root.join("step-00000003").join(manifest::FILE), r#"{"version": 99, "new": []}"#).unwrap();
        let found = newest(root).unwrap();
        assert!(found.of_another_version().is_none(), "there is one to go on from");
        assert_eq!(found.checkpoint.unwrap().progress.step, 2);
        fs::remove_file(root.join("step-00000002").join(manifest::FILE)).unwrap();
        let found = newest(root).unwrap();
        let foreign = found.of_another_version().unwrap().to_string();
        assert!(foreign.contains("step-00000003") && foreign.contains("it has version 99"), "{foreign}");
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
            let [skipped] = &found.skipped[..] else { panic!("{:?}", found.skipped) };
            assert!(skipped.to_string().contains("step-00000002 is skipped"), "{skipped}");
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
