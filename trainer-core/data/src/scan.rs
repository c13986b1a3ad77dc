//! The preflight of a split: lists its images, reads every header and label file, in parallel, before
//! training starts, so that bad data is known at once and not at epoch 7.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use trainyard_types::text;

use crate::dataset::DataError;
use crate::decode::{self, DecodeError};
use crate::items::{Items, ItemsBuilder, Seen};
use crate::label_places::LabelFileAt;
use crate::labels::{self, BadRows, LabelError, LabelFile, LabelRules};
use crate::listing::Listed;
use crate::parts::by_parts;
use crate::pulse;
use crate::source;

/// Messages kept word for word; the rest is counted.
const MESSAGES: usize = 20;

/// Label files that are named for each thing that is dropped or changed in them.
const FIRST_FILES: usize = 3;

/// Folders of labels that are named.
const FIRST_FOLDERS: usize = 5;

/// The smallest side of a usable image, pixels.
const SMALLEST_SIDE: usize = 10;

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScanReport {
    /// Usable images.
    pub images: usize,
    /// Usable images without an object.
    pub background: usize,
    /// Images left out because they, or their labels, are broken.
    pub corrupt: usize,
    /// Images that a list names and that do not exist.
    pub missing: usize,
    /// Images left out because nothing here reads their kind.
    pub unsupported: usize,
    /// Objects in usable images.
    pub boxes: usize,
    /// Label rows dropped because they repeat another.
    pub duplicates: usize,
    /// Label rows dropped because their box has no area.
    pub empty_boxes: usize,
    /// Label rows that are polygons; the box around each was taken.
    pub polygons: usize,
    /// Label rows of four points, as of oriented boxes; the upright box around each was taken.
    pub four_corners: usize,
    /// Label rows of a box and keypoints; the box of each was taken.
    pub keypoints: usize,
    /// Label rows with a value a little outside the image, which was taken as 0 or 1.
    pub clipped: usize,
    /// Label rows with a value far outside the image, whose images are left out.
    pub out_of_range: usize,
    /// Usable images without a label file.
    pub unlabelled: usize,
    /// The first usable image without a label file. As all paths here it is text: JSON has no others, and names may
    /// have any bytes.
    pub first_unlabelled: Option<String>,
    /// Folders in which the label file of that image was looked for.
    pub looked_for_labels: Vec<String>,
    /// Usable images whose label file lies elsewhere than where it is mostly looked for, by folder.
    pub labels_elsewhere: BTreeMap<String, usize>,
    /// Usable images whose label file has their letters in other bytes.
    pub respelled_labels: usize,
    /// The first of these label files.
    pub first_respelled: Option<String>,
    /// How many usable images have how many objects.
    pub objects: BTreeMap<usize, usize>,
    /// Objects of each class.
    pub classes: BTreeMap<u32, usize>,
    /// The first label files with rows that repeat others.
    pub files_with_duplicates: Vec<String>,
    /// The first label files with boxes without area.
    pub files_with_empty_boxes: Vec<String>,
    /// The first label files with clipped values.
    pub files_with_clipped: Vec<String>,
    /// The first warnings, each with file and, where there is one, line.
    pub messages: Vec<String>,
    /// Images left out that no message names.
    pub unnamed: usize,
}

