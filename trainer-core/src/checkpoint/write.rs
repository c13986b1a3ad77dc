//! Writes a checkpoint so that it is there whole or not at all, whatever happens meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use trainyard_files::{sync_folder, write_durably};

use super::manifest::{FILE, FileHash, Manifest, Progress, VERSION};
use super::{DAMAGED, KEEP, STEP, directories, name};

/// A file of a checkpoint.
#[derive(Debug)]
pub struct CheckpointFile {
    /// Its name.
    pub name: &'static str,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Writes `files` and their manifest under `root` as `step-NNNNNNNN`, durable when this returns. Returns
/// the directory. See [`prune`] for what becomes of older ones.
///
/// # Errors
/// What the file system says; no checkpoint that was complete before is lost then, and what was written of
/// this one is gone again, so that a full disk is not fuller.
pub fn save(
    root: &Path,
    progress: &Progress,
    files: impl IntoIterator<Item = CheckpointFile>,
) -> io::Result<PathBuf> {
    fs::create_dir_all(root)?;
    let directory = root.join(name(progress.batches));
    let draft = root.join(format!(".{}.tmp", name(progress.batches)));
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    let written = write_draft(&draft, progress, files).and_then(|()| publish(&draft, &directory));
    if written.is_err() {
        // What failed is told; that this fails, too, would say nothing more.
        let _ = fs::remove_dir_all(&draft);
    }
    written?;
    sync_folder(root)?;
    Ok(directory)
}

fn write_draft(
    draft: &Path,
    progress: &Progress,
    files: impl IntoIterator<Item = CheckpointFile>,
) -> io::Result<()> {
    fs::create_dir(draft)?;
    let mut hashes = BTreeMap::new();
    for file in files {
        write_durably(&draft.join(file.name), &file.bytes)?;
        let hash = FileHash { sha256: sha256(&file.bytes), bytes: file.bytes.len() as u64 };
        hashes.insert(file.name.to_owned(), hash);
    }
    let manifest = Manifest { version: VERSION, progress: progress.clone(), files: hashes };
    write_durably(&draft.join(FILE), &serde_json::to_vec_pretty(&manifest)?)?;
    sync_folder(draft)
}

/// The hash of `bytes`, in lower-case hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Gives the finished draft its name. One of the same step (stopped twice between two steps) changes
/// places with it first, so that a complete one has the name at any time.
fn publish(draft: &Path, directory: &Path) -> io::Result<()> {
    if !directory.exists() {
        return fs::rename(draft, directory);
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, draft, CWD, directory, RenameFlags::EXCHANGE).is_ok() {
            return fs::remove_dir_all(draft);
        }
    }
    // A file system that cannot exchange: the one before is still there if this is cut short.
    fs::remove_dir_all(directory)?;
    fs::rename(draft, directory)
}

/// Removes all but the newest checkpoints, and drafts that were never finished. Not while one is written. Of damaged
/// ones as many stay.
///
/// # Errors
/// What the file system says; the newest checkpoints are there all the same.
pub fn prune(root: &Path) -> io::Result<()> {
    for prefix in [STEP, DAMAGED] {
        for (_, directory) in directories(root, prefix)?.into_iter().skip(KEEP) {
            fs::remove_dir_all(directory)?;
        }
    }
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(".step-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
