//! Where label files lie in the tree: each where a trainer looks first for its image's, and nowhere another image's.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::normal_form::list_name;
use super::places::Places;
use super::whole_path::WholePaths;
use super::{as_text, in_folder};
use crate::activity;
use crate::dataset::Split;
use crate::dataset::listing::ListedImage;

/// Which label file each place in the tree has: hashes of both, 0 where there must be none.
#[derive(Debug)]
pub(super) struct LabelPlan(HashMap<u64, u64>);

/// What comes to the first place at which an image's labels are looked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Planned {
    File(PathBuf),
    /// An image without labels would find those of another image further on.
    Empty,
    Nothing,
}

/// No label.
const NONE: u64 = 0;

impl LabelPlan {
    /// The plan for the labels of all `images`.
    ///
    /// # Errors
    /// A folder whose images cannot have their labels there, because others have theirs in the same place.
    pub fn of<'a>(
        places: &Places,
        whole: &WholePaths,
        images: impl Iterator<Item = &'a ListedImage>,
    ) -> Result<Self, OsString> {
        // The lists look like label files of images of their names.
        let lists = [Split::Train, Split::Val, Split::Test].map(|split| hash(list_name(split).as_bytes()));
        let mut plan: HashMap<u64, u64> = lists.into_iter().map(|list| (list, list)).collect();
        for image in images {
            activity::tick();
            let folder = image.path.parent().unwrap_or(Path::new(""));
            let first = label_path(&places.of_folder(folder).label_folders[0], &image.path);
            let label = image.labels.path(&image.path);
            let label = label.map_or(NONE, |label| hash(whole.of_file(&label).as_os_str().as_bytes()));
            if *plan.entry(hash(first.as_bytes())).or_insert(label) != label {
                return Err(folder.as_os_str().to_owned());
            }
        }
        Ok(Self(plan))
    }

    pub fn of_image(&self, places: &Places, image: &ListedImage) -> Planned {
        if let Some(label) = image.labels.path(&image.path) {
            return Planned::File(label);
        }
        let place = places.of_folder(image.path.parent().unwrap_or(Path::new("")));
        let has_label = |folder: &String| {
            let place = hash(label_path(folder, &image.path).as_bytes());
            self.0.get(&place).is_some_and(|label| *label != NONE)
        };
        if place.label_folders.iter().any(has_label) { Planned::Empty } else { Planned::Nothing }
    }
}

/// The path of an image's label file in a folder of the tree.
pub(super) fn label_path(folder: &str, image: &Path) -> String {
    let stem = as_text(image.file_stem().unwrap_or_default().as_bytes());
    in_folder(folder, &format!("{stem}.txt"))
}

fn hash(bytes: &[u8]) -> u64 {
    // Zero stands for no label.
    xxh3_64(bytes).max(1)
}
