//! The folder of a version: hard links to blobs, so that ten versions that share a file have it once.
//!
//! Nobody writes in it: its folders and files are read-only, and confined trainers may neither write there nor change that.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use trainyard_content::{Entry, Manifest};

use super::blob;
use super::layout::Layout;

const READ_ONLY_FOLDER: u32 = 0o555;
const WRITABLE_FOLDER: u32 = 0o755;

/// Puts a link to the blob of `entry` at its place in the tree, in the place of whatever is there.
///
/// # Errors
/// The disk's. There may be no such blob (any more).
pub fn place(layout: &Layout, root: &Path, entry: Entry<'_>) -> io::Result<()> {
    link(layout, &layout.blob(entry.digest), &root.join(entry.path), Some(entry))
}

/// Puts a link to `file`, which is the content of `entry`, at its place in the tree.
///
/// # Errors
/// The disk's.
pub fn place_file(layout: &Layout, root: &Path, entry: Entry<'_>, file: &Path) -> io::Result<()> {
    link(layout, file, &root.join(entry.path), None)
}

/// Links `from` as `to`. `blob` is what `from` is a blob of, which is copied when it has as many links as it may have.
fn link(layout: &Layout, from: &Path, to: &Path, blob_of: Option<Entry<'_>>) -> io::Result<()> {
    // Each of these can be in the way once.
    for _ in 0..5 {
        let Err(error) = fs::hard_link(from, to) else { return Ok(()) };
        let folder = to.parent().unwrap_or(to);
        match error.kind() {
            io::ErrorKind::NotFound if !folder.is_dir() => make_folders(folder)?,
            io::ErrorKind::AlreadyExists => return replace(layout, from, to),
            io::ErrorKind::PermissionDenied if is_read_only(folder) => open_folder(folder)?,
            _ => match (errno(&error), blob_of) {
                // Many files are empty ones, and a file has a limited number of names (65,000 on ext4).
                (Some(Errno::EMLINK), Some(entry)) => blob::renew(layout, entry)?,
                _ => return Err(error),
            },
        }
    }
    fs::hard_link(from, to)
}

/// Puts a link in the place of what is at `to`, so that a reader finds the one or the other.
fn replace(layout: &Layout, from: &Path, to: &Path) -> io::Result<()> {
    let beside = blob::unfinished_name(layout);
    fs::hard_link(from, &beside)?;
    let mut replaced = fs::rename(&beside, to);
    if let (Err(error), Some(folder)) = (&replaced, to.parent())
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        open_folder(folder)?;
        replaced = fs::rename(&beside, to);
    }
    // Of two names of one file, `rename` leaves both.
    let _gone = fs::remove_file(&beside);
    replaced
}

fn make_folders(folder: &Path) -> io::Result<()> {
    match fs::create_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let there = folder.ancestors().find(|above| above.is_dir()).unwrap_or(folder);
            open_folder(there)?;
            fs::create_dir_all(folder)
        }
        made => made,
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

fn is_read_only(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|known| known.permissions().mode() & 0o200 == 0)
}

fn open_folder(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(WRITABLE_FOLDER))
}

/// Removes a file of a tree, if it is there.
///
/// # Errors
/// The disk's.
pub fn remove_file(path: &Path) -> io::Result<()> {
    let mut removed = fs::remove_file(path);
    if let (Err(error), Some(folder)) = (&removed, path.parent())
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        open_folder(folder)?;
        removed = fs::remove_file(path);
    }
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Makes all folders of a tree read-only.
///
/// # Errors
/// The disk's.
pub fn seal(root: &Path, manifest: &Manifest) -> io::Result<()> {
    let mut folders = BTreeSet::from([""]);
    for entry in manifest.entries() {
        let mut rest = entry.path;
        while let Some((folder, _)) = rest.rsplit_once('/') {
            if !folders.insert(folder) {
                break;
            }
            rest = folder;
        }
    }
    folders.into_iter().try_for_each(|folder| {
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(READ_ONLY_FOLDER))
    })
}

/// Removes a tree, if it is there.
///
/// # Errors
/// The disk's.
pub fn remove(root: &Path) -> io::Result<()> {
    if !root.is_dir() {
        return Ok(());
    }
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        open_folder(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    fs::remove_dir_all(root)
}
