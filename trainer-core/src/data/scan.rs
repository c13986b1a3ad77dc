//! The preflight of a split: lists its images, reads every header and label file, in parallel, before
//! training starts, so that bad data is known at once and not at epoch 7.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::dataset::DataError;
use crate::data::decode::{self, DecodeError};
use crate::data::items::{Items, ItemsBuilder, Seen};
use crate::data::labels::{self, BadRows, LabelError, LabelFile};
use crate::data::listing::Listed;
use crate::data::parts::by_parts;
use crate::data::source;
use crate::pulse;

/// Messages kept word for word; the rest is counted.
const MESSAGES: usize = 20;

/// Label files that are named for each thing that is dropped or changed in them.
const FIRST_FILES: usize = 3;

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
    /// Label rows with a value a little outside the image, which was taken as 0 or 1.
    pub clipped: usize,
    /// Label rows with a value far outside the image, whose images are left out.
    pub out_of_range: usize,
    /// Usable images without a label file.
    pub unlabelled: usize,
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

    fn count(&mut self, image: &Path, labels: &LabelFile, labelled: bool) {
        let objects = labels.labels.len();
        self.images += 1;
        self.boxes += objects;
        self.background += usize::from(objects == 0);
        self.polygons += labels.polygons;
        self.unlabelled += usize::from(!labelled);
        for (found, count, files) in [
            (labels.duplicates, &mut self.duplicates, &mut self.files_with_duplicates),
            (labels.empty_boxes, &mut self.empty_boxes, &mut self.files_with_empty_boxes),
            (labels.clipped, &mut self.clipped, &mut self.files_with_clipped),
        ] {
            *count += found;
            if found > 0 && files.len() < FIRST_FILES {
                files.push(labels::label_path(image).display().to_string());
            }
        }
        *self.objects.entry(objects).or_default() += 1;
        for label in &labels.labels {
            *self.classes.entry(label.class).or_default() += 1;
        }
    }
}

/// What was found at one image.
enum Finding {
    Usable {
        seen: Seen,
        labels: LabelFile,
        /// Whether there is a label file.
        labelled: bool,
    },
    Missing(String),
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
pub(crate) fn survey(
    listed: &[Listed],
    classes: usize,
    single_class: bool,
    threads: usize,
    most: usize,
) -> Survey {
    let (mut survey, mut items) = (Survey::default(), ItemsBuilder::default());
    let findings = by_parts(listed, threads, |part| {
        let look = |image| {
            pulse::tick();
            look_at(image, classes, single_class)
        };
        part.iter().map(look).collect::<Vec<_>>()
    });
    for (image, finding) in listed.iter().zip(findings.into_iter().flatten()) {
        let report = &mut survey.report;
        match finding {
            Finding::Usable { seen, labels, labelled } => {
                report.count(&image.path, &labels, labelled);
                items.push(&image.path, seen, &labels.labels);
            }
            Finding::Missing(message) => {
                report.missing += 1;
                report.warn([message], most);
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
    classes: usize,
    single_class: bool,
    threads: usize,
) -> Result<(Items, ScanReport), DataError> {
    let Survey { items, report, mut wrong_classes, wrong_files: files, .. } =
        survey(listed, classes, single_class, threads, MESSAGES);
    if files == 0 {
        return Ok((items, report));
    }
    wrong_classes.truncate(5);
    Err(DataError::WrongClasses { files, classes, examples: wrong_classes.join("; ") })
}

fn look_at(image: &Listed, classes: usize, single_class: bool) -> Finding {
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
            return Finding::Missing(match &image.named_in {
                Some((list, line)) => {
                    format!("{}:{line}: image `{shown}` does not exist, left out", list.display())
                }
                None => format!("image `{shown}` is a link to nothing, left out"),
            });
        }
        Err(error) => return Finding::Corrupt(format!("{shown}: {error}, image left out")),
    };
    let [width, height] = seen.size;
    if width.min(height) < SMALLEST_SIDE {
        return Finding::Corrupt(format!(
            "{shown}: is {width}x{height} pixels, less than {SMALLEST_SIDE} on a side, image left out"
        ));
    }
    let label_file = labels::label_path(path);
    let text = match read_text(&label_file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            return Finding::Corrupt(format!("{}: {error}, image left out", label_file.display()));
        }
    };
    match labels::parse(text.as_deref().unwrap_or_default(), classes, single_class) {
        Ok(labels) => Finding::Usable { seen, labels, labelled: text.is_some() },
        Err(rows) => {
            let label_file = label_file.display();
            let told = |error: &LabelError| format!("{label_file}:{}: {error}", error.line());
            let mut messages: Vec<String> = rows.first.iter().map(told).collect();
            if rows.more > 0 {
                messages.push(format!("{label_file}: {} more rows cannot be used", rows.more));
            }
            Finding::BadLabels { rows, messages }
        }
    }
}

/// As the standard library's, but without a question for the length: label files are short, and many.
fn read_text(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(2048);
    File::open(file)?.take(u64::MAX).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
