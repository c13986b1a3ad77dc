//! Labels near the folders that were searched in vain: under another name, or of another format. The user is told of
//! them; they are not read.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::files;

/// Entries of a folder that are looked at; it may hold a million.
const MAX_ENTRIES: usize = 2000;
/// Bytes of a .json file that tell whether it is COCO's.
const HEAD_BYTES: usize = 4096;
/// Folders that are looked into at one place, and .json files that are opened there: each takes its time on a network
/// file system.
const MAX_OPENED: usize = 20;
/// Findings that are named at most.
const MAX_NAMED: usize = 5;

/// Parts of names of folders that may hold labels, in small letters.
const NAME_PARTS: [&str; 3] = ["label", "lbl", "annot"];
/// Other names of such folders, in small letters.
const NAMES: [&str; 8] = ["ann", "gt", "json", "txt", "txts", "xml", "xmls", "yolo"];

/// Labels that lie near `image`, or at the top of its data set, `base`; each as the end of a sentence. `looked` are the
/// folders that were searched before.
pub(crate) fn find_stray_labels(image: &Path, base: &Path, looked: &[PathBuf]) -> Vec<String> {
    let folder = image.parent().unwrap_or(Path::new(""));
    let above = folder.parent().filter(|_| folder != base);
    let nearby: BTreeSet<&Path> = [Some(folder), above, Some(base)].into_iter().flatten().collect();
    let mut seen: BTreeSet<PathBuf> = looked.iter().cloned().collect();
    let mut found = BTreeSet::new();
    let mut label = image.file_stem().unwrap_or_default().to_owned();
    label.push(".txt");
    for place in nearby {
        // A folder above a place that was searched has the labels of other images, unless this one's lies in it.
        let inside = entries(place).filter(|path| {
            let is_above = looked.iter().any(|looked| looked.starts_with(path));
            is_for_labels(path)
                && (!is_above || path.join(&label).exists())
                && path.is_dir()
                && seen.insert(path.clone())
        });
        // The data set's own folder may be called after labels; what lies in it is for people.
        let places = std::iter::once((place.to_path_buf(), false))
            .chain(inside.take(MAX_OPENED).map(|path| (path, true)));
        let told = |(path, is_labels): (PathBuf, bool)| {
            Some(format!("`{}` with {}", path.display(), formats(&path, is_labels)?))
        };
        found.extend(places.filter_map(told));
    }
    found.into_iter().take(MAX_NAMED).collect()
}

fn is_for_labels(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    NAME_PARTS.iter().any(|part| name.contains(part)) || NAMES.contains(&name.as_str())
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.take(MAX_ENTRIES).map(|entry| entry.path())
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// The formats of labels in a folder, or in one inside of it, as words; `None` when there are none. `is_labels` says
/// whether the folder is named after labels.
fn formats(folder: &Path, is_labels: bool) -> Option<String> {
    let mut formats = LabelFormats::default();
    let subfolders = formats.look(folder, is_labels);
    for folder in subfolders {
        formats.look(&folder, is_labels);
    }
    let found: Vec<&str> = formats.found.into_iter().collect();
    (!found.is_empty()).then(|| found.join(" and "))
}

/// The formats of labels that are found in a folder, and in those inside of it.
#[derive(Debug, Default)]
struct LabelFormats {
    found: BTreeSet<&'static str>,
    /// Number of .json files that were opened.
    opened: usize,
}

impl LabelFormats {
    /// Looks at the entries of a folder; returns the first folders among them, if it is named after labels.
    fn look(&mut self, folder: &Path, is_labels: bool) -> Vec<PathBuf> {
        let mut subfolders = Vec::new();
        for path in entries(folder) {
            let format = match extension(&path).as_str() {
                "xml" => ".xml files (Pascal VOC)",
                "json" if self.may_open() && is_coco(&path) => "a .json file of COCO",
                "json" if is_labels => ".json files",
                "txt" if is_labels => ".txt files",
                "" if is_labels && subfolders.len() < MAX_OPENED && path.is_dir() => {
                    subfolders.push(path);
                    continue;
                }
                _ => continue,
            };
            self.found.insert(format);
        }
        subfolders
    }

    /// Whether one more file may be opened; counts it.
    fn may_open(&mut self) -> bool {
        self.opened += 1;
        self.opened <= MAX_OPENED
    }
}

/// Whether a file begins as COCO's do.
fn is_coco(file: &Path) -> bool {
    use std::io::Read;
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let read = files::open(file).and_then(|file| file.take(HEAD_BYTES as u64).read_to_end(&mut head));
    let text = String::from_utf8_lossy(&head);
    read.is_ok() && ["\"annotations\"", "\"images\"", "\"categories\""].iter().any(|key| text.contains(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_other_names_and_formats_are_told() {
        let set = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = set.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let told = |folder: &str, looked: &str| {
            let found = find_stray_labels(
                &set.path().join(folder).join("a.jpg"),
                set.path(),
                &[set.path().join(looked)],
            );
            found.join("; ").replace(&set.path().display().to_string(), "SET")
        };
        write("JPEGImages/a.jpg", "");
        assert_eq!(told("JPEGImages", "labels"), "");
        write("Annotations/a.xml", "<annotation/>");
        write("LABELS/train/a.txt", "");
        assert_eq!(
            told("JPEGImages", "labels"),
            "`SET/Annotations` with .xml files (Pascal VOC); `SET/LABELS` with .txt files"
        );
        write("train/_annotations.coco.json", "{\"info\": 1, \"images\": []}");
        write("train/settings.json", "{}");
        let found = told("train", "train");
        assert!(found.contains("`SET/train` with a .json file of COCO"), "{found}");
    }

    #[test]
    fn labels_beside_the_folder_that_they_belong_to_are_told() {
        for (images, looked, labels) in [
            ("images/train", "labels/train", "labels"),
            ("train", "train", "train_labels"),
            ("img/train", "img/labels", "lbl"),
            ("images/train", "labels/train", "yolo"),
        ] {
            let set = tempfile::Builder::new().prefix("labels").tempdir().unwrap();
            fs::write(set.path().join("readme.txt"), "").unwrap();
            for folder in [images, labels, "labels/other"] {
                fs::create_dir_all(set.path().join(folder)).unwrap();
            }
            fs::write(set.path().join("labels/other/b.txt"), "").unwrap();
            let told = || {
                let looked = [set.path().join(looked), set.path().join(images)];
                find_stray_labels(&set.path().join(images).join("a.jpg"), set.path(), &looked).join("; ")
            };
            let expected = format!("`{}` with .txt files", set.path().join(labels).display());
            assert!(!told().contains(&expected), "{}", told());
            fs::write(set.path().join(labels).join("a.txt"), "").unwrap();
            assert!(told().contains(&expected), "{labels}: {}", told());
            assert!(!told().contains(&format!("`{}` with", set.path().display())), "{}", told());
        }
    }
}
