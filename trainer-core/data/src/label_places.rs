//! Where the label files of a folder of images lie: a folder `images` below the data set's own becomes `labels`, or they
//! lie beside the images; of several places each image takes the first that has its file.
//!
//! An image whose file is in the first place costs one look, as if there was no other. Folders are read only when the
//! first file is missing there, once each.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use crate::source::is_gone;
use crate::spelling;

/// What folders of images are called, in small letters.
const IMAGES: [&str; 5] = ["images", "jpegimages", "image", "imgs", "img"];
/// What folders of labels are called beside them.
const LABELS: [&str; 4] = ["labels", "Labels", "LABELS", "label"];

/// The places for the label files of one folder of images.
#[derive(Debug)]
pub(crate) struct LabelPlaces {
    /// In the order in which they are looked at; at least one.
    places: Vec<PathBuf>,
    /// Those that have label files, once one was missing in the first place.
    stocked: OnceLock<Vec<Stocked>>,
}

/// A folder that has label files.
#[derive(Debug)]
struct Stocked {
    folder: PathBuf,
    /// Whether it is the first place.
    is_first: bool,
    /// Whether its name has the place's letters in other bytes.
    is_respelled: bool,
    /// Names that are not the image's with `txt` for its ending, byte for byte, by what they are equal in.
    odd: HashMap<Vec<u8>, OsString>,
}

/// An image's label file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LabelFileAt<T> {
    /// What `look` made of the file.
    pub of: T,
    pub path: PathBuf,
    /// Whether it lies in the first place, where it is mostly looked for.
    pub is_first: bool,
    /// Whether its path has the letters that were looked for in other bytes (NFC, NFD, Latin-1).
    pub is_respelled: bool,
}

impl LabelPlaces {
    /// For the images in `folder`. `base` is the data set's own folder, if `folder` lies in it: names above it say
    /// nothing of labels.
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
        let mut places: Vec<PathBuf> = Vec::new();
        let mut add = |place: PathBuf| {
            if !places.contains(&place) {
                places.push(place);
            }
        };
        let inside: Vec<usize> = (above..parts.len()).rev().collect();
        inside.iter().filter(|at| parts[**at] == "images").for_each(|at| add(replaced(*at, LABELS[0])));
        add(folder.to_path_buf());
        for at in inside {
            let name = parts[at].to_str().unwrap_or_default();
            if IMAGES.iter().any(|images| name.eq_ignore_ascii_case(images)) {
                // `Images` has `Labels` beside it.
                let order = if name.starts_with(char::is_uppercase) { [1, 2, 0, 3] } else { [0, 1, 2, 3] };
                order.into_iter().for_each(|kind| add(replaced(at, LABELS[kind])));
            }
        }
        (0..above).rev().filter(|at| parts[*at] == "images").for_each(|at| add(replaced(at, LABELS[0])));
        Self { places, stocked: OnceLock::new() }
    }

    /// Where label files are looked for, in order.
    pub fn folders(&self) -> &[PathBuf] {
        &self.places
    }

    /// The label file of `image`, which lies in this folder; `None` without one. `look` opens it, or asks for it.
    ///
    /// # Errors
    /// When it is there and cannot be looked at.
    pub fn find<T>(
        &self,
        image: &Path,
        look: impl Fn(&Path) -> io::Result<T>,
    ) -> Result<Option<LabelFileAt<T>>, (PathBuf, io::Error)> {
        let stem = image.file_stem().unwrap_or_default();
        let look = |path: PathBuf, is_first: bool, is_respelled: bool| match look(&path) {
            Ok(of) => Ok(Some(LabelFileAt { of, path, is_first, is_respelled })),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err((path, error)),
        };
        let first = &self.places[0];
        if let Some(found) = look(label_in(first, stem), true, false)? {
            return Ok(Some(found));
        }
        let stocked =
            || self.places.iter().enumerate().filter_map(|(at, place)| stock(place, at == 0)).collect();
        for Stocked { folder, is_first, is_respelled, odd } in self.stocked.get_or_init(stocked) {
            let (is_first, is_respelled) = (*is_first, *is_respelled);
            let is_seen = is_first && !is_respelled;
            if !is_seen && let Some(found) = look(label_in(folder, stem), is_first, is_respelled)? {
                return Ok(Some(found));
            }
            if odd.is_empty() {
                continue;
            }
            let Some(other) = odd.get(&spelling::key(stem.as_bytes())) else { continue };
            // Another ending (`.TXT`) is no other spelling.
            let is_respelled = is_respelled || Path::new(other).file_stem() != Some(stem);
            if let Some(found) = look(folder.join(other), is_first, is_respelled)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The label file of `image`, whatever it holds.
    pub fn path(&self, image: &Path) -> Option<PathBuf> {
        let found = self.find(image, |path| std::fs::symlink_metadata(path));
        found.ok().flatten().map(|found| found.path)
    }
}

/// The label file in `folder` of an image called `stem`; in one piece, as there may be a million.
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

/// Reads a place, or the folder that is there instead under its letters in other bytes; `None` when it has no label file.
fn stock(place: &Path, is_first: bool) -> Option<Stocked> {
    let (mut any, mut odd) = (false, HashMap::new());
    let (entries, folder) = match std::fs::read_dir(place) {
        Ok(entries) => (entries, place.to_path_buf()),
        Err(_) => {
            let other = spelling::other_spelling(place)?;
            (std::fs::read_dir(&other).ok()?, other)
        }
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(extension) = Path::new(&name).extension() else { continue };
        if !extension.eq_ignore_ascii_case("txt") {
            continue;
        }
        any = true;
        if extension != "txt" || !name.as_bytes().is_ascii() {
            let stem = Path::new(&name).file_stem().unwrap_or_default();
            odd.insert(spelling::key(stem.as_bytes()), name);
        }
    }
    any.then(|| Stocked { is_respelled: folder != place, folder, is_first, odd })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(folder: &str, base: Option<&str>) -> String {
        LabelPlaces::of(Path::new(folder), base.map(Path::new)).places[0].display().to_string()
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
        let places = |folder: &str, base: &str| {
            let places = LabelPlaces::of(Path::new(folder), Some(Path::new(base))).places;
            places.into_iter().map(|place| place.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            places("/images/s/Images/t", "/images/s"),
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
            places("/s/images", "/s"),
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
        let places = LabelPlaces::of(&set.path().join("images"), Some(set.path()));
        let found = |image: &str| {
            let found =
                places.find(&set.path().join("images").join(image), |path| std::fs::metadata(path)).unwrap();
            found.map(|found| {
                (found.path.strip_prefix(set.path()).unwrap().display().to_string(), found.is_first)
            })
        };
        assert!(places.stocked.get().is_none(), "nothing is read before it must be");
        assert_eq!(found("a.jpg"), Some(("labels/a.txt".to_owned(), true)));
        assert!(places.stocked.get().is_none(), "nothing is read before it must be");
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
