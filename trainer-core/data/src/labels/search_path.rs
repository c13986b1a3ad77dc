//! In which folders the label files of a folder of images are looked for: with `labels` for `images` in its path, and
//! beside the images. Each image takes the first folder that has its file.
//!
//! An image whose file is in the first folder costs one look, as if there was no other folder. Folders are listed only
//! once a file is missing in the first one, once each.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use crate::files::is_gone;
use crate::files::path_normalization;

/// Names of folders of images, in small letters.
const IMAGE_FOLDERS: [&str; 5] = ["images", "jpegimages", "image", "imgs", "img"];
/// Names of folders of labels beside them.
const LABEL_FOLDERS: [&str; 4] = ["labels", "Labels", "LABELS", "label"];

/// The folders that may have the label files of one folder of images.
#[derive(Debug)]
pub(crate) struct LabelSearchPath {
    /// In the order in which they are looked at; at least one.
    folders: Vec<PathBuf>,
    /// The folders that have label files; listed once a file was missing in the first one.
    listed: OnceLock<Vec<LabelFolder>>,
}

/// A folder that has label files.
#[derive(Debug)]
struct LabelFolder {
    path: PathBuf,
    /// Whether it is the first folder of the search path.
    is_first: bool,
    /// Whether its name has the letters that were looked for in other bytes.
    is_respelled: bool,
    /// File names that are not an image's name with the extension `txt`, byte for byte; by normalised stem.
    odd_names: HashMap<Vec<u8>, OsString>,
}

/// The label file of an image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LocatedLabelFile<T> {
    /// What the caller's function made of the file.
    pub content: T,
    /// The label file that was found.
    pub path: PathBuf,
    /// Whether it lies in the first folder of the search path.
    pub is_first: bool,
    /// Whether its path has the letters that were looked for in other bytes (NFC, NFD, Latin-1).
    pub is_respelled: bool,
}

impl LabelSearchPath {
    /// The search path of the images in `folder`. `base` is the data set's own folder, if `folder` lies in it: folders
    /// named `images` above it come last.
    pub fn of(folder: &Path, base: Option<&Path>) -> Self {
        let parts: Vec<&OsStr> = folder.components().map(Component::as_os_str).collect();
        let above = base.filter(|base| folder.starts_with(base)).map_or(0, |base| base.components().count());
        let replaced = |at: usize, name: &str| -> PathBuf {
            parts
                .iter()
                .enumerate()
                .map(|(index, part)| if index == at { OsStr::new(name) } else { part })
                .collect()
        };
        let mut folders: Vec<PathBuf> = Vec::new();
        let mut add = |folder: PathBuf| {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        };
        let inside: Vec<usize> = (above..parts.len()).rev().collect();
        inside
            .iter()
            .filter(|at| parts[**at] == "images")
            .for_each(|at| add(replaced(*at, LABEL_FOLDERS[0])));
        add(folder.to_path_buf());
        for at in inside {
            let name = parts[at].to_str().unwrap_or_default();
            if IMAGE_FOLDERS.iter().any(|images| name.eq_ignore_ascii_case(images)) {
                // `Images` has `Labels` beside it.
                let order = if name.starts_with(char::is_uppercase) { [1, 2, 0, 3] } else { [0, 1, 2, 3] };
                order.into_iter().for_each(|kind| add(replaced(at, LABEL_FOLDERS[kind])));
            }
        }
        (0..above)
            .rev()
            .filter(|at| parts[*at] == "images")
            .for_each(|at| add(replaced(at, LABEL_FOLDERS[0])));
        Self { folders, listed: OnceLock::new() }
    }

