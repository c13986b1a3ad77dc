//! One content under its hash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc::O_NOFOLLOW;
use tokio_util::sync::CancellationToken;
use trainyard_content::{Digest, Entry, Hasher};

use super::layout::Layout;

/// Nobody changes a blob.
pub const READ_ONLY_FILE: u32 = 0o444;
/// Bytes that are read and hashed at a time.
pub const BUFFER_BYTES: usize = 256 * 1024;

/// What a file is, beside what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// It has the size and the hash.
    Same,
    /// It has not, or cannot be read.
    Other,
    /// No such blob is there.
    Absent,
}

/// Compares all bytes of the file at `path` with what `entry` says of it.
pub fn compare(path: &Path, entry: Entry<'_>, buffer: &mut [u8], end: &CancellationToken) -> Likeness {
    match compare_bytes(path, entry, buffer, end) {
        Ok(true) => Likeness::Same,
        Ok(false) => Likeness::Other,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Likeness::Absent,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a file of a fetched version cannot be read");
            Likeness::Other
        }
    }
}

fn compare_bytes(
    path: &Path,
    entry: Entry<'_>,
    buffer: &mut [u8],
    end: &CancellationToken,
) -> io::Result<bool> {
    let mut file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path)?;
    let known = file.metadata()?;
    if !known.is_file() || known.len() != entry.size_bytes {
        return Ok(false);
    }
    let mut hasher = Hasher::new();
    loop {
        let count = file.read(buffer)?;
        if count == 0 || end.is_cancelled() {
            return Ok(end.is_cancelled() || hasher.take() == entry.digest);
        }
        hasher.update(&buffer[..count]);
    }
}

/// A number that no other unfinished file of this process has.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A name for something that is being written, which nothing else has.
pub fn unfinished_name(layout: &Layout) -> PathBuf {
    layout.unfinished().join(next_number().to_string())
}

/// A new file for a blob, and its path, beside the blob: many at a time in one folder would wait for each other.
///
/// # Errors
/// The disk's.
pub fn create(layout: &Layout, digest: Digest) -> io::Result<(File, PathBuf)> {
    let path = layout.blob(digest).with_extension(next_number().to_string());
    let file = OpenOptions::new().write(true).create_new(true).mode(READ_ONLY_FILE).open(&path)?;
    Ok((file, path))
}

/// Whether a file in a folder of blobs is one, and not one that is being written.
pub fn is_finished(path: &Path) -> bool {
    path.extension().is_none()
}

/// Gives a blob a file of its own, beside the one that has as many names as it may have.
///
/// # Errors
/// The disk's.
pub fn renew(layout: &Layout, entry: Entry<'_>) -> io::Result<()> {
    let blob = layout.blob(entry.digest);
    let (mut copy, path) = create(layout, entry.digest)?;
    let copied = File::open(&blob).and_then(|mut file| io::copy(&mut file, &mut copy));
    let renewed = copied.and_then(|_| fs::rename(&path, &blob));
    if renewed.is_err() {
        // The first error is the one to tell.
        let _gone = fs::remove_file(&path);
    }
    renewed
}
