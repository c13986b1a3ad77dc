//! The scan of a split before training: every image header and label file is read, by several threads, so that bad data
//! is known at once and not at epoch 7.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use trainyard_types::text;

use super::DataError;
use super::index::{ImageIndex, ImageIndexBuilder};
use super::listing::ListedImage;
use crate::activity;
use crate::chunks::map_chunks;
use crate::decode::{self, DecodeError, ImageProbe};
use crate::files;
use crate::labels::search_path::LocatedLabelFile;
use crate::labels::{self, BadRows, LabelError, LabelFile, LabelRules, RowCounts};

/// Warnings that a training keeps word for word; the rest is counted.
const MAX_MESSAGES: usize = 20;

/// Label files that are named for each kind of odd row.
const FIRST_FILES: usize = 3;

/// Folders of labels beside the first one that are named.
const FIRST_FOLDERS: usize = 5;

/// Images whose findings are in memory at once.
const PART: usize = 1 << 16;

/// The smallest side of a usable image, pixels.
const MIN_SIDE: usize = 10;

/// What a scan found in a split. Its JSON is what `check --json` prints and what the scan cache keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScanReport {
    /// Number of usable images.
    pub images: usize,
    /// Number of usable images without an object.
    pub background: usize,
    /// Number of images left out because they, or their labels, are broken.
    pub corrupt: usize,
    /// Number of images that a list names and that do not exist.
    pub missing: usize,
    /// Number of images left out because nothing here reads their format.
    pub unsupported: usize,
    /// Number of objects in usable images.
    pub boxes: usize,
    /// What was made of odd rows in the label files of usable images.
    #[serde(flatten)]
    pub rows: RowCounts,
    /// Number of label rows with a value far outside the image; their images are left out.
    pub out_of_range: usize,
    /// Number of usable images without a label file.
    pub unlabelled: usize,
    /// The first usable image without a label file. Like all paths here it is text, as JSON has nothing else; names may
    /// have any bytes.
    pub first_unlabelled: Option<String>,
    /// Folders in which the label file of that image was looked for.
    pub looked_for_labels: Vec<String>,
    /// Number of usable images whose label file lies in another folder than the first of its search path, by folder.
    pub labels_elsewhere: BTreeMap<String, usize>,
    /// Number of usable images whose label file has the letters of their name in other bytes.
    pub respelled_labels: usize,
    /// The first of these label files.
    pub first_respelled: Option<String>,
    /// Number of usable images by their number of objects.
    pub objects: BTreeMap<usize, usize>,
    /// Number of objects by class id.
    pub classes: BTreeMap<u32, usize>,
    /// The first label files with rows that repeat others.
    pub files_with_duplicates: Vec<String>,
    /// The first label files with boxes without area.
    pub files_with_empty_boxes: Vec<String>,
    /// The first label files with clipped values.
    pub files_with_clipped: Vec<String>,
    /// The first warnings, each with file and, where there is one, line.
    pub messages: Vec<String>,
    /// Number of images left out that no message names.
    pub unnamed: usize,
    /// Number of label rows that messages tell of in sum, beside the one that each such message counts as.
    #[serde(default)]
    pub rows_in_sum: usize,
}

