//! Reads image and label files of a data set: again after a pause where that helps, and never from a pipe or device.

use std::fs::{File, FileType};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// Pauses before each further try to read a file: a network recovers, and so does a full table of open files.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];

/// Opens a file of a data set for reading. A pipe is opened at once, too, where a plain open would wait for a writer.
///
/// # Errors
/// Those of the file system.
pub fn open(file: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(file)
}

/// Refuses folders, pipes and devices: they have no bytes of their own, or no last one.
pub(crate) fn check_is_regular(kind: FileType) -> io::Result<()> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a pipe",
        _ => "a device",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("is {what}, not a file")))
}

/// All bytes of a regular file, read in one try.
///
/// # Errors
/// When it is no regular file, or cannot be read.
pub fn read_once(file: &Path) -> io::Result<Vec<u8>> {
    let mut opened = open(file)?;
    let metadata = opened.metadata()?;
    check_is_regular(metadata.file_type())?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    opened.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes of the longest label file; a longer one must be a device.
const MAX_LABEL_BYTES: u64 = 1 << 28;

/// As [`read_once`], for label files, which are short and many: kind and length are asked for only when in doubt.
///
/// # Errors
/// As [`read_once`].
pub fn read_label_file(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(2048);
    let opened = open(file)?;
    (&opened).take(MAX_LABEL_BYTES).read_to_end(&mut bytes)?;
    // A pipe looks empty, and a device may have no end.
    if bytes.is_empty() || bytes.len() as u64 == MAX_LABEL_BYTES {
        check_is_regular(opened.metadata()?.file_type())?;
    }
    Ok(bytes)
}

/// All bytes of a regular file; tried again after a pause while it exists and cannot be read.
///
/// # Errors
/// When it does not exist, is no regular file, or cannot be read at the last try either.
pub fn read_with_retries(file: &Path) -> io::Result<Vec<u8>> {
    for pause in RETRY_PAUSES {
        match read_once(file) {
            Err(error) if !is_gone(&error) => std::thread::sleep(pause),
            done => return done,
        }
    }
    read_once(file)
}

/// Whether `error` says that a file does not exist, and not only that it is out of reach for now.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
