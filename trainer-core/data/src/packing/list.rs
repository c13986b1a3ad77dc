//! The files of a version, in little memory: about 24 bytes each beside their paths.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where the bytes of a file of the tree come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin<'a> {
    /// A file of this machine.
    File(PathBuf),
    /// Made here.
    Made(&'a [u8]),
}

/// A file of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFile<'a> {
    /// Relative to the tree's top, with `/` between its parts.
    pub path: &'a str,
    /// As it was when it was packed.
    pub size_bytes: u64,
    pub origin: Origin<'a>,
}

/// The files of a version, sorted by the bytes of their paths.
#[derive(Debug, Default)]
pub struct PackingList {
    rows: Vec<Row>,
    /// All paths, one after the other, in the order of [`PackingListBuilder::add_file`].
    paths: String,
    /// Folders of this machine that have files of the same names.
    folders: Vec<PathBuf>,
    /// Origins that no folder tells.
    odd: Vec<OddOrigin>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    path_begin: usize,
    path_bytes: u32,
    /// Below [`ODD`] a place in `folders`; from there on one in `odd`.
    origin: u32,
    size_bytes: u64,
}

const ODD: u32 = 1 << 31;

#[derive(Debug, PartialEq, Eq)]
enum OddOrigin {
    /// A file that has another name here than in the tree.
    File(PathBuf),
    Made(Vec<u8>),
}

impl PackingList {
    /// One file of this machine, under the name that it has there.
    ///
    /// # Errors
    /// It is no regular file, or cannot be read.
    pub fn of_file(file: &Path, path: &str) -> std::io::Result<Self> {
        let metadata = super::regular_metadata(file)?;
        let mut builder = PackingListBuilder::default();
        builder.add_file(path, file, metadata.len());
        Ok(builder.finish().0)
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.size_bytes).sum()
    }

    /// A file by its place.
    pub fn get(&self, at: usize) -> Option<PackedFile<'_>> {
        let row = self.rows.get(at)?;
        let path = path_of(&self.paths, row);
        let origin = match row.origin.checked_sub(ODD) {
            None => Origin::File(self.folders[row.origin as usize].join(name_of(path))),
            Some(odd) => match &self.odd[odd as usize] {
                OddOrigin::File(file) => Origin::File(file.clone()),
                OddOrigin::Made(bytes) => Origin::Made(bytes),
            },
        };
        Some(PackedFile { path, size_bytes: row.size_bytes, origin })
    }

    /// All files, in order.
    pub fn iter(&self) -> impl Iterator<Item = PackedFile<'_>> {
        (0..self.len()).map_while(|at| self.get(at))
    }
}

fn path_of<'a>(paths: &'a str, row: &Row) -> &'a str {
    &paths[row.path_begin..][..row.path_bytes as usize]
}

fn name_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Two files of this machine that would be one in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SamePath {
    pub path: String,
    pub files: [PathBuf; 2],
}

/// Puts a [`PackingList`] together, in any order.
#[derive(Debug, Default)]
pub(super) struct PackingListBuilder {
    list: PackingList,
    folders: HashMap<PathBuf, u32>,
}

/// A number in a list that has less than 2^31 elements, as a version has less files.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("a list has less elements than there is memory for")
}

impl PackingListBuilder {
    /// A builder with room for about so many files.
    pub fn with_capacity(files: usize) -> Self {
        let mut builder = Self::default();
        builder.list.rows.reserve_exact(files);
        builder
    }

    /// Adds a file of this machine. The same one may come several times.
    pub fn add_file(&mut self, path: &str, file: &Path, size_bytes: u64) {
        let is_same_name = file.file_name().is_some_and(|name| name.as_bytes() == name_of(path).as_bytes());
        let origin = match file.parent().filter(|_| is_same_name) {
            Some(folder) => self.folder(folder),
            None => self.odd(OddOrigin::File(file.to_path_buf())),
        };
        self.add(path, size_bytes, origin);
    }

    /// Adds a file that is made here.
    pub fn add_made(&mut self, path: &str, bytes: Vec<u8>) {
        let size_bytes = bytes.len() as u64;
        let origin = self.odd(OddOrigin::Made(bytes));
        self.add(path, size_bytes, origin);
    }

