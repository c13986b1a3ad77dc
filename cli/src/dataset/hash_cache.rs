//! Hashes of the files of an earlier push, so that one of 10,000 files that have not changed takes no time. They lie in
//! the user's cache folder, one file for each data set.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use trainyard_content::{Digest, Hasher};
use trainyard_data::files::{FileStamp, digest};
use trainyard_files::write_atomically_with;

/// What the file begins with: its form.
const MAGIC: &[u8; 16] = b"trainyard-hash-1";
/// Bytes of an entry.
const ENTRY_BYTES: usize = 48;
/// Data sets whose hashes are kept.
const MOST_FILES: usize = 64;

/// A file as it was: its path, size, inode and times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileState(u128);

impl FileState {
    /// The state of a file with this stamp.
    pub fn of(file: &Path, stamp: u64) -> Self {
        let path = file.as_os_str().as_encoded_bytes();
        Self(digest(&[path, &stamp.to_le_bytes()].concat()))
    }
}

/// Hashes by what the files were like.
#[derive(Debug, Default)]
pub struct HashCache {
    /// Where they lie; `None` where there is no cache folder.
    file: Option<PathBuf>,
    /// Sorted.
    known: Vec<(FileState, Digest)>,
}

impl HashCache {
    /// The hashes of an earlier push of `source`; none when they cannot be read.
    pub fn load(source: &Path) -> Self {
        folder().map_or_else(Self::default, |folder| Self::load_from(&folder, source))
    }

    fn load_from(folder: &Path, source: &Path) -> Self {
        let whole = source.canonicalize().unwrap_or_else(|_| source.to_path_buf());
        let name = format!("{:032x}", digest(whole.as_os_str().as_encoded_bytes()));
        let file = folder.join(name);
        let known = fs::read(&file).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { file: Some(file), known }
    }

    /// The hash of a file that is as it was.
    pub fn get(&self, state: FileState) -> Option<Digest> {
        let at = self.known.binary_search_by_key(&state, |(known, _)| *known).ok()?;
        Some(self.known[at].1)
    }

    /// Keeps `entries` for the next push; with `and_known`, what was known before as well. A cache that cannot be written
    /// costs time, and nothing else.
    pub fn save(&self, mut entries: Vec<(FileState, Digest)>, and_known: bool) {
        let Some(file) = &self.file else { return };
        if and_known {
            entries.extend(&self.known);
        }
        entries.sort_unstable();
        entries.dedup_by_key(|(state, _)| *state);
        if entries == self.known {
            return;
        }
        let Some(folder) = file.parent() else { return };
        // Several pushes may write at the same time.
        let unfinished = file.with_extension(format!("{}.part", std::process::id()));
        let write = |file: &mut File| encode(&entries, &mut BufWriter::new(file));
        let written =
            fs::create_dir_all(folder).and_then(|()| write_atomically_with(file, &unfinished, write));
        if written.is_ok() {
            remove_oldest(folder);
        }
    }
}

/// `~/.cache/trainyard/hashes`, or where `XDG_CACHE_HOME` says.
fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(cache.join("trainyard/hashes"))
}

/// Writes entries, and the hash of all.
fn encode(entries: &[(FileState, Digest)], out: &mut impl Write) -> io::Result<()> {
    let mut hasher = Hasher::new();
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
        out.write_all(bytes)
    };
    put(MAGIC)?;
    for (FileState(state), Digest(hash)) in entries {
        put(&state.to_le_bytes())?;
        put(hash)?;
    }
    out.write_all(&hasher.take().0)?;
    out.flush()
}

/// The entries in `bytes`; `None` when these are damaged or of another form.
fn decode(bytes: &[u8]) -> Option<Vec<(FileState, Digest)>> {
    let (content, own) = bytes.split_last_chunk()?;
    let entries = content.strip_prefix(MAGIC)?;
    if Digest::of(content) != Digest(*own) {
        return None;
    }
    let entry = |bytes: &[u8]| {
        let (state, hash) = bytes.split_first_chunk()?;
        Some((FileState(u128::from_le_bytes(*state)), Digest::from_bytes(hash)?))
    };
    entries.chunks(ENTRY_BYTES).map(entry).collect()
}

/// Removes the hashes of data sets that were not pushed for longest.
fn remove_oldest(folder: &Path) {
    let dated = |entry: fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
    let mut files: Vec<(SystemTime, PathBuf)> =
        fs::read_dir(folder).into_iter().flatten().flatten().filter_map(dated).collect();
    files.sort();
    let surplus = files.len().saturating_sub(MOST_FILES);
    for (_, file) in files.into_iter().take(surplus) {
        // Another process may have removed it.
        let _ = fs::remove_file(file);
    }
}

/// The state of a file now, and whether a later change is certain to show in it.
pub fn state_of(file: &Path) -> Option<(FileState, bool)> {
    let stamp = FileStamp::of(file)?;
    Some((FileState::of(file, stamp.number()), stamp.settled().is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_come_back_and_damaged_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("data.yaml");
        let entries: Vec<_> =
            (0..5_u8).map(|at| (FileState(u128::from(at) * 7), Digest::of(&[at]))).collect();
        let cache = HashCache::load_from(folder.path(), &source);
        assert_eq!(cache.get(entries[3].0), None);
        cache.save(entries.clone(), false);
        let cache = HashCache::load_from(folder.path(), &source);
        assert_eq!(cache.get(entries[3].0), Some(entries[3].1));
        cache.save(vec![(FileState(1), Digest::of(b"new"))], true);
        let file = cache.file.unwrap();
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(decode(&bytes).unwrap().len(), 6);
        for keep in 0..bytes.len() {
            assert_eq!(decode(&bytes[..keep]), None, "{keep}");
        }
        let mut damaged = bytes;
        damaged[20] ^= 1;
        assert_eq!(decode(&damaged), None);
    }

    #[test]
    fn only_the_data_sets_of_the_last_pushes_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for at in 0..MOST_FILES + 3 {
            let cache = HashCache::load_from(folder.path(), &folder.path().join(at.to_string()));
            cache.save(vec![(FileState(1), Digest::of(b"x"))], false);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), MOST_FILES);
    }
}
