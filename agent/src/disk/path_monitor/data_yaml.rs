//! The places that a data.yaml names: they may lie on another share than the file itself. Pure.

use std::path::{Path, PathBuf};

use serde_norway::Value;
use trainyard_types::text;

/// A data.yaml is read up to so many bytes here.
pub const BYTES: u64 = 256 * 1024;

/// So many places of a data.yaml are read.
const PLACES: usize = 16;

/// The keys of a data.yaml whose values are places.
const ENTRIES: [&str; 4] = ["train", "val", "valid", "test"];

/// The places that `text`, which was read from `file`, names as they are written: the data set's own folder and its
/// entries. Whether they are right is the trainer's to say, and so are texts that are no YAML.
pub fn named(file: &Path, text: &[u8]) -> Vec<PathBuf> {
    let Some(Value::Mapping(written)) =
        text::decode(text).ok().and_then(|text| serde_norway::from_str(&text).ok())
    else {
        return Vec::new();
    };
    let folder = file.parent().unwrap_or(Path::new("/"));
    let path = written.get("path").and_then(Value::as_str).map(str::trim);
    let root = folder.join(path.unwrap_or_default());
    let entries = ENTRIES.iter().filter_map(|key| written.get(key)).flat_map(|value| match value {
        Value::Sequence(entries) => entries.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().into_iter().collect::<Vec<_>>(),
    });
    let mut places: Vec<PathBuf> = entries.map(|entry| root.join(entry.trim())).collect();
    places.insert(0, root);
    places.dedup();
    places.truncate(PLACES);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let places = named(Path::new("/data/set/data.yaml"), text.as_bytes());
        places.iter().map(|place| place.display().to_string()).collect()
    }

    #[test]
    fn the_folder_and_the_entries_are_named_as_they_are_written() {
        let text = "path: /nas/set # there\nnames: [/a]\ntrain: [images/a, /other/b]\nval: images/val\n";
        assert_eq!(of(text), ["/nas/set", "/nas/set/images/a", "/other/b", "/nas/set/images/val"]);
        assert_eq!(
            of("train: ../train/images\nvalid: v\n"),
            ["/data/set/", "/data/set/../train/images", "/data/set/v"]
        );
    }

    #[test]
    fn what_is_no_data_yaml_names_nothing_and_long_lists_only_their_first() {
        for text in ["", "- a\n", "train: [\n", "names: [a]\ntrain: {a: b}"] {
            assert!(of(text).len() <= 1, "{text}");
        }
        let many: Vec<String> = (0..100).map(|number| format!("split{number}")).collect();
        assert_eq!(of(&format!("train: [{}]", many.join(", "))).len(), PLACES);
    }
}
