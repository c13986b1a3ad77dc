//! The folder of a pull: whose it is, what it has, and files on their way into it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use trainyard_content::{Digest, Entry, Hasher, Kind, PULL_MARKER};
use trainyard_files::UNFINISHED;
use trainyard_proto::pb;

use crate::artifact::make_folders;
use crate::dataset::hash_cache::{FileState, HashCache, state_of};
use crate::dataset::hashing::read_all;
use crate::failure::Failure;
use crate::terminal::shown;

/// The folder that a version is pulled to.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Folders that were made or found below it, with their paths.
    made: Mutex<HashMap<String, PathBuf>>,
}

/// Whether a file is there.
pub enum Present {
    Same,
    No,
    /// Something else is in its place: a sentence.
    Other(String),
}

impl Folder {
    /// Takes a folder that is empty, or one of this version.
    ///
    /// # Errors
    /// It has other files, or cannot be made.
    pub fn open(path: &Path, kind: Kind, dataset: &pb::Dataset) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::local(format!("{}: {error}", shown(path)));
        fs::create_dir_all(path).map_err(failed)?;
        // Weights are one file, which comes beside others.
        if kind == Kind::DataSet {
            let own = format!("{} {}@{}\n", kind.name(), dataset.name, dataset.version);
            let marker = path.join(PULL_MARKER);
            match fs::read_to_string(&marker) {
                Ok(text) if text == own => {}
                Ok(text) => {
                    let other = text.split_whitespace().last().unwrap_or_default().to_owned();
                    return Err(Failure::local(format!("{} is of {other}", shown(path)))
                        .hint("name another folder with --dir"));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if fs::read_dir(path).map_err(failed)?.next().is_some() {
                        return Err(Failure::local(format!("{} is not empty", shown(path)))
                            .hint("name a folder that is empty or not there with --dir"));
                    }
                    fs::write(&marker, own).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(Self { path: path.to_path_buf(), made: Mutex::default() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a file is there with its content. What was hashed goes to `seen`.
    pub fn look(&self, file: Entry<'_>, cache: &HashCache, seen: &mut Vec<(FileState, Digest)>) -> Present {
        let path = self.path.join(file.path);
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Present::No,
            Err(error) => return Present::Other(format!("`{}` cannot be read: {error}", file.path)),
        };
        if !metadata.is_file() {
            return Present::Other(format!("`{}` is no file there", file.path));
        }
        let other = || Present::Other(format!("`{}` has other content", file.path));
        if metadata.len() != file.size_bytes {
            return other();
        }
        let state = state_of(&path);
        let known = state.and_then(|(state, _)| cache.get(state));
        match known.map_or_else(|| hash(&path), Ok) {
            Ok(digest) if digest == file.digest => {
                seen.extend(state.filter(|(_, is_settled)| *is_settled).map(|(state, _)| (state, digest)));
                Present::Same
            }
            Ok(_) => other(),
            Err(error) => Present::Other(format!("`{}` cannot be read: {error}", file.path)),
        }
    }

    /// The file that bytes of the file at `path` go to until they are whole: hidden, and in the same folder, since renames
    /// between folders wait for each other.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn unfinished(&self, path: &str, digest: Digest) -> io::Result<PathBuf> {
        let (folder, name) = parts(path);
        // Two files of the version may have one content; a name may be as long as names can be.
        let own = Digest::of(name.as_bytes()).to_string();
        Ok(self.make(folder)?.join(format!(".{digest}-{}{UNFINISHED}", &own[..8])))
    }

    /// Makes a folder inside, once.
    fn make(&self, folder: &str) -> io::Result<PathBuf> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(folder) {
            return Ok(known.clone());
        }
        let path = make_folders(&self.path, Path::new(folder))?;
        made.insert(folder.to_owned(), path.clone());
        Ok(path)
    }

    /// Gives a whole file its name, where nothing has it.
    ///
    /// # Errors
    /// Something has the name by now; those of the file system.
    pub fn place(&self, unfinished: &Path, path: &str) -> io::Result<()> {
        let (folder, name) = parts(path);
        let target = self.make(folder)?.join(name);
        match renameat_with(CWD, unfinished, CWD, &target, RenameFlags::NOREPLACE) {
            // A file system without such renames.
            Err(Errno::INVAL | Errno::NOSYS) if target.symlink_metadata().is_err() => {
                fs::rename(unfinished, &target)
            }
            renamed => Ok(renamed?),
        }
    }
}

/// A path's folder and name.
fn parts(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The hash of a file.
fn hash(path: &Path) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    read_all(path, &mut vec![0; 1 << 18], |bytes| {
        hasher.update(bytes);
        true
    })?;
    Ok(hasher.take())
}

/// A file on its way, and the hash of what is there.
#[derive(Debug)]
pub struct Unfinished {
    pub file: File,
    pub path: PathBuf,
    pub hasher: Hasher,
    pub bytes: u64,
}

impl Unfinished {
    /// Goes on with what an earlier pull has left, or begins anew.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(path: PathBuf, size_bytes: u64) -> io::Result<Self> {
        let mut hasher = Hasher::new();
        let left = path.metadata().map_or(0, |metadata| metadata.len());
        if left > size_bytes {
            fs::remove_file(&path)?;
        }
        let file = File::options().create(true).append(true).open(&path)?;
        if left == 0 || left > size_bytes {
            return Ok(Self { file, path, hasher, bytes: 0 });
        }
        let bytes = read_all(&path, &mut vec![0; 1 << 18], |bytes| {
            hasher.update(bytes);
            true
        })?;
        Ok(Self { file, path, hasher, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(name: &str) -> pb::Dataset {
        pb::Dataset { name: name.into(), version: "3f9a".repeat(16), ..Default::default() }
    }

    #[test]
    fn a_folder_of_others_is_refused_and_its_own_is_taken_again() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("own");
        Folder::open(&own, Kind::DataSet, &version("cells")).unwrap();
        fs::write(own.join("data.yaml"), "x").unwrap();
        Folder::open(&own, Kind::DataSet, &version("cells")).unwrap();
        let failure = Folder::open(&own, Kind::DataSet, &version("others")).unwrap_err();
        assert!(failure.message.contains("is of cells@3f9a"), "{failure:?}");
        let foreign = root.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("mine"), "x").unwrap();
        let failure = Folder::open(&foreign, Kind::DataSet, &version("cells")).unwrap_err();
        assert!(failure.message.ends_with("is not empty"), "{failure:?}");
        assert!(Folder::open(&foreign, Kind::Weights, &version("w")).is_ok());
    }

    #[test]
    fn a_name_that_something_has_stays_its_own() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(&root.path().join("own"), Kind::DataSet, &version("cells")).unwrap();
        let unfinished = folder.unfinished("a/b", Digest::of(b"new")).unwrap();
        fs::write(&unfinished, "new").unwrap();
        fs::write(folder.path().join("a/b"), "old").unwrap();
        assert!(folder.place(&unfinished, "a/b").is_err());
        assert_eq!(fs::read(folder.path().join("a/b")).unwrap(), b"old");
        folder.place(&unfinished, "c/d").unwrap();
        assert_eq!(fs::read(folder.path().join("c/d")).unwrap(), b"new");
    }
}