impl fmt::Display for ScanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, background, corrupt, missing, unsupported, boxes, rows, .. } = self;
        write!(f, "{images} images, {boxes} boxes, {background} backgrounds, {corrupt} corrupt")?;
        for (count, what) in [
            (missing, "missing"),
            (unsupported, "of kinds that are not read"),
            (&rows.duplicates, "duplicate labels"),
            (&rows.empty_boxes, "empty boxes"),
        ] {
            if *count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

impl ScanReport {
    /// How much is wrong that [`ScanReport::warnings`] tell of, one by one or in sum.
    pub fn warning_count(&self) -> usize {
        self.messages.len() + self.rows_in_sum + self.unnamed
    }

    /// The warnings to show: the first of them in full, the number of the others.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = self.messages.clone();
        if self.unnamed > 0 {
            lines.push(format!("… and {} more such images", self.unnamed));
        }
        lines
    }

    /// Keeps the warnings about one image that is left out, or counts it once there are `most`.
    fn warn(&mut self, messages: impl IntoIterator<Item = String>, most: usize) {
        if self.messages.len() < most {
            self.messages.extend(messages);
        } else {
            self.unnamed += 1;
        }
    }

    /// Counts a usable image; `file` is its label file.
    fn count(&mut self, image: &ListedImage, labels: &LabelFile, file: Option<&LocatedLabelFile<()>>) {
        let objects = labels.labels.len();
        self.images += 1;
        self.boxes += objects;
        self.background += usize::from(objects == 0);
        self.rows += labels.rows;
        *self.objects.entry(objects).or_default() += 1;
        for label in &labels.labels {
            *self.classes.entry(label.class).or_default() += 1;
        }
        let Some(file) = file else { return self.count_unlabelled(image) };
        for (found, files) in [
            (labels.rows.duplicates, &mut self.files_with_duplicates),
            (labels.rows.empty_boxes, &mut self.files_with_empty_boxes),
            (labels.rows.clipped, &mut self.files_with_clipped),
        ] {
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

    fn count_unlabelled(&mut self, image: &ListedImage) {
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

/// What the scan found of one image.
enum Finding {
    Usable {
        probe: ImageProbe,
        labels: LabelFile,
        /// The label file, if there is one.
        file: Option<LocatedLabelFile<()>>,
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

/// What a scan found, class ids beyond the data.yaml included.
#[derive(Debug, Default)]
pub(crate) struct ScanOutcome {
    /// The usable images.
    pub images: ImageIndex,
    pub report: ScanReport,
    /// The first label rows with class ids that the data.yaml does not name, with what else is wrong in their files.
    pub wrong_classes: Vec<String>,
    /// Number of label files that have such rows.
    pub wrong_files: usize,
    /// Number of rows in them that cannot be used.
    pub wrong_rows: usize,
    /// Number of such files of which no message tells.
    pub wrong_unnamed: usize,
}

impl ScanOutcome {
    /// Takes what was found of the next image.
    fn take(&mut self, image: &ListedImage, finding: Finding, images: &mut ImageIndexBuilder, most: usize) {
        let report = &mut self.report;
        match finding {
            Finding::Usable { probe, labels, file } => {
                report.count(image, &labels, file.as_ref());
                images.push(&image.path, probe, &labels.labels);
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
            Finding::BadLabels { rows, messages } => self.leave_out(&rows, messages, most),
        }
    }

    /// Counts an image that is left out for rows of its label file.
    fn leave_out(&mut self, rows: &BadRows, messages: Vec<String>, most: usize) {
        self.report.out_of_range += rows.out_of_range;
        if !rows.wrong_class {
            self.report.corrupt += 1;
            if self.report.messages.len() < most {
                self.report.rows_in_sum += rows.more.saturating_sub(1);
            }
            let messages = messages.into_iter().map(|message| format!("{message}, image left out"));
            return self.report.warn(messages, most);
        }
        self.wrong_files += 1;
        self.wrong_rows += rows.first.len() + rows.more;
        if self.wrong_classes.len() < most {
            self.wrong_classes.extend(messages);
        } else {
            self.wrong_unnamed += 1;
        }
    }
}

/// Reads headers and labels of all `listed` images on `threads` threads, and keeps about `most` warnings word for
/// word.
pub(crate) fn scan_all(
    listed: &[ListedImage],
    rules: &LabelRules,
    threads: usize,
    most: usize,
) -> ScanOutcome {
    let (mut outcome, mut images) = (ScanOutcome::default(), ImageIndexBuilder::default());
    for part in listed.chunks(PART) {
        let findings = map_chunks(part, threads, |chunk| {
            let inspect = |image| {
                activity::tick();
                inspect(image, rules)
            };
            chunk.iter().map(inspect).collect::<Vec<_>>()
        });
        for (image, finding) in part.iter().zip(findings.into_iter().flatten()) {
            outcome.take(image, finding, &mut images, most);
        }
    }
    outcome.images = images.finish();
    outcome
}

/// As [`scan_all`], for a training: wrong classes are an error.
pub(crate) fn scan(
    listed: &[ListedImage],
    rules: &LabelRules,
    threads: usize,
) -> Result<(ImageIndex, ScanReport), DataError> {
    let classes = rules.classes;
    let ScanOutcome { images, report, mut wrong_classes, wrong_files: files, .. } =
        scan_all(listed, rules, threads, MAX_MESSAGES);
    if files == 0 {
        return Ok((images, report));
    }
    wrong_classes.truncate(5);
    Err(DataError::WrongClasses { files, classes, examples: wrong_classes.join("; ") })
}

/// Reads the header and the label file of one image.
fn inspect(image: &ListedImage, rules: &LabelRules) -> Finding {
    let path = &image.path;
    let shown = path.display();
    if let Some(kind) = decode::unsupported_format(path) {
        return Finding::Unsupported(format!(
            "{shown}: {kind} images are not read; convert it to JPEG or PNG, image left out"
        ));
    }
    let probe = match decode::probe(path) {
        Ok(probe) => probe,
        Err(DecodeError::Read(error)) if files::is_gone(&error) => {
            return Finding::Missing;
        }
        Err(error) if error.is_unsupported() => {
            return Finding::Unsupported(format!("{shown}: {error}, image left out"));
        }
        Err(error) => return Finding::Corrupt(format!("{shown}: {error}, image left out")),
    };
    let [width, height] = probe.size;
    if width.min(height) < MIN_SIDE {
        return Finding::Corrupt(format!(
            "{shown}: is {width}x{height} pixels, less than {MIN_SIDE} on a side, image left out"
        ));
    }
    let (bytes, file) = match image.labels.find(path, files::read_label_file) {
        Ok(Some(LocatedLabelFile { content, path, is_first, is_respelled })) => {
            (content, Some(LocatedLabelFile { content: (), path, is_first, is_respelled }))
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
        Ok(labels) => Finding::Usable { probe, labels, file },
        Err(rows) => {
            let label_file = shown();
            let described = |error: &LabelError| format!("{label_file}:{}: {error}", error.line());
            let mut messages: Vec<String> = rows.first.iter().map(described).collect();
            if rows.more > 0 {
                messages.push(format!("{label_file}: {} more rows cannot be used", rows.more));
            }
            Finding::BadLabels { rows, messages }
        }
    }
}
