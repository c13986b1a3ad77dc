//! When a cached file was used last: the time of its last change, as other processes see it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Makes now the time of change of `file`, which is open for reading and writing. Its first byte, which nobody changes, is
/// written over itself: a confined trainer may set no times.
///
/// # Errors
/// The disk's error, and that the file is empty.
pub fn mark_as_used(file: &File) -> io::Result<()> {
    let mut first = [0];
    file.read_exact_at(&mut first, 0)?;
    file.write_all_at(&first, 0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_marked_file_has_a_new_time_and_its_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cached");
        fs::write(&path, "content").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        mark_as_used(&file).unwrap();
        assert!(file.metadata().unwrap().modified().unwrap() > SystemTime::UNIX_EPOCH);
        assert_eq!(fs::read(&path).unwrap(), b"content");
        fs::write(&path, "").unwrap();
        assert!(mark_as_used(&file).is_err());
    }
}