impl fmt::Display for ScanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            images, background, corrupt, missing, unsupported, boxes, duplicates, empty_boxes, ..
        } = self;
        write!(f, "{images} images, {boxes} boxes, {background} backgrounds, {corrupt} corrupt")?;
        for (count, what) in [
            (missing, "missing"),
            (unsupported, "of kinds that are not read"),
            (duplicates, "duplicate labels"),
            (empty_boxes, "empty boxes"),
        ] {
            if *count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

impl ScanReport {
    /// The warnings to show: the first of them in full, the number of the others.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = self.messages.clone();
        if self.unnamed > 0 {
            lines.push(format!("… and {} more such images", self.unnamed));
        }
        lines
    }

    /// Of one image that is left out.
    fn warn(&mut self, messages: impl IntoIterator<Item = String>, most: usize) {
        if self.messages.len() < most {
            self.messages.extend(messages);
        } else {
            self.unnamed += 1;
        }
    }

    fn count(&mut self, image: &Listed, labels: &LabelFile, file: Option<&LabelFileAt<()>>) {
        let objects = labels.labels.len();
        self.images += 1;
        self.boxes += objects;
        self.background += usize::from(objects == 0);
        self.polygons += labels.polygons;
        self.four_corners += labels.four_corners;
        self.keypoints += labels.keypoints;
        *self.objects.entry(objects).or_default() += 1;
        for label in &labels.labels {
            *self.classes.entry(label.class).or_default() += 1;
        }
        let Some(file) = file else { return self.count_unlabelled(image) };
        for (found, count, files) in [
            (labels.duplicates, &mut self.duplicates, &mut self.files_with_duplicates),
            (labels.empty_boxes, &mut self.empty_boxes, &mut self.files_with_empty_boxes),
            (labels.clipped, &mut self.clipped, &mut self.files_with_clipped),
        ] {
            *count += found;
            if found > 0 && files.len() < FIRST_FILES {
                files.push(shown(&file.path));
            }
        }
        if file.is_respelled {
            self.respelled_labels += 1;
            self.first_respelled.get_or_insert_with(|| shown(&file.path));
        }
        if !file.is_first {
            self.count_elsewhere(shown(file.path.parent().unwrap_or(Path::new(""))));
        }
    }

    fn count_elsewhere(&mut self, folder: String) {
        if let Some(count) = self.labels_elsewhere.get_mut(&folder) {
            *count += 1;
        } else if self.labels_elsewhere.len() < FIRST_FOLDERS {
            self.labels_elsewhere.insert(folder, 1);
        }
    }

    fn count_unlabelled(&mut self, image: &Listed) {
        self.unlabelled += 1;
        if self.first_unlabelled.is_none() {
            self.first_unlabelled = Some(shown(&image.path));
            self.looked_for_labels = image.labels.folders().iter().map(|folder| shown(folder)).collect();
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// What was found at one image.
enum Finding {
    Usable {
        seen: Seen,
        labels: LabelFile,
        /// The label file, if there is one.
        file: Option<LabelFileAt<()>>,
    },
    Missing,
    Unsupported(String),
    Corrupt(String),
    BadLabels {
        rows: BadRows,
        /// One for each row.
        messages: Vec<String>,
    },
}

/// What a scan found in all.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub items: Items,
    pub report: ScanReport,
    /// The first label rows with class ids that the data.yaml does not name, with what else is wrong in their files.
    pub wrong_classes: Vec<String>,
    /// Label files that have such rows.
    pub wrong_files: usize,
    /// Those that none of the messages is of.
    pub wrong_unnamed: usize,
}

impl Survey {
    fn leave_out(&mut self, rows: &BadRows, messages: Vec<String>, most: usize) {
        self.report.out_of_range += rows.out_of_range;
        if !rows.wrong_class {
            self.report.corrupt += 1;
            let messages = messages.into_iter().map(|message| format!("{message}, image left out"));
            return self.report.warn(messages, most);
        }
        self.wrong_files += 1;
        if self.wrong_classes.len() < most {
            self.wrong_classes.extend(messages);
        } else {
            self.wrong_unnamed += 1;
        }
    }
}

/// Reads headers and labels of all `listed` images on `threads` threads, and keeps about `most` warnings word for
/// word.
pub(crate) fn survey(listed: &[Listed], rules: &LabelRules, threads: usize, most: usize) -> Survey {
    let (mut survey, mut items) = (Survey::default(), ItemsBuilder::default());
    let findings = by_parts(listed, threads, |part| {
        let look = |image| {
            pulse::tick();
            look_at(image, rules)
        };
        part.iter().map(look).collect::<Vec<_>>()
    });
    for (image, finding) in listed.iter().zip(findings.into_iter().flatten()) {
        let report = &mut survey.report;
        match finding {
            Finding::Usable { seen, labels, file } => {
                report.count(image, &labels, file.as_ref());
                items.push(&image.path, seen, &labels.labels);
            }
            Finding::Missing => {
                report.missing += 1;
                // What to say costs many looks at the disk, and only the first are told.
                let message = (report.messages.len() < most).then(|| image.missing());
                report.warn(message, most);
            }
            Finding::Unsupported(message) => {
                report.unsupported += 1;
                report.warn([message], most);
            }
            Finding::Corrupt(message) => {
                report.corrupt += 1;
                report.warn([message], most);
            }
            Finding::BadLabels { rows, messages } => survey.leave_out(&rows, messages, most),
        }
    }
    survey.items = items.finish();
    survey
}

/// As [`survey`], for a training: wrong classes are an error.
pub(crate) fn scan(
    listed: &[Listed],
    rules: &LabelRules,
    threads: usize,
) -> Result<(Items, ScanReport), DataError> {
    let classes = rules.classes;
    let Survey { items, report, mut wrong_classes, wrong_files: files, .. } =
        survey(listed, rules, threads, MESSAGES);
    if files == 0 {
        return Ok((items, report));
    }
    wrong_classes.truncate(5);
    Err(DataError::WrongClasses { files, classes, examples: wrong_classes.join("; ") })
}

fn look_at(image: &Listed, rules: &LabelRules) -> Finding {
    let path = &image.path;
    let shown = path.display();
    if let Some(kind) = decode::unsupported(path) {
        return Finding::Unsupported(format!(
            "{shown}: {kind} images are not read; convert it to JPEG or PNG, image left out"
        ));
    }
    let seen = match decode::look(path) {
        Ok(seen) => seen,
        Err(DecodeError::Read(error)) if source::is_gone(&error) => {
            return Finding::Missing;
        }
        Err(error) if error.is_unsupported() => {
            return Finding::Unsupported(format!("{shown}: {error}, image left out"));
        }
        Err(error) => return Finding::Corrupt(format!("{shown}: {error}, image left out")),
    };
    let [width, height] = seen.size;
    if width.min(height) < SMALLEST_SIDE {
        return Finding::Corrupt(format!(
            "{shown}: is {width}x{height} pixels, less than {SMALLEST_SIDE} on a side, image left out"
        ));
    }
    let (bytes, file) = match image.labels.find(path, source::read_short) {
        Ok(Some(LabelFileAt { of, path, is_first, is_respelled })) => {
            (of, Some(LabelFileAt { of: (), path, is_first, is_respelled }))
        }
        Ok(None) => (Vec::new(), None),
        Err((file, error)) => {
            return Finding::Corrupt(format!("{}: {error}, image left out", file.display()));
        }
    };
    let shown = || file.as_ref().map_or(Path::new(""), |file| &file.path).display();
    let text = match text::decode(&bytes) {
        Ok(text) => text,
        Err(error) => return Finding::Corrupt(format!("{}, image left out", error.in_file(shown()))),
    };
    match labels::parse(&text, rules) {
        Ok(labels) => Finding::Usable { seen, labels, file },
        Err(rows) => {
            let label_file = shown();
            let told = |error: &LabelError| format!("{label_file}:{}: {error}", error.line());
            let mut messages: Vec<String> = rows.first.iter().map(told).collect();
            if rows.more > 0 {
                messages.push(format!("{label_file}: {} more rows cannot be used", rows.more));
            }
            Finding::BadLabels { rows, messages }
        }
    }
}
