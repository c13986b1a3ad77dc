//! The preflight of a split: lists its images, reads every header and label file, in parallel, before
//! training starts, so that bad data is known at once and not at epoch 7.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::data::dataset::DataError;
use crate::data::decode;
use crate::data::items::{Items, Seen};
use crate::data::labels::{self, LabelError, LabelFile};
use crate::data::yaml::DataYaml;

/// Messages kept word for word; the rest is counted.
const MESSAGES: usize = 20;

/// The smallest side of a usable image, pixels.
const SMALLEST_SIDE: usize = 10;

/// Folders inside folders that are followed; more is a loop of links.
const DEEPEST: usize = 32;

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
    /// Objects in usable images.
    pub boxes: usize,
    /// Label rows dropped because they repeat another.
    pub duplicates: usize,
    /// Label rows dropped because their box has no area.
    pub empty_boxes: usize,
    /// Label rows that are polygons; the box around each was taken.
    pub polygons: usize,
    /// Usable images without a label file.
    pub unlabelled: usize,
    /// How many usable images have how many objects.
    pub objects: BTreeMap<usize, usize>,
    /// Objects of each class.
    pub classes: BTreeMap<u32, usize>,
    /// The first warnings, each with file and, where there is one, line.
    pub messages: Vec<String>,
}

impl fmt::Display for ScanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, background, corrupt, missing, boxes, duplicates, empty_boxes, .. } = self;
        write!(f, "{images} images, {boxes} boxes, {background} backgrounds, {corrupt} corrupt")?;
        for (count, what) in
            [(missing, "missing"), (duplicates, "duplicate labels"), (empty_boxes, "empty boxes")]
        {
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
        let all = self.corrupt + self.missing;
        if all > lines.len() {
            lines.push(format!("… and {} more such images", all - lines.len()));
        }
        lines
    }

    fn warn(&mut self, message: String, most: usize) {
        if self.messages.len() < most {
            self.messages.push(message);
        }
    }

    fn count(&mut self, labels: &LabelFile, labelled: bool) {
        let objects = labels.labels.len();
        self.images += 1;
        self.boxes += objects;
        self.background += usize::from(objects == 0);
        self.duplicates += labels.duplicates;
        self.empty_boxes += labels.empty_boxes;
        self.polygons += labels.polygons;
        self.unlabelled += usize::from(!labelled);
        *self.objects.entry(objects).or_default() += 1;
        for label in &labels.labels {
            *self.classes.entry(label.class).or_default() += 1;
        }
    }
}

/// An image to look at, and where it is named.
pub(crate) struct Listed {
    pub path: PathBuf,
    /// The list and its line, for an image named in a list.
    named_in: Option<(Arc<Path>, u32)>,
}

/// All images of a split, sorted within each folder, in file order within each list.
pub(crate) fn list(yaml: &DataYaml, key: &'static str, entries: &[String]) -> Result<Vec<Listed>, DataError> {
    let mut listed = Vec::new();
    for entry in entries {
        let place = yaml.resolve(key, entry)?;
        if place.is_dir() {
            let mut found = Vec::new();
            walk(&place, DEEPEST, &mut found)
                .map_err(|source| DataError::List { place: place.clone(), source })?;
            found.sort();
            listed.extend(found.into_iter().map(|path| Listed { path, named_in: None }));
        } else if place.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt")) {
            read_list(yaml, &place, &mut listed)?;
        } else {
            return Err(DataError::NeitherFolderNorList { file: yaml.file.clone(), key, place });
        }
    }
    Ok(listed)
}

fn walk(folder: &Path, deepest: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        // Follows links: data sets are often assembled from them. Others need no second look.
        if kind.is_dir() || (kind.is_symlink() && path.is_dir()) {
            if deepest > 0 {
                walk(&path, deepest - 1, found)?;
            }
        } else if decode::is_image_name(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn read_list(yaml: &DataYaml, file: &Path, listed: &mut Vec<Listed>) -> Result<(), DataError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| DataError::List { place: file.to_path_buf(), source })?;
    let list: Arc<Path> = Arc::from(file);
    for (index, line) in labels::without_bom(&text).lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let named_in = Some((Arc::clone(&list), u32::try_from(index + 1).unwrap_or(u32::MAX)));
        if Path::new(line).is_absolute() {
            listed.push(Listed { path: PathBuf::from(line), named_in });
            continue;
        }
        let mut candidates = Vec::new();
        candidates.extend(file.parent().map(|folder| folder.join(line)));
        candidates.extend(yaml.candidates(line));
        // CVAT writes `data/obj_train_data/…` for what lies beside the list.
        if let Some(inner) = line.strip_prefix("data/") {
            candidates.extend(yaml.candidates(inner));
        }
        let existing = candidates.iter().position(|path| path.exists());
        let path = candidates.swap_remove(existing.unwrap_or(0));
        listed.push(Listed { path, named_in });
    }
    Ok(())
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
    Corrupt(String),
    /// The labels do not belong to this data.yaml.
    WrongClass(String),
}

