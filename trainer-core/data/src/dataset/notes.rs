//! What the user is told of a split that can be used: sentences that `check` and `train` say in the same words, once
//! each.

use std::path::{Path, PathBuf};

use super::data_yaml::DataYaml;
use super::listing::ListedImage;
use super::scan::ScanReport;
use super::{DataError, Split};
use crate::activity;
use crate::labels::stray::find_stray_labels;

/// Sentences about the label files of a split, without its name. `missing` tells of its first image without a label file.
pub(crate) fn split_notes(
    yaml: &DataYaml,
    split: Split,
    found: &ScanReport,
    missing: Option<&MissingLabels>,
) -> Vec<String> {
    let mut notes = row_notes(yaml, found);
    if let Some(MissingLabels { first, looked, instead }) = missing {
        let (count, images) = (found.unlabelled, found.images);
        notes.push(format!(
            "{count} of {images} images without a label file; taken as background, first `{first}`; looked in \
             {looked}{instead}"
        ));
    }
    for (folder, count) in &found.labels_elsewhere {
        notes.push(format!("{count} images have their label files in `{folder}`; taken from there"));
    }
    if let Some(first) = &found.first_respelled {
        notes.push(format!(
            "{} images have label files whose names have the same letters in other bytes (NFC, NFD or Latin-1), first \
             `{first}`; these were taken",
            found.respelled_labels
        ));
    }
    if found.boxes == 0 && found.images > 0 {
        notes.push(match split {
            Split::Train => "the training images have no objects at all: the model can only learn to see nothing",
            Split::Val => {
                "the validation images have no objects at all: every mAP will be 0, and no epoch is better than another"
            }
            Split::Test => "the test images have no objects at all: every mAP will be 0",
        }.to_owned());
    }
    notes
}

/// Names that a warning lists at most.
const MAX_NAMED: usize = 10;

/// A sentence about classes that no training image has, if there are any; `names` are those of all classes.
pub fn unseen_classes(names: &[String], found: &ScanReport) -> Option<String> {
    let is_seen = |class: u32| found.classes.contains_key(&class);
    let unseen = names.iter().zip(0..).filter(|(_, class)| !is_seen(*class));
    let unseen: Vec<String> = unseen.map(|(name, _)| format!("`{name}`")).collect();
    // Of images without any object `split_notes` tells.
    if unseen.is_empty() || unseen.len() == names.len() {
        return None;
    }
    let more = unseen.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let shown = unseen[..unseen.len().min(MAX_NAMED)].join(", ");
    Some(format!("the training images have no object of class {shown}{more}, which cannot be learnt"))
}

/// Sentences about odd rows of label files, and what was made of them.
fn row_notes(yaml: &DataYaml, found: &ScanReport) -> Vec<String> {
    let nowhere = Vec::new();
    let [points, each] = yaml.keypoints.unwrap_or_default();
    let keypoints =
        format!("label rows with keypoints (`kpt_shape: [{points}, {each}]`); the box of each is taken");
    let kinds = [
        (found.rows.duplicates, "label rows that repeat another; dropped", &found.files_with_duplicates),
        (found.rows.empty_boxes, "label rows whose box has no area; dropped", &found.files_with_empty_boxes),
        (found.rows.clipped, "label rows a little outside 0 to 1; clipped", &found.files_with_clipped),
        (found.rows.keypoints, keypoints.as_str(), &nowhere),
        (
            found.rows.polygons,
            "label rows are polygons; the box around each is taken (if they are a box and keypoints, say so by \
             `kpt_shape` in the data.yaml)",
            &nowhere,
        ),
        (
            found.rows.four_corners,
            "label rows have four corners (oriented boxes, or polygons); the upright box around each is taken",
            &nowhere,
        ),
    ];
    let told = kinds.into_iter().filter(|(count, ..)| *count > 0).map(|(count, what, files)| {
        let files = if files.is_empty() { String::new() } else { format!(", first in {}", files.join(", ")) };
        format!("{count} {what}{files}")
    });
    told.collect()
}

/// Where the label file of the first image without one was looked for, and what is there instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MissingLabels {
    /// The first image without a label file.
    first: String,
    /// The folders that were searched, as words.
    looked: String,
    /// What is there instead, as the end of a sentence; may be empty.
    instead: String,
}

impl MissingLabels {
    /// Looks for labels near the first image without a label file; `None` when each image has one.
    pub fn of(yaml: &DataYaml, found: &ScanReport) -> Option<Self> {
        let first = found.first_unlabelled.clone()?;
        let image = Path::new(&first);
        let folder = image.parent().unwrap_or(Path::new(""));
        let places: Vec<PathBuf> = found.looked_for_labels.iter().map(PathBuf::from).collect();
        // The first is where they should be; of the others those that are there, and one that is no folder of images.
        let apart = places.iter().position(|place| place != folder);
        let is_shown = |at: usize, place: &Path| at == 0 || apart == Some(at) || place.is_dir();
        let shown = places.iter().enumerate().filter(|(at, place)| is_shown(*at, place));
        let looked: Vec<String> = shown.map(|(_, place)| format!("`{}`", place.display())).collect();
        let base = yaml.base(folder).unwrap_or(folder);
        // A few images without a label file are meant as background, and the search takes a while on a network file system.
        let are_many = 2 * found.unlabelled >= found.images;
        let stray = if are_many { find_stray_labels(image, base, &places) } else { Vec::new() };
        let instead = if stray.is_empty() {
            String::new()
        } else {
            format!("; there is {}, where labels are not looked for or cannot be read", stray.join(", "))
        };
        Some(Self { looked: looked.join(", "), instead, first })
    }
}

/// Whether a split has a label file, be it empty. `listed` are all of its images, whether they are used or not.
pub(crate) fn has_label_file(listed: &[ListedImage], found: &ScanReport) -> bool {
    let has_one = |image: &ListedImage| {
        activity::tick();
        image.labels.path(&image.path).is_some()
    };
    found.unlabelled < found.images || listed.iter().any(has_one)
}

/// The error of a split without a single label file.
pub(crate) fn no_labels_error(
    yaml: &DataYaml,
    split: Split,
    images: usize,
    missing: &MissingLabels,
) -> DataError {
    let MissingLabels { first, looked, instead } = missing;
    let name = Path::new(first).with_extension("txt");
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (file, key) = (yaml.file.clone(), split.key());
    let searched = format!("`{name}` was looked for in {looked}{instead}");
    DataError::NoLabels { file, key, images, searched }
}
