//! Replaces a file so that a reader finds the old content or the new one, also after a crash, and never a part. Makes
//! folders that other users of the machine do not enter.
//!
//! Must not know: whose files these are. The content goes to an unfinished file beside it, which is synced and
//! renamed; then the folder is synced.

mod private_folder;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

pub use private_folder::{create_private_folder, keep_folder_private};

/// How the name of a file ends that is not whole yet.
pub const UNFINISHED: &str = ".part";

/// Replaces the file at `path` by one of `bytes`, durable when this returns. The unfinished file is `<name>.part`
/// beside it, so only one writer of `path` may be at work at a time.
///
/// # Errors
/// Those of the file system. The old content stays then, and the unfinished file is removed; only when the disk fails
/// after the new content has its name, that stays.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomically_with(path, &beside(path, UNFINISHED), |file| file.write_all(bytes))
}

/// As [`write_atomically`], for a file that several processes may write at the same time: each has an unfinished file
/// of its own, `<name>.<process id>.part`, and the last one to finish wins.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_atomically_shared(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = beside(path, &format!(".{}{UNFINISHED}", std::process::id()));
    write_atomically_with(path, &unfinished, |file| file.write_all(bytes))
}

/// As [`write_atomically`], with the content that `fill` writes into the new, empty file. `unfinished` is the name that
/// the file has meanwhile; it must be in the folder of `path`, and no other writer may use it.
///
/// # Errors
/// As [`write_atomically`], and those of `fill`.
pub fn write_atomically_with(
    path: &Path,
    unfinished: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let written = File::create(unfinished)
        .and_then(|mut file| fill(&mut file).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(unfinished, path));
    if written.is_err() {
        // On a full disk what was written would only be in the way. The first error is the one to tell.
        let _ = fs::remove_file(unfinished);
    }
    written?;
    sync_folder(path.parent().unwrap_or(Path::new("")))
}

/// As [`write_atomically`], for a file that only its owner may read. `prepare` is told of the unfinished file before
/// there is anything to read in it.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_private(path: &Path, bytes: &[u8], prepare: impl FnOnce(&Path)) -> io::Result<()> {
    let unfinished = beside(path, UNFINISHED);
    write_atomically_with(path, &unfinished, |file| {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        prepare(&unfinished);
        file.write_all(bytes)
    })
}

/// A file that should be its owner's alone.
#[derive(Debug)]
pub struct OpenToOthers {
    path: PathBuf,
    mode: u32,
    /// Whether it is this process' user's: another one's is read by its group.
    is_own: bool,
}

impl std::error::Error for OpenToOthers {}

impl fmt::Display for OpenToOthers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, mode, is_own } = self;
        let (path, closed) = (path.display(), if *is_own { "600" } else { "640" });
        write!(f, "others on this machine may read `{path}` (mode {mode:o}); run `chmod {closed} {path}`")
    }
}

/// Refuses a file by [`open_to_others`].
///
/// # Errors
/// Others on this machine may read or change it.
pub fn check_private(path: &Path) -> Result<(), OpenToOthers> {
    let Some(mode) = open_to_others(path) else { return Ok(()) };
    let is_own = fs::metadata(path).is_ok_and(|known| known.uid() == Uid::effective().as_raw());
    Err(OpenToOthers { path: path.to_owned(), mode, is_own })
}

/// The mode of a file, its permissions alone, if others on this machine may read or change it; `None` otherwise, and
/// where there is no such file. A file that belongs to somebody else is shown to a group because the reader is in it.
pub fn open_to_others(path: &Path) -> Option<u32> {
    let known = fs::metadata(path).ok()?;
    let mode = known.permissions().mode() & 0o777;
    let others = if Uid::effective().as_raw() == known.uid() { 0o077 } else { 0o027 };
    (mode & others != 0).then_some(mode)
}

/// Writes a file and waits until it is on the disk. A crash may leave a part of it: this is for files in a directory that
/// gets its name when all of it is there.
///
/// # Errors
/// Those of the file system.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Waits until the names in `folder` are on the disk. A folder that may be written and not read, and a file system that
/// cannot do that for folders, are taken as they are.
///
/// # Errors
/// When the folder is not there, or the disk fails.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported) => Ok(()),
        synced => synced,
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_made_and_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        for (bytes, write) in [
            (&b"one"[..], write_atomically as fn(&Path, &[u8]) -> io::Result<()>),
            (b"two", write_atomically_shared),
            (b"", write_atomically),
            (b"four", write_durably),
        ] {
            write(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(names(folder.path()), ["results.csv"]);
        }
    }

    #[test]
    fn an_open_reader_keeps_the_old_content() {
        use std::io::Read;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomically(&path, b"old").unwrap();
        let mut reader = File::open(&path).unwrap();
        write_atomically(&path, b"new").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), fs::read(&path).unwrap()), ("old", b"new".to_vec()));
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_content_and_no_unfinished_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomically(&path, b"old").unwrap();
        let full = |file: &mut File| {
            file.write_all(b"ne")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        };
        let failed = write_atomically_with(&path, &folder.path().join("a.part"), full);
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        // A folder cannot be replaced by a file.
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        assert!(write_atomically(&inner, b"new").is_err());
        assert_eq!(names(folder.path()), ["a", "inner"]);
    }

    #[test]
    fn a_private_file_is_its_owners_alone_from_its_first_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        write_private(&path, b"secret", |unfinished| {
            assert_eq!((mode(unfinished), fs::read(unfinished).unwrap().len()), (0o600, 0));
        })
        .unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"secret".to_vec(), 0o600));
        assert_eq!((open_to_others(&path), open_to_others(&folder.path().join("none"))), (None, None));
        for open in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
            assert_eq!(open_to_others(&path), Some(open));
        }
    }

    #[test]
    fn what_a_crash_left_unfinished_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(folder.path().join("a.part"), b"half of something long").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a"]);
    }
}
