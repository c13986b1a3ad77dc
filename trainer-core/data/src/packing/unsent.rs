//! Files that lie in the data set's folder and are no part of it.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::activity;
use crate::dataset::listing::is_system_name;

/// What a file is known by, whatever its path: device and inode.
pub(super) type FileId = (u64, u64);

pub(super) fn file_id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// Files and folders that are looked at: whoever keeps a data.yaml in a home folder does not wait for all of it.
const MOST_LOOKED_AT: usize = 1_000_000;

/// Files that the data set does not name, and that a push does not send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsent {
    pub files: usize,
    pub bytes: u64,
    /// The largest of them, relative to its data set's folder.
    pub largest: Option<(PathBuf, u64)>,
    /// Whether there are more, which were not counted.
    pub has_more: bool,
}

impl Unsent {
    /// Counts the files below `folders` that are not `known`. Hidden files and those of systems do not count, and links
    /// are not followed.
    pub(super) fn count(folders: &[PathBuf], known: &mut HashSet<FileId>) -> Self {
        let (mut found, mut looked_at) = (Self::default(), 0);
        for top in folders {
            let mut waiting = vec![top.clone()];
            while let Some(folder) = waiting.pop() {
                for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                    activity::tick();
                    looked_at += 1;
                    if looked_at > MOST_LOOKED_AT {
                        found.has_more = true;
                        return found;
                    }
                    let Ok(kind) = entry.file_type() else { continue };
                    if is_system_name(&entry.file_name()) {
                        continue;
                    }
                    if kind.is_dir() {
                        waiting.push(entry.path());
                    } else if kind.is_file()
                        && let Ok(metadata) = entry.metadata()
                        && known.insert(file_id(&metadata))
                    {
                        found.add(top, &entry.path(), metadata.len());
                    }
                }
            }
        }
        found
    }

    fn add(&mut self, top: &Path, file: &Path, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
        if self.largest.as_ref().is_none_or(|(_, largest)| bytes > *largest) {
            let relative = file.strip_prefix(top).unwrap_or(file);
            self.largest = Some((relative.to_path_buf(), bytes));
        }
    }
}
