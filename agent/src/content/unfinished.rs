//! A content that is being written. What has come of a large one outlives the stream that wrote it, and the agent.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::libc::O_NOFOLLOW;
use trainyard_content::{Entry, Hasher};

use super::blob;
use super::layout::on_disk;
use super::store::Store;

/// Contents of at least so many bytes are kept in part. A smaller one comes again within a second.
pub const KEPT_FROM: u64 = 8 << 20;

/// A content that is being written. Unless it becomes a blob, it is removed, or kept for the next fetch if it is large.
pub struct Unfinished {
    store: Arc<Store>,
    file: File,
    path: PathBuf,
    /// Number of bytes that are there.
    bytes: u64,
    /// Number of bytes that a former stream has left; the store counts them.
    found: u64,
    is_kept: bool,
}

impl Unfinished {
    /// A content of which nothing is here.
    ///
    /// # Errors
    /// The disk's.
    pub fn new(store: &Arc<Store>, entry: Entry<'_>) -> io::Result<Self> {
        let (file, path) = blob::create(store.layout(), entry.digest)?;
        Ok(Self { store: Arc::clone(store), file, path, bytes: 0, found: 0, is_kept: false })
    }

    /// What a former stream has left of a large content, which goes through `hasher`; whether it is right shows at the
    /// end. Nothing if there is nothing, or if the same content comes to another version just now.
    ///
    /// # Errors
    /// The disk's.
    pub fn found(store: &Arc<Store>, entry: Entry<'_>, hasher: &mut Hasher) -> io::Result<Self> {
        let path = store.layout().partial(entry.digest);
        let Some(mut file) = lock(&path, true)? else { return Self::new(store, entry) };
        let found = file.metadata()?.len();
        let mut bytes = found;
        if bytes > entry.size_bytes {
            file.set_len(0)?;
            bytes = 0;
        }
        let mut buffer = vec![0; blob::BUFFER_BYTES];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
        }
        file.seek(io::SeekFrom::Start(bytes))?;
        Ok(Self { store: Arc::clone(store), file, path, bytes, found, is_kept: true })
    }

    /// Number of bytes that are there.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of bytes that came by this stream.
    pub const fn came(&self) -> u64 {
        self.bytes.saturating_sub(self.found)
    }

    /// Adds the next bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes it a blob, and part of the tree at `root`. Returns the bytes that it takes on disk beyond what was found.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(mut self, root: &Path, entry: Entry<'_>) -> io::Result<u64> {
        self.file.set_permissions(Permissions::from_mode(blob::READ_ONLY_FILE))?;
        self.store.add(root, entry, &self.path)?;
        self.is_kept = false;
        Ok(on_disk(entry.size_bytes).saturating_sub(on_disk(self.found)))
    }

    /// Removes it: its bytes are wrong.
    pub fn discard(mut self) {
        self.is_kept = false;
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_kept || self.bytes == 0 {
            // A blob has another name by now.
            let _renamed = fs::remove_file(&self.path);
        }
        let kept = if self.is_kept { self.bytes } else { 0 };
        self.store.partial_changed(self.found, kept);
    }
}

/// Number of bytes that are here of a large content.
pub fn bytes_found(store: &Store, entry: Entry<'_>) -> u64 {
    if entry.size_bytes < KEPT_FROM {
        return 0;
    }
    let found = fs::symlink_metadata(store.layout().partial(entry.digest));
    found.map_or(0, |known| known.len()).min(entry.size_bytes)
}

/// Removes a part of a content, unless it is being written. Returns whether it did.
///
/// # Errors
/// The disk's.
pub fn remove_idle(path: &Path) -> io::Result<bool> {
    let Some(_locked) = lock(path, false)? else { return Ok(false) };
    fs::remove_file(path)?;
    Ok(true)
}

/// Opens the part of a content for this stream alone. `None` if another one has it, or if there is none to open.
fn lock(path: &Path, create: bool) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false).mode(0o644).custom_flags(O_NOFOLLOW);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
        opened => opened?,
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Whoever had it a moment ago may have removed it, or made it a blob.
    let inode = fs::symlink_metadata(path).ok().map(|known| known.ino());
    Ok((inode == Some(file.metadata()?.ino())).then_some(file))
}
