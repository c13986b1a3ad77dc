//! Whether a file is still the one that something was made of. There are three answers of rising cost: its stamp
//! (metadata), its fingerprint (length and both ends) and its digest (every byte). So a cache is never taken for
//! what a file has now, though a million files are not read at each start.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64, xxh3_128};

use super::read::check_is_regular;

/// A hash of what the file system says of a file: length, inode, modification time, change time. The change time cannot
/// be put back by whoever rewrites a file.
#[derive(Debug, Clone, Copy)]
pub struct FileStamp {
    hash: u64,
    is_settled: bool,
}

impl PartialEq for FileStamp {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

/// The clock's step on file systems that keep no fractions of a second (FAT has two seconds).
const COARSE_CLOCK: Duration = Duration::from_secs(2);
/// The clock's step on all others: a tick of the kernel, of 10 ms at most, and a margin.
const FINE_CLOCK: Duration = Duration::from_millis(20);

impl FileStamp {
    /// The stamp that `file` has now; `None` when its metadata cannot be read.
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
        Some(Self { hash: xxh3_64(&numbers), is_settled: changed + step < now })
    }

    /// The stamp as a number, for comparison now.
    pub fn number(self) -> u64 {
        self.hash
    }

    /// The stamp to keep for later; `None` while the file changed so lately that it could change again
    /// within the same step of the file system's clock.
    pub fn settled(self) -> Option<u64> {
        self.is_settled.then_some(self.hash)
    }
}

/// Bytes at each end of a file that [`HeadAndTail`] holds.
const END_BYTES: usize = 4096;

/// A file's length, its first bytes and its last ones.
#[derive(Debug)]
pub struct HeadAndTail {
    /// Bytes of the file.
    pub length: u64,
    /// Both ends, one behind the other, or the whole of a short file.
    bytes: Vec<u8>,
    /// Bytes of each end; in a short file the ends overlap.
    end_bytes: usize,
}

impl HeadAndTail {
    /// Reads both ends of a regular file, at most 8 KiB.
    ///
    /// # Errors
    /// When it is no regular file, or cannot be read.
    pub fn read(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        check_is_regular(metadata.file_type())?;
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
        Ok(Self { length, end_bytes: whole.min(END_BYTES), bytes })
    }

    /// The first bytes of the file, at most 4 KiB.
    pub fn head(&self) -> &[u8] {
        &self.bytes[..self.end_bytes]
    }

    /// The last bytes of the file, at most 4 KiB; in a short file they overlap the first ones.
    pub fn tail(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - self.end_bytes..]
    }

    /// A hash (XXH3) of length and both ends. Copies of a file share it wherever they are, other files hardly ever do.
    /// What was cached under a fingerprint is compared by [`digest`] before it is used.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Xxh3Default::new();
        hash.update(&self.length.to_le_bytes());
        hash.update(self.head());
        hash.update(self.tail());
        hash.digest()
    }
}

/// A hash (XXH3) of all bytes of a file. It does not withstand malice.
pub fn digest(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

/// A checksum (XXH3) that finds torn and flipped bytes of files of our own. It does not withstand malice.
pub fn checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::read::open;

    #[test]
    fn a_file_that_is_rewritten_with_its_old_length_and_time_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, b"one").unwrap();
        crate::test_data::settle(&file);
        let (before, time) =
            (FileStamp::of(&file).unwrap(), std::fs::metadata(&file).unwrap().modified().unwrap());
        assert_eq!(before.settled(), Some(before.number()));
        std::fs::write(&file, b"two").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        let after = FileStamp::of(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), time);
        assert_ne!(before, after);
        assert!(FileStamp::of(&folder.path().join("b")).is_none());
    }

    #[test]
    fn copies_have_one_fingerprint_and_a_change_at_an_end_makes_another() {
        let folder = tempfile::tempdir().unwrap();
        let fingerprint = |bytes: &[u8]| {
            let file = folder.path().join("a");
            std::fs::write(&file, bytes).unwrap();
            HeadAndTail::read(&open(&file).unwrap()).unwrap().fingerprint()
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
