//! Folders that only this user may enter.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::Uid;

/// Makes the folder, if it is not there, as one that only this user may enter. Those above it get the mode that the
/// process' mask says. A folder that is there keeps the mode that somebody gave it.
///
/// # Errors
/// Those of the file system.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        // What is there and is no folder is an error.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::create_dir_all(path),
        made => made,
    }
}

/// As [`create_private_folder`], and closes one that is there to its group and to others. A link is left as it is, with
/// the folder that it leads to: that one is somebody's own choice. So is a folder of somebody else's.
///
/// # Errors
/// Those of the file system.
pub fn keep_folder_private(path: &Path) -> io::Result<()> {
    create_private_folder(path)?;
    // By its descriptor: whoever may write to the folder above could put a link here meanwhile.
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    let Ok(folder) = File::options().read(true).custom_flags(flags).open(path) else { return Ok(()) };
    let known = folder.metadata()?;
    let mode = known.permissions().mode() & 0o7777;
    if known.uid() != Uid::effective().as_raw() || mode & 0o077 == 0 {
        return Ok(());
    }
    folder.set_permissions(Permissions::from_mode(mode & !0o077))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_folder_is_private_when_it_is_made_and_stays_as_somebody_made_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("above/data");
        create_private_folder(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_ne!(mode(path.parent().unwrap()), 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        create_private_folder(&path).unwrap();
        assert_eq!(mode(&path), 0o750);
        keep_folder_private(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(create_private_folder(&file).is_err() && keep_folder_private(&file).is_err());
    }

    #[test]
    fn a_folder_behind_a_link_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (elsewhere, link) = (folder.path().join("elsewhere"), folder.path().join("jobs"));
        fs::create_dir(&elsewhere).unwrap();
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        keep_folder_private(&link).unwrap();
        assert_eq!(mode(&elsewhere), 0o755);
    }
}
