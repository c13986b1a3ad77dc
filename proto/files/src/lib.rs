//! Small files that must be whole after a crash: state, results, caches.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How the name of a file ends that is not whole yet.
pub const UNFINISHED: &str = ".new";

/// Writes a file anew. Whoever reads it finds the old content or the new content, also after a crash of the machine.
/// Processes may write the same file at the same time: the last one wins.
///
/// # Errors
/// What the file system says. The old file stays, and nothing is left beside it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    let written = write_durably(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // On a full disk the part would only be in the way.
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    sync_folder(path)
}

/// Writes a file and waits until its content is on the disk. A crash may leave a part.
///
/// # Errors
/// What the file system says.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Waits until the name of a file in its folder is on the disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Beside the file, since a rename does not cross file systems. The name has the process in it.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.file_name().unwrap_or_default());
    name.push(format!(".{}{UNFINISHED}", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for content in ["old", "new, and longer"] {
            write_atomically(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_replaced_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        // A folder is where the file should be, so that the rename fails after the content was written.
        fs::create_dir(&path).unwrap();
        write_atomically(&path, b"new").unwrap_err();
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        write_atomically(&folder.path().join("no/such/folder"), b"new").unwrap_err();
    }
}