/// What a scan found in all.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub items: Items,
    pub report: ScanReport,
    /// Label files with class ids that the data.yaml does not name, one message each.
    pub wrong_classes: Vec<String>,
}

/// Reads headers and labels of all `listed` images on `threads` threads, and keeps up to `messages`
/// warnings word for word.
pub(crate) fn survey(
    listed: &[Listed],
    classes: usize,
    single_class: bool,
    threads: usize,
    messages: usize,
) -> Survey {
    let mut survey = Survey::default();
    let report = &mut survey.report;
    for (image, finding) in listed.iter().zip(look_at_all(listed, classes, single_class, threads)) {
        match finding {
            Finding::Usable { seen, labels, labelled } => {
                report.count(&labels, labelled);
                survey.items.push(&image.path, seen, &labels.labels);
            }
            Finding::Missing(message) => {
                report.missing += 1;
                report.warn(message, messages);
            }
            Finding::Corrupt(message) => {
                report.corrupt += 1;
                report.warn(message, messages);
            }
            Finding::WrongClass(message) => survey.wrong_classes.push(message),
        }
    }
    survey.items.shrink();
    survey
}

/// As [`survey`], for a training: wrong classes are an error.
pub(crate) fn scan(
    listed: &[Listed],
    classes: usize,
    single_class: bool,
    threads: usize,
) -> Result<(Items, ScanReport), DataError> {
    let Survey { items, report, mut wrong_classes } =
        survey(listed, classes, single_class, threads, MESSAGES);
    if wrong_classes.is_empty() {
        return Ok((items, report));
    }
    let files = wrong_classes.len();
    wrong_classes.truncate(5);
    Err(DataError::WrongClasses { files, classes, examples: wrong_classes.join("; ") })
}

fn look_at_all(listed: &[Listed], classes: usize, single_class: bool, threads: usize) -> Vec<Finding> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(image) = listed.get(index) else { return found };
            found.push((index, look_at(image, classes, single_class)));
        }
    };
    let mut findings: Vec<(usize, Finding)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let mut findings = work();
        for other in others {
            findings.extend(other.join().expect("a scan catches what decoders throw"));
        }
        findings
    });
    findings.sort_by_key(|(index, _)| *index);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

fn look_at(image: &Listed, classes: usize, single_class: bool) -> Finding {
    let path = &image.path;
    let shown = path.display();
    if !path.exists() {
        return Finding::Missing(match &image.named_in {
            Some((list, line)) => {
                format!("{}:{line}: image `{shown}` does not exist, left out", list.display())
            }
            None => format!("image `{shown}` is a link to nothing, left out"),
        });
    }
    let seen = match decode::look(path) {
        Ok(seen) => seen,
        Err(error) => return Finding::Corrupt(format!("{shown}: {error}, image left out")),
    };
    let [width, height] = seen.size;
    if width.min(height) < SMALLEST_SIDE {
        return Finding::Corrupt(format!(
            "{shown}: is {width}x{height} pixels, less than {SMALLEST_SIDE} on a side, image left out"
        ));
    }
    let label_file = labels::label_path(path);
    let (text, labelled) = match std::fs::read_to_string(&label_file) {
        Ok(text) => (text, true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (String::new(), false),
        Err(error) => {
            return Finding::Corrupt(format!("{}: {error}, image left out", label_file.display()));
        }
    };
    match labels::parse(&text, classes, single_class) {
        Ok(labels) => Finding::Usable { seen, labels, labelled },
        Err(error) => {
            let message = format!("{}:{}: {error}", label_file.display(), error.line());
            match error {
                LabelError::Class { .. } => Finding::WrongClass(message),
                _ => Finding::Corrupt(format!("{message}, image left out")),
            }
        }
    }
}