    /// The folders, in the order in which they are looked at.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The label file of `image`, an image of this search path's folder; `None` without one. `look` reads the file, or its
    /// metadata.
    ///
    /// # Errors
    /// The file, and why `look` failed, when the file exists.
    pub fn find<T>(
        &self,
        image: &Path,
        look: impl Fn(&Path) -> io::Result<T>,
    ) -> Result<Option<LocatedLabelFile<T>>, (PathBuf, io::Error)> {
        let stem = image.file_stem().unwrap_or_default();
        let look = |path: PathBuf, is_first: bool, is_respelled: bool| match look(&path) {
            Ok(content) => Ok(Some(LocatedLabelFile { content, path, is_first, is_respelled })),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err((path, error)),
        };
        let first = &self.folders[0];
        if let Some(found) = look(label_in(first, stem), true, false)? {
            return Ok(Some(found));
        }
        let list = |(at, folder): (usize, &PathBuf)| list_folder(folder, at == 0);
        let listed = self.listed.get_or_init(|| self.folders.iter().enumerate().filter_map(list).collect());
        for LabelFolder { path: folder, is_first, is_respelled, odd_names } in listed {
            let (is_first, is_respelled) = (*is_first, *is_respelled);
            let was_tried = is_first && !is_respelled;
            if !was_tried && let Some(found) = look(label_in(folder, stem), is_first, is_respelled)? {
                return Ok(Some(found));
            }
            if odd_names.is_empty() {
                continue;
            }
            let Some(other) = odd_names.get(&path_normalization::normalized(stem.as_bytes())) else {
                continue;
            };
            // Another extension (`.TXT`) does not make it respelled.
            let is_respelled = is_respelled || Path::new(other).file_stem() != Some(stem);
            if let Some(found) = look(folder.join(other), is_first, is_respelled)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The path of the label file of `image`, whatever the file holds.
    pub fn path(&self, image: &Path) -> Option<PathBuf> {
        let found = self.find(image, |path| std::fs::symlink_metadata(path));
        found.ok().flatten().map(|found| found.path)
    }
}

/// The path of `stem`.txt in `folder`, allocated once, as there may be a million.
fn label_in(folder: &Path, stem: &OsStr) -> PathBuf {
    let mut path = OsString::with_capacity(folder.as_os_str().len() + stem.len() + 5);
    path.push(folder);
    if !folder.as_os_str().is_empty() {
        path.push("/");
    }
    path.push(stem);
    path.push(".txt");
    PathBuf::from(path)
}

/// Lists the label files in `folder`, or in the folder that exists with its letters in other bytes; `None` when there is
/// no label file.
fn list_folder(folder: &Path, is_first: bool) -> Option<LabelFolder> {
    let (mut has_labels, mut odd_names) = (false, HashMap::new());
    let (entries, path) = match std::fs::read_dir(folder) {
        Ok(entries) => (entries, folder.to_path_buf()),
        Err(_) => {
            let other = path_normalization::respelled(folder)?;
            (std::fs::read_dir(&other).ok()?, other)
        }
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(extension) = Path::new(&name).extension() else { continue };
        if !extension.eq_ignore_ascii_case("txt") {
            continue;
        }
        has_labels = true;
        if extension != "txt" || !name.as_bytes().is_ascii() {
            let stem = Path::new(&name).file_stem().unwrap_or_default();
            odd_names.insert(path_normalization::normalized(stem.as_bytes()), name);
        }
    }
    has_labels.then(|| LabelFolder { is_respelled: path != folder, path, is_first, odd_names })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(folder: &str, base: Option<&str>) -> String {
        LabelSearchPath::of(Path::new(folder), base.map(Path::new)).folders[0].display().to_string()
    }

    #[test]
    fn the_last_images_folder_below_the_data_set_becomes_labels() {
        for (folder, base, expected) in [
            ("/set/images/train", Some("/set"), "/set/labels/train"),
            ("/images/set/images/train", Some("/images/set"), "/images/set/labels/train"),
            ("/images/set/images/train", None, "/images/set/labels/train"),
            ("/set/images/images", Some("/set"), "/set/images/labels"),
            ("/set/obj_train_data", Some("/set"), "/set/obj_train_data"),
            ("/images/set/train", Some("/images/set"), "/images/set/train"),
            ("/images/set/train", Some("/images/set/."), "/images/set/train"),
            ("/images/set/train", Some("/elsewhere"), "/labels/set/train"),
            ("/old-images/images.d", Some("/"), "/old-images/images.d"),
            ("images", Some(""), "labels"),
            ("images", None, "labels"),
            ("./images/a", Some("."), "./labels/a"),
        ] {
            assert_eq!(first(folder, base), expected, "{folder} in {base:?}");
        }
    }

    #[test]
    fn other_places_come_after_it_each_once() {
        let folders = |folder: &str, base: &str| {
            let folders = LabelSearchPath::of(Path::new(folder), Some(Path::new(base))).folders;
            folders.into_iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            folders("/images/s/Images/t", "/images/s"),
            [
                "/images/s/Images/t",
                "/images/s/Labels/t",
                "/images/s/LABELS/t",
                "/images/s/labels/t",
                "/images/s/label/t",
                "/labels/s/Images/t"
            ]
        );
        assert_eq!(
            folders("/s/images", "/s"),
            ["/s/labels", "/s/images", "/s/Labels", "/s/LABELS", "/s/label"]
        );
    }

    #[test]
    fn each_image_takes_the_first_place_that_has_its_file_however_it_is_spelled() {
        let set = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = set.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        for name in [
            "labels/a.txt",
            "images/a.txt",
            "images/b.txt",
            "labels/C.TXT",
            "Labels/d.x.txt",
            "labels/e\u{301}.txt",
        ] {
            write(name);
        }
        let folders = LabelSearchPath::of(&set.path().join("images"), Some(set.path()));
        let found = |image: &str| {
            let found =
                folders.find(&set.path().join("images").join(image), |path| std::fs::metadata(path)).unwrap();
            found.map(|found| {
                (found.path.strip_prefix(set.path()).unwrap().display().to_string(), found.is_first)
            })
        };
        assert!(folders.listed.get().is_none(), "nothing is read before it must be");
        assert_eq!(found("a.jpg"), Some(("labels/a.txt".to_owned(), true)));
        assert!(folders.listed.get().is_none(), "nothing is read before it must be");
        for (image, expected) in [
            ("b.jpg", Some(("images/b.txt", false))),
            ("C.jpg", Some(("labels/C.TXT", true))),
            ("d.x.png", Some(("Labels/d.x.txt", false))),
            ("é.jpg", Some(("labels/e\u{301}.txt", true))),
            ("none.jpg", None),
        ] {
            let expected = expected.map(|(path, is_first)| (path.to_owned(), is_first));
            assert_eq!(found(image), expected, "{image}");
        }
    }
}
