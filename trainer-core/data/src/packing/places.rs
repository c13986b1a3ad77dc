//! Where the folders of images lie in the tree: at their paths relative to the data set's folder, or under `outside/`.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::whole_path::WholePaths;
use crate::dataset::DataYaml;
use crate::dataset::listing::{ListedImage, folder_of};
use crate::files::path_normalization::as_text;
use crate::labels::search_path::LabelSearchPath;

/// Where a folder of images lies in the tree.
#[derive(Debug)]
pub(super) struct Place {
    /// The folder in the tree; empty at its top.
    pub folder: String,
    /// The folders in the tree in which a trainer looks for label files, in its order; at least one.
    pub label_folders: Vec<String>,
}

/// A folder beside the data set's whose files are taken along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    pub folder: PathBuf,
    /// Where its images lie in the tree.
    pub taken_as: String,
}

/// The places of all folders of images.
#[derive(Debug, Default)]
pub(super) struct Places {
    by_folder: HashMap<OsString, Place>,
    /// Which folder of this machine a folder of the tree is.
    taken: HashMap<String, PathBuf>,
    pub outside: Vec<Outside>,
    outside_name: String,
    /// The folders that images may be relative to, without links.
    bases: Vec<PathBuf>,
    /// Folders elsewhere that a link makes look like the data set's own.
    linked: Vec<PathBuf>,
}

/// The folders that a data set's images may be relative to.
struct Base {
    written: PathBuf,
    whole: Option<PathBuf>,
}

impl Places {
    /// For the folders of all `images`. Those in `apart` are placed as if they were elsewhere, since the labels of their
    /// images would meet those of others.
    pub fn of<'a>(
        yaml: &DataYaml,
        whole_paths: &WholePaths,
        images: impl Iterator<Item = &'a ListedImage>,
        apart: &HashSet<OsString>,
    ) -> Self {
        let mut folders: Vec<&Path> = Vec::new();
        let mut seen: HashSet<&OsStr> = HashSet::new();
        for image in images {
            let folder = image.path.parent().unwrap_or(Path::new(""));
            // Images of a folder mostly come together.
            let is_last = folders.last().is_some_and(|last| last.as_os_str() == folder.as_os_str());
            if !is_last && seen.insert(folder.as_os_str()) {
                folders.push(folder);
            }
        }
        let own = folder_of(&yaml.file).to_path_buf();
        let bases = std::iter::once(own)
            .chain(yaml.roots().iter().cloned())
            .map(|base| Base { whole: base.canonicalize().ok(), written: plain(&base) });
        let bases: Vec<Base> = bases.collect();
        let bases_whole = bases.iter().filter_map(|base| base.whole.clone()).collect();
        let mut places = Self { bases: bases_whole, ..Self::default() };
        let mut elsewhere = Vec::new();
        for folder in folders {
            let whole = whole_paths.of_folder(folder);
            let inside =
                if apart.contains(folder.as_os_str()) { None } else { inside(folder, &whole, &bases) };
            match inside.filter(|tree| places.taken.get(tree).is_none_or(|other| *other == whole)) {
                Some(tree) => {
                    if !places.is_own(&whole) {
                        places.linked.push(whole.clone());
                    }
                    places.put(folder, whole, tree);
                }
                None => elsewhere.push((folder, whole)),
            }
        }
        places.outside_name = places.unused_name();
        for (folder, whole) in elsewhere {
            let is_apart = apart.contains(folder.as_os_str());
            let tree = places.outside_path(&whole, is_apart);
            places.put(folder, whole, tree);
        }
        places
    }

    /// Whether a path without links lies in the data set's folders.
    fn is_own(&self, whole: &Path) -> bool {
        self.bases.iter().any(|base| whole.starts_with(base))
    }

    /// The folders elsewhere that are reached through links, beside those `of_files`; none inside of another. What comes
    /// under `outside/` is not among them.
    pub fn through_links(&self, of_files: HashSet<PathBuf>) -> Vec<PathBuf> {
        let is_told =
            |folder: &PathBuf| self.outside.iter().any(|outside| folder.starts_with(&outside.folder));
        let files = of_files.into_iter().filter(|folder| !self.is_own(folder) && !is_told(folder));
        let mut folders: Vec<PathBuf> = self.linked.iter().cloned().chain(files).collect();
        folders.sort();
        folders.dedup_by(|inner, outer| inner.starts_with(outer));
        folders
    }

    /// The place of a folder that some image lies in.
    pub fn of_folder(&self, folder: &Path) -> &Place {
        self.by_folder.get(folder.as_os_str()).expect("made for the folders of all images")
    }

    fn put(&mut self, folder: &Path, whole: PathBuf, tree: String) {
        let search = LabelSearchPath::of(Path::new(&tree), Some(Path::new("")));
        let label_folders = search.folders().iter().map(|folder| text_of(folder)).collect();
        self.taken.insert(tree.clone(), whole);
        self.by_folder.insert(folder.as_os_str().to_owned(), Place { folder: tree, label_folders });
    }

    /// A name at the top of the tree that no folder of the data set has.
    fn unused_name(&self) -> String {
        let is_taken = |name: &str| {
            let is_it =
                |tree: &String| tree.split('/').next().is_some_and(|top| top.eq_ignore_ascii_case(name));
            self.taken.keys().any(is_it)
        };
        let names =
            std::iter::once("outside".to_owned()).chain((2..).map(|count| format!("outside-{count}")));
        names.into_iter().find(|name| !is_taken(name)).unwrap_or_default()
    }

    /// The path in the tree of a folder elsewhere: from its last part `images` on, or else its name alone.
    fn outside_path(&mut self, whole: &Path, is_apart: bool) -> String {
        let parts: Vec<&OsStr> = whole.iter().collect();
        let from = parts.iter().rposition(|part| *part == "images").filter(|_| !is_apart);
        let from = from.unwrap_or(parts.len() - 1).max(1).min(parts.len());
        let above: PathBuf = parts[..from].iter().collect();
        let known = self.outside.iter().position(|known| known.folder == above);
        let number = known.filter(|_| !is_apart).unwrap_or_else(|| {
            let taken_as = format!("{}/{}", self.outside_name, self.outside.len());
            self.outside.push(Outside { folder: above, taken_as });
            self.outside.len() - 1
        });
        let rest = parts[from..].iter().map(|part| as_text(part.as_bytes()).into_owned());
        std::iter::once(self.outside[number].taken_as.clone()).chain(rest).collect::<Vec<_>>().join("/")
    }
}

/// A folder's path relative to the first of `bases` that it lies in.
fn inside(folder: &Path, whole: &Path, bases: &[Base]) -> Option<String> {
    // A link changes what `..` means.
    let climbs = folder.components().any(|part| part == Component::ParentDir);
    let written = plain(folder);
    let as_written =
        bases.iter().filter(|_| !climbs).find_map(|base| written.strip_prefix(&base.written).ok());
    let relative = as_written.or_else(|| {
        bases.iter().filter_map(|base| base.whole.as_ref()).find_map(|base| whole.strip_prefix(base).ok())
    });
    relative.map(text_of)
}

/// A path without `.` in it, so that two are compared by what they say.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn text_of(path: &Path) -> String {
    path.iter().map(|part| as_text(part.as_bytes())).collect::<Vec<_>>().join("/")
}