    fn add(&mut self, path: &str, size_bytes: u64, origin: u32) {
        let list = &mut self.list;
        let row = Row { path_begin: list.paths.len(), path_bytes: narrow(path.len()), origin, size_bytes };
        list.paths.push_str(path);
        list.rows.push(row);
    }

    fn folder(&mut self, folder: &Path) -> u32 {
        // Files of a folder mostly come together, and labels take turns with images.
        let lately = self.list.rows.iter().rev().take(2).map(|row| row.origin).filter(|origin| *origin < ODD);
        let folders = &mut self.list.folders;
        let is_same = |origin: &u32| folders[*origin as usize].as_os_str() == folder.as_os_str();
        if let Some(known) = lately.into_iter().find(is_same) {
            return known;
        }
        if let Some(known) = self.folders.get(OsStr::new(folder).as_ref() as &Path) {
            return *known;
        }
        let number = narrow(folders.len());
        folders.push(folder.to_path_buf());
        self.folders.insert(folder.to_path_buf(), number);
        number
    }

    fn odd(&mut self, origin: OddOrigin) -> u32 {
        self.list.odd.push(origin);
        ODD + narrow(self.list.odd.len() - 1)
    }

    /// All that was added, each path once, and the paths that have two origins.
    pub fn finish(mut self) -> (PackingList, Vec<SamePath>) {
        let paths = std::mem::take(&mut self.list.paths);
        self.list.rows.sort_by(|a, b| path_of(&paths, a).cmp(path_of(&paths, b)));
        self.list.paths = paths;
        let mut clashes = Vec::new();
        let mut rows: Vec<Row> = Vec::with_capacity(self.list.rows.len());
        for row in std::mem::take(&mut self.list.rows) {
            let path = path_of(&self.list.paths, &row);
            match rows.last().filter(|last| path_of(&self.list.paths, last) == path) {
                None => rows.push(row),
                Some(last) => {
                    let files = [last, &row].map(|row| self.list.file_of(row));
                    if files[0] != files[1] {
                        clashes.push(SamePath { path: path.to_owned(), files });
                    }
                }
            }
        }
        rows.shrink_to_fit();
        self.list.rows = rows;
        (self.list, clashes)
    }
}

impl PackingList {
    /// The file of this machine that a row has; what is made here has none.
    fn file_of(&self, row: &Row) -> PathBuf {
        match row.origin.checked_sub(ODD) {
            None => self.folders[row.origin as usize].join(name_of(path_of(&self.paths, row))),
            Some(odd) => match &self.odd[odd as usize] {
                OddOrigin::File(file) => file.clone(),
                OddOrigin::Made(_) => PathBuf::new(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_sorted_each_once_with_their_origins() {
        let mut builder = PackingListBuilder::default();
        builder.add_file("images/b.jpg", Path::new("/set/images/b.jpg"), 7);
        builder.add_file("labels/b.txt", Path::new("/set/labels/b.TXT"), 2);
        builder.add_file("images/a.jpg", Path::new("/set/images/a.jpg"), 5);
        builder.add_file("images/b.jpg", Path::new("/set/images/b.jpg"), 7);
        builder.add_made("data.yaml", b"names".to_vec());
        builder.add_file("images-a", Path::new("/other/images-a"), 1);
        let (list, clashes) = builder.finish();
        assert_eq!(clashes, []);
        let got: Vec<_> = list.iter().map(|file| (file.path, file.size_bytes, file.origin)).collect();
        let file = |path: &str| Origin::File(PathBuf::from(path));
        assert_eq!(
            got,
            [
                ("data.yaml", 5, Origin::Made(b"names")),
                ("images-a", 1, file("/other/images-a")),
                ("images/a.jpg", 5, file("/set/images/a.jpg")),
                ("images/b.jpg", 7, file("/set/images/b.jpg")),
                ("labels/b.txt", 2, file("/set/labels/b.TXT")),
            ]
        );
        assert_eq!((list.len(), list.total_bytes()), (5, 20));
    }

    #[test]
    fn two_files_for_one_path_are_named() {
        let mut builder = PackingListBuilder::default();
        builder.add_file("a.jpg", Path::new("/one/a.jpg"), 7);
        builder.add_file("a.jpg", Path::new("/two/a.jpg"), 7);
        let (_, clashes) = builder.finish();
        let files = ["/one/a.jpg", "/two/a.jpg"].map(PathBuf::from);
        assert_eq!(clashes, [SamePath { path: "a.jpg".into(), files }]);
    }
}
