//! What lies about where label files were looked for and none were: labels under another name, or of another format.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Entries of a folder that are looked at; it may hold a million.
const ENTRIES: usize = 2000;
/// Bytes of a file that tell what it is.
const HEAD: usize = 4096;
/// Things that are named at most.
const NAMED: usize = 5;

/// Names, in small letters, of folders that may hold labels.
const FOLDERS: [&str; 9] =
    ["labels", "label", "labels_txt", "annotations", "annotation", "ann", "xmls", "xml", "json"];

/// Sentences' ends, each about labels that lie near the images of `folder`, or at the top of their data set, `base`.
/// `looked` are the places that were searched before.
pub(crate) fn labels_elsewhere(folder: &Path, base: &Path, looked: &[PathBuf]) -> Vec<String> {
    let above = folder.parent().filter(|_| folder != base);
    let nearby: BTreeSet<&Path> = [Some(folder), above, Some(base)].into_iter().flatten().collect();
    let mut seen: BTreeSet<PathBuf> = looked.iter().cloned().collect();
    let mut found = BTreeSet::new();
    for place in nearby {
        // A folder above a place that was searched has the labels of other images.
        let inside = entries(place).filter(|path| {
            let is_searched = looked.iter().any(|looked| looked.starts_with(path));
            is_for_labels(path) && !is_searched && path.is_dir() && seen.insert(path.clone())
        });
        let places = std::iter::once(place.to_path_buf()).chain(inside);
        found.extend(places.filter_map(|path| Some(format!("`{}` with {}", path.display(), kinds(&path)?))));
    }
    found.into_iter().take(NAMED).collect()
}

fn is_for_labels(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| FOLDERS.contains(&name.to_string_lossy().to_lowercase().as_str()))
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.take(ENTRIES).map(|entry| entry.path())
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// What kinds of labels a folder, or one inside of it, has.
fn kinds(folder: &Path) -> Option<String> {
    let mut found = BTreeSet::new();
    look(folder, is_for_labels(folder), 1, &mut found);
    let found: Vec<&str> = found.into_iter().collect();
    (!found.is_empty()).then(|| found.join(" and "))
}

fn look(folder: &Path, is_labels: bool, deeper: usize, found: &mut BTreeSet<&'static str>) {
    let mut subfolders = Vec::new();
    for path in entries(folder) {
        match extension(&path).as_str() {
            "xml" => found.insert(".xml files (Pascal VOC)"),
            "json" if is_coco(&path) => found.insert("a .json file of COCO"),
            "json" if is_labels => found.insert(".json files"),
            "txt" if is_labels => found.insert(".txt files"),
            "" if is_labels && path.is_dir() => {
                subfolders.push(path);
                false
            }
            _ => false,
        };
    }
    if deeper > 0 {
        subfolders.iter().for_each(|folder| look(folder, is_labels, deeper - 1, found));
    }
}

/// Whether a file begins as COCO's do.
fn is_coco(file: &Path) -> bool {
    use std::io::Read;
    let mut head = Vec::with_capacity(HEAD);
    let read = fs::File::open(file).and_then(|file| file.take(HEAD as u64).read_to_end(&mut head));
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
            let found = labels_elsewhere(&set.path().join(folder), set.path(), &[set.path().join(looked)]);
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
}
