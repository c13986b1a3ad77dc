//! What an image or label file is known by, from a glance to every byte: so that what was made of it is never
//! taken for what it is now, though a million files are not read at each start.

use std::fs::{File, FileType};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64, xxh3_128};

/// What the file system says of a file: length, inode, times of change of its content and of itself. The last
/// one cannot be put back by whoever rewrites a file.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    of: u64,
    is_settled: bool,
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        self.of == other.of
    }
}

/// File systems that keep no fractions of a second may take two for a step of their clock.
const COARSE_CLOCK: Duration = Duration::from_secs(2);
/// Others take the kernel's tick, of 10 ms at most.
const FINE_CLOCK: Duration = Duration::from_millis(20);

impl Stamp {
    /// Of a file; `None` when it cannot be looked at.
    pub fn of(file: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(file).ok()?;
        let mut numbers = [0; 48];
        let fields = [
            metadata.len(),
            metadata.ino(),
            metadata.mtime().cast_unsigned(),
            metadata.mtime_nsec().cast_unsigned(),
            metadata.ctime().cast_unsigned(),
            metadata.ctime_nsec().cast_unsigned(),
        ];
        for (place, number) in numbers.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let changed = Duration::new(
            u64::try_from(metadata.ctime()).unwrap_or(0),
            u32::try_from(metadata.ctime_nsec()).unwrap_or(0),
        );
        let step = if changed.subsec_nanos() == 0 { COARSE_CLOCK } else { FINE_CLOCK };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Self { of: xxh3_64(&numbers), is_settled: changed + step < now })
    }

    /// The stamp as a number, for comparison now.
    pub fn number(self) -> u64 {
        self.of
    }

    /// The stamp to keep for later; `None` while the file changed so lately that it could change again
    /// within the same step of the file system's clock.
    pub fn settled(self) -> Option<u64> {
        self.is_settled.then_some(self.of)
    }
}

/// Bytes of a file's beginning, and of its end, that [`Ends`] has.
const END_BYTES: usize = 4096;

/// A file's length, its first bytes and its last ones.
#[derive(Debug)]
pub struct Ends {
    /// Bytes of the file.
    pub length: u64,
    /// Both ends, one behind the other, or a short file as it is.
    bytes: Vec<u8>,
    /// Bytes of each end; in a short file they overlap.
    part: usize,
}

impl Ends {
    /// Reads both ends.
    pub fn read(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        only_files(metadata.file_type())?;
        let length = metadata.len();
        let whole = usize::try_from(length).unwrap_or(usize::MAX);
        let mut bytes = vec![0; whole.min(2 * END_BYTES)];
        if bytes.len() == whole {
            file.read_exact_at(&mut bytes, 0)?;
        } else {
            let (head, tail) = bytes.split_at_mut(END_BYTES);
            file.read_exact_at(head, 0)?;
            file.read_exact_at(tail, length - END_BYTES as u64)?;
        }
        Ok(Self { length, part: whole.min(END_BYTES), bytes })
    }

    /// The file's beginning.
    pub fn head(&self) -> &[u8] {
        &self.bytes[..self.part]
    }

    /// Its end, which may overlap the beginning.
    pub fn tail(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - self.part..]
    }

    /// What names a file in little time: copies of it have the same wherever they are, other files hardly
    /// ever. What was made under a fingerprint is compared by [`digest`] before it is used.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Xxh3Default::new();
        hash.update(&self.length.to_le_bytes());
        hash.update(self.head());
        hash.update(self.tail());
        hash.digest()
    }
}

/// Pauses before a file that could not be read is tried again: networks recover, and tables of open files.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];

/// Opens a file of a data set. A pipe among them, which would be waited for without an end, is opened at once.
pub fn open(file: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(file)
}

/// Refuses what has no bytes of its own, or no last one.
fn only_files(kind: FileType) -> io::Result<()> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a pipe",
        _ => "a device",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("is {what}, not a file")))
}

/// All bytes of a file of a data set.
pub fn read_once(file: &Path) -> io::Result<Vec<u8>> {
    let mut opened = open(file)?;
    let metadata = opened.metadata()?;
    only_files(metadata.file_type())?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    opened.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Longer files of labels are none.
const LONGEST_LABELS: u64 = 1 << 28;

/// As [`read_once`], but without a question for kind and length: label files are short, and many.
pub fn read_short(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(2048);
    let opened = open(file)?;
    (&opened).take(LONGEST_LABELS).read_to_end(&mut bytes)?;
    // A pipe looks empty, and a device may have no end.
    if bytes.is_empty() || bytes.len() as u64 == LONGEST_LABELS {
        only_files(opened.metadata()?.file_type())?;
    }
    Ok(bytes)
}

/// All bytes of a file; tried again while it is there and cannot be read.
///
/// # Errors
/// When it cannot be read still, or is not there.
pub fn read(file: &Path) -> io::Result<Vec<u8>> {
    for pause in PAUSES {
        match read_once(file) {
            Err(error) if !is_gone(&error) => std::thread::sleep(pause),
            done => return done,
        }
    }
    read_once(file)
}

/// Whether a file that could not be read is not there, and not only out of reach for now.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Of all bytes of a file. Not meant against malice.
pub fn digest(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_rewritten_with_its_old_length_and_time_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, b"one").unwrap();
        crate::test_data::settle(&file);
        let (before, time) =
            (Stamp::of(&file).unwrap(), std::fs::metadata(&file).unwrap().modified().unwrap());
        assert_eq!(before.settled(), Some(before.number()));
        std::fs::write(&file, b"two").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        let after = Stamp::of(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), time);
        assert_ne!(before, after);
        assert!(Stamp::of(&folder.path().join("b")).is_none());
    }

    #[test]
    fn copies_have_one_fingerprint_and_a_change_at_an_end_makes_another() {
        let folder = tempfile::tempdir().unwrap();
        let fingerprint = |bytes: &[u8]| {
            let file = folder.path().join("a");
            std::fs::write(&file, bytes).unwrap();
            Ends::read(&open(&file).unwrap()).unwrap().fingerprint()
        };
        let mut bytes = vec![7; 10_000];
        let first = fingerprint(&bytes);
        assert_eq!(fingerprint(&bytes), first);
        assert_ne!(fingerprint(&bytes[1..]), first);
        for at in [0, 9_999] {
            bytes[at] ^= 1;
            assert_ne!(fingerprint(&bytes), first);
            bytes[at] ^= 1;
        }
        bytes[5_000] ^= 1;
        assert_eq!(fingerprint(&bytes), first, "the middle is only in the digest");
        assert_ne!(digest(&bytes), digest(&[7; 10_000]));
        assert_ne!(fingerprint(b""), fingerprint(b"a"));
    }
}
