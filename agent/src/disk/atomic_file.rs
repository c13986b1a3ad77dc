//! Small files that must be whole after a crash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes a small file anew. Whoever reads it, after a crash too, finds the old content or the new one, and never a part.
/// The name of a file that is not whole yet ends with `.new`.
///
/// # Errors
/// The disk's; the old content stays.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        replace(&path, b"first").unwrap();
        replace(&path, b"next").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"next");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
        fs::create_dir(folder.path().join("a.json.new")).unwrap();
        assert!(replace(&path, b"last").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"next");
    }
}
