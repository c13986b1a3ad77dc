//! Where everything lies below `cache_dir`.
//!
//! ```text
//! CACHE_DIR/content/ab/abcd…          a blob: one content under its SHA-256, read-only
//!          /content/ab/abcd….N        a blob that is being written
//!          /content/ab/abcd….part     what has come of a large one; locked while more comes
//!          /content/unfinished/       other files and links that are being written
//!          /content/lock              held by the agent that uses the store
//!          /versions/ID/…             a version whole: hard links to blobs, in read-only folders
//!          /versions/ID.part/…        a version that is being put together
//!          /versions/ID.gone/…        a version that is being removed
//!          /versions/ID.manifest      its list of files; its time is that of the version's last use
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use trainyard_content::Digest;
use trainyard_files::create_private_folder;

/// Bytes that file systems mostly take for a file at a time.
const BLOCK_BYTES: u64 = 4096;

/// The extension of what has come of a large content.
const PARTIAL: &str = "part";

/// The folders of the store.
#[derive(Debug, Clone)]
pub struct Layout {
    content: PathBuf,
    versions: PathBuf,
}

impl Layout {
    /// The folders below `cache_dir`.
    pub fn new(cache_dir: &Path) -> Self {
        Self { content: cache_dir.join("content"), versions: cache_dir.join("versions") }
    }

    /// Makes the folders.
    ///
    /// # Errors
    /// The disk's.
    pub fn create(&self) -> io::Result<()> {
        create_private_folder(&self.content)?;
        create_private_folder(&self.versions)?;
        fs::create_dir_all(self.unfinished())?;
        (0..=u8::MAX).try_for_each(|first| fs::create_dir_all(self.content.join(format!("{first:02x}"))))
    }

    /// The folder of all blobs.
    pub fn content(&self) -> &Path {
        &self.content
    }

    /// The folder of all versions.
    pub fn versions(&self) -> &Path {
        &self.versions
    }

    /// The file that keeps other agents out.
    pub fn lock(&self) -> PathBuf {
        self.content.join("lock")
    }

    /// The folder of what is being written beside blobs.
    pub fn unfinished(&self) -> PathBuf {
        self.content.join("unfinished")
    }

    /// The file of a blob.
    pub fn blob(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.content.join(&name[..2]).join(name)
    }

    /// The file of what has come of a large content.
    pub fn partial(&self, digest: Digest) -> PathBuf {
        self.blob(digest).with_extension(PARTIAL)
    }

    /// The folder of a version that is whole.
    pub fn tree(&self, id: Digest) -> PathBuf {
        self.versions.join(id.to_string())
    }

    /// The folder of a version that is being put together.
    pub fn tree_being_made(&self, id: Digest) -> PathBuf {
        self.versions.join(format!("{id}.part"))
    }

    /// The folder of a version that is being removed.
    pub fn tree_being_removed(&self, id: Digest) -> PathBuf {
        self.versions.join(format!("{id}.gone"))
    }

    /// The file with a version's list of files.
    pub fn manifest(&self, id: Digest) -> PathBuf {
        self.versions.join(format!("{id}.manifest"))
    }
}

/// Whether a file in a folder of blobs is what has come of a large content.
pub fn is_partial(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == PARTIAL)
}

/// Bytes that a file of this length takes on disk, about.
pub const fn on_disk(length: u64) -> u64 {
    length.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// The paths in a folder; none where it cannot be read.
pub fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
