//! Reads files of a data set: again after a pause where that helps, never from a pipe or device, and none that is larger
//! than its kind may be. Strangers write these files, and nobody's memory is theirs.

use std::fs::{File, FileType};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use trainyard_types::SizeLimit;

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
    let (what, error) = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => ("a folder", io::ErrorKind::IsADirectory),
        kind if kind.is_fifo() => ("a pipe", io::ErrorKind::InvalidInput),
        _ => ("a device", io::ErrorKind::InvalidInput),
    };
    Err(io::Error::new(error, format!("is {what}, not a file")))
}

/// Refuses a file of so many bytes that is too large.
pub(crate) fn check_size(bytes: u64, limit: SizeLimit) -> io::Result<()> {
    limit.check(bytes).map_err(|error| io::Error::new(io::ErrorKind::FileTooLarge, error))
}

/// All bytes of a regular file, read in one try.
///
/// # Errors
/// When it is no regular file, is too large, or cannot be read.
pub fn read_once(file: &Path, limit: SizeLimit) -> io::Result<Vec<u8>> {
    let opened = open(file)?;
    let length = regular_length(&opened, limit)?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    read_rest(&opened, limit, &mut bytes)?;
    Ok(bytes)
}

/// The length of a regular file that is not too large.
fn regular_length(opened: &File, limit: SizeLimit) -> io::Result<u64> {
    let metadata = opened.metadata()?;
    check_is_regular(metadata.file_type())?;
    check_size(metadata.len(), limit)?;
    Ok(metadata.len())
}

/// Reads what follows the `bytes` that were read already. The file may grow meanwhile.
fn read_rest(opened: &File, limit: SizeLimit, bytes: &mut Vec<u8>) -> io::Result<()> {
    opened.take((limit.most + 1).saturating_sub(bytes.len() as u64)).read_to_end(bytes)?;
    check_size(bytes.len() as u64, limit)
}

/// Bytes that nearly all label files have less of.
const SHORT: u64 = 64 << 10;

/// As [`read_once`], for label files, which are short and many: kind and length are asked for only when in doubt.
///
/// # Errors
/// As [`read_once`].
pub fn read_label_file(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(2048);
    let opened = open(file)?;
    (&opened).take(SHORT).read_to_end(&mut bytes)?;
    // A pipe looks empty, and a device may have no end.
    let is_long = bytes.len() as u64 == SHORT;
    if bytes.is_empty() || is_long {
        regular_length(&opened, SizeLimit::LABELS)?;
    }
    if is_long {
        read_rest(&opened, SizeLimit::LABELS, &mut bytes)?;
    }
    Ok(bytes)
}

/// All bytes of an image file; tried again after a pause while it exists and cannot be read.
///
/// # Errors
/// When it does not exist, is no regular file, is too large, or cannot be read at the last try either.
pub fn read_with_retries(image: &Path) -> io::Result<Vec<u8>> {
    for pause in RETRY_PAUSES {
        match read_once(image, SizeLimit::IMAGE) {
            Err(error) if !is_lasting(&error) => std::thread::sleep(pause),
            done => return done,
        }
    }
    read_once(image, SizeLimit::IMAGE)
}

/// Whether another try would have the same error.
fn is_lasting(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, InvalidInput, IsADirectory};
    is_gone(error) || matches!(error.kind(), FileTooLarge | InvalidInput | IsADirectory)
}

/// Whether `error` says that a file does not exist, and not only that it is out of reach for now.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_size_takes_no_more_memory_than_its_kind_may() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        // Nothing of it is on the disk.
        let sparse = |bytes| File::create(&file).unwrap().set_len(bytes).unwrap();
        sparse(50 << 30);
        for limit in [SizeLimit::IMAGE, SizeLimit::LABELS, SizeLimit::LIST, SizeLimit::DATA_YAML] {
            let error = read_once(&file, limit).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert!(error.to_string().starts_with("has 50.0 GiB, more than the "), "{error}");
        }
        assert_eq!(read_label_file(&file).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_with_retries(&file).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        sparse(SizeLimit::DATA_YAML.most);
        assert_eq!(read_once(&file, SizeLimit::DATA_YAML).unwrap().len() as u64, SizeLimit::DATA_YAML.most);
        for bytes in [0, 1, SHORT - 1, SHORT, SHORT + 1, 3 * SHORT] {
            sparse(bytes);
            assert_eq!(read_label_file(&file).unwrap().len() as u64, bytes);
        }
    }

    #[test]
    fn a_file_that_grows_after_its_length_was_read_is_refused_at_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        File::create(&path).unwrap().set_len(50 << 30).unwrap();
        let mut bytes = Vec::new();
        let error = read_rest(&open(&path).unwrap(), SizeLimit::DATA_YAML, &mut bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(bytes.len() as u64, SizeLimit::DATA_YAML.most + 1);
    }
}
