//! The check of a data set before anybody waits for a GPU: every problem of every split at once.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use trainyard_types::text::clean;

use crate::dataset::listing::{self, ListedImage, Listing};
use crate::dataset::notes::{MissingLabels, has_label_file, no_labels_error, split_notes, unseen_classes};
use crate::dataset::scan::{self, ScanOutcome, ScanReport};
use crate::dataset::{DataYaml, ImageIndex, Split};

/// Problems of each split that are shown word for word; the others are counted.
const MAX_MESSAGES: usize = 1000;

/// What a check found in one split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitReport {
    /// `train`, `val` or `test`.
    pub split: &'static str,
    /// What the scan found.
    #[serde(flatten)]
    pub found: ScanReport,
    /// Number of objects in the image that has most of them.
    pub most_objects: usize,
    /// Images by number of objects, in buckets of 0, 1, 2 to 3, 4 to 7 and so on.
    pub histogram: Vec<Bucket>,
}

/// Images with a like number of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Least number of objects.
    pub from: usize,
    /// Largest number of objects.
    pub to: usize,
    /// Number of images.
    pub images: usize,
}

/// What a check found in all splits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// Class names by id.
    pub names: Vec<String>,
    /// One report for each split that can be listed.
    pub splits: Vec<SplitReport>,
    /// Problems for which a training would not start: one sentence each.
    pub errors: Vec<String>,
    /// Problems that a training would leave out or mend: one sentence each.
    pub warnings: Vec<String>,
}

impl CheckReport {
    /// Whether a training would start.
    pub fn is_usable(&self) -> bool {
        self.errors.is_empty()
    }
}

/// The images of a split, told apart by a check.
#[derive(Debug)]
pub(crate) struct CheckedSplit {
    pub split: Split,
    /// In the order in which a training has them.
    pub usable: Vec<ListedImage>,
    /// Images that a training leaves out.
    pub left_out: Vec<ListedImage>,
}

/// Scans everything that a data.yaml names, with `threads` threads.
pub fn check(file: &Path, threads: usize) -> CheckReport {
    check_and_keep(file, threads).0
}

/// As [`check`], with the images of each split that can be listed; `None` when the data.yaml cannot be read.
pub(crate) fn check_and_keep(
    file: &Path,
    threads: usize,
) -> (CheckReport, Option<(DataYaml, Vec<CheckedSplit>)>) {
    let mut report =
        CheckReport { names: Vec::new(), splits: Vec::new(), errors: Vec::new(), warnings: Vec::new() };
    let yaml = match DataYaml::read(file) {
        Ok(yaml) => yaml,
        Err(error) => {
            report.errors.push(error.to_string());
            return (report, None);
        }
    };
    report.names.clone_from(&yaml.names);
    report.warnings.extend(yaml.notes.iter().map(|note| format!("{}: {note}", file.display())));
    let mut splits = Vec::new();
    for (split, entries) in [(Split::Train, &yaml.train), (Split::Val, &yaml.val), (Split::Test, &yaml.test)]
    {
        if !entries.is_empty() {
            splits.extend(check_split(&yaml, split, entries, threads, &mut report));
        }
    }
    (report, Some((yaml, splits)))
}

fn check_split(
    yaml: &DataYaml,
    split: Split,
    entries: &[String],
    threads: usize,
    report: &mut CheckReport,
) -> Option<CheckedSplit> {
    let key = split.key();
    let Listing { images: listed, notes, .. } = match listing::list(yaml, key, entries) {
        Ok(listing) => listing,
        // Trainings do not read the test split.
        Err(error) if split == Split::Test => {
            report.warnings.push(error.to_string());
            return None;
        }
        Err(error) => {
            report.errors.push(error.to_string());
            return None;
        }
    };
    let ScanOutcome { images, report: found, wrong_classes, wrong_unnamed, .. } =
        scan::scan_all(&listed, &yaml.label_rules(false), threads, MAX_MESSAGES);
    report.errors.extend(wrong_classes.into_iter().map(|message| format!("{key}: {message}")));
    if wrong_unnamed > 0 {
        report.errors.push(format!("{key}: … and {wrong_unnamed} more such label files"));
    }
    let missing = MissingLabels::of(yaml, &found);
    let split_notes = split_notes(yaml, split, &found, missing.as_ref());
    let warnings = found.warnings().into_iter().chain(notes).chain(split_notes);
    report.warnings.extend(warnings.map(|message| format!("{key}: {message}")));
    if split == Split::Train {
        report.warnings.extend(unseen_classes(&yaml.names, &found));
    }
    if split == Split::Train && !has_label_file(&listed, &found) {
        let error = missing.map(|missing| no_labels_error(yaml, split, found.images, &missing).to_string());
        report.errors.extend(error);
    }
    if images.is_empty() && split != Split::Test {
        let file = yaml.file.display();
        report.errors.push(format!("{file}: `{key}: {}` has no usable image", entries.join(", ")));
    }
    let most_objects = found.objects.keys().next_back().copied().unwrap_or(0);
    let histogram = histogram(&found);
    report.splits.push(SplitReport { split: key, found, most_objects, histogram });
    let (usable, left_out) = parted(listed, &images);
    Some(CheckedSplit { split, usable, left_out })
}

/// Those of the `listed` images that are `usable`, which has the same order, and the others.
fn parted(listed: Vec<ListedImage>, usable: &ImageIndex) -> (Vec<ListedImage>, Vec<ListedImage>) {
    let mut next = 0;
    listed.into_iter().partition(|image| {
        let is_next = next < usable.len() && usable.path(next) == image.path;
        next += usize::from(is_next);
        is_next
    })
}

fn histogram(found: &ScanReport) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    for (objects, images) in &found.objects {
        let from = if *objects == 0 { 0 } else { 1 << objects.ilog2() };
        match buckets.last_mut().filter(|bucket| bucket.from == from) {
            Some(bucket) => bucket.images += images,
            None => buckets.push(Bucket { from, to: (2 * from).saturating_sub(1), images: *images }),
        }
    }
    buckets
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for SplitReport { split, found, most_objects, histogram } in &self.splits {
            writeln!(f, "{split}: {found}")?;
            writeln!(f, "  objects per image, at most {most_objects}:")?;
            let widest = histogram.iter().map(|bucket| bucket.images).max().unwrap_or(1);
            for Bucket { from, to, images } in histogram {
                let range = if from >= to { from.to_string() } else { format!("{from} to {to}") };
                let bar = "#".repeat((images * 40).div_ceil(widest));
                writeln!(f, "  {range:>12} {images:>8} {bar}")?;
            }
            for (class, objects) in &found.classes {
                let name = clean(self.names.get(*class as usize).map_or("", String::as_str));
                writeln!(f, "  class {class} {name}: {objects} objects")?;
            }
        }
        for (kind, messages) in [("error", &self.errors), ("warning", &self.warnings)] {
            for message in messages {
                writeln!(f, "{kind}: {}", clean(message))?;
            }
        }
        let (errors, warnings) = (self.errors.len(), self.warnings.len());
        let verdict = if self.is_usable() { "can be trained on" } else { "cannot be trained on" };
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let (s, t) = (plural(errors), plural(warnings));
        writeln!(f, "{errors} error{s}, {warnings} warning{t}: the data set {verdict}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{TestData, truncate};

    #[test]
    fn every_problem_of_every_split_is_told_at_once() {
        let data = TestData::new(6, 3);
        truncate(&data.path("images/train/001.jpg"));
        data.write("labels/train/002.txt", b"7 .5 .5 .1 .1\n");
        data.write("labels/train/003.txt", b"0 .5 .5 9 .1\n");
        data.write(
            "labels/train/004.txt",
            b"0 .5 .5 .1 .1\n0 .5 .5 .1 .1\n1 .1 .1 .4 .1 .4 .4\n1 .2 .2 .1 0\n",
        );
        std::fs::remove_file(data.path("labels/train/005.txt")).unwrap();
        data.write("images/val/001.jpg", b"<html>");
        data.write("labels/val/002.txt", b"4 .5 .5 .1 .1\n");
        let report = check(&data.path("data.yaml"), 3);
        assert!(!report.is_usable());
        assert_eq!(report.errors.len(), 2, "{:?}", report.errors);
        for (error, place) in report.errors.iter().zip(["train/002.txt:1: class 7", "val/002.txt:1: class 4"])
        {
            assert!(error.contains(place), "{error}");
        }
        for expected in [
            "train/001.jpg: is truncated",
            "train/003.txt:1: 9 is outside",
            "train: 1 label rows that repeat",
            "train: 1 label rows whose box",
            "train: 1 of 3 images without a label file",
            "train: 1 label rows are polygons",
            "val/001.jpg: is no readable image",
        ] {
            assert!(report.warnings.iter().any(|warning| warning.contains(expected)), "{expected}: {report}");
        }
        let text = report.to_string();
        assert!(
            text.contains("train: 3 images, 3 boxes") && text.contains("class 1 disc: 1 objects"),
            "{text}"
        );
        assert!(text.ends_with("2 errors, 7 warnings: the data set cannot be trained on\n"), "{text}");
    }

    #[test]
    fn every_bad_row_of_a_file_is_told_and_files_with_odd_rows_and_kinds_that_are_not_read_are_named() {
        let data = TestData::new(5, 1);
        data.write("labels/train/001.txt", b"7 .5 .5 .1 .1\n0 .5 .5 .1 .1\n0 .5 .5 .1\n8 .5 .5 .1 .1\n");
        data.write("labels/train/002.txt", b"0 .5 .5 9 .1\n0 .5 x .1 .1\n");
        data.write("labels/train/003.txt", b"0 .5 .5 .1 .1\n0 .5 .5 .1 .1\n1 1.005 .5 .1 .1\n");
        data.write("labels/train/004.txt", b"1 .2 .2 .1 0\n");
        data.write("images/train/phone.HEIC", b"whatever it is");
        let report = check(&data.path("data.yaml"), 2);
        let holds = |lines: &[String], part: &str| lines.iter().any(|line| line.contains(part));
        assert_eq!(report.errors.len(), 3, "{report}");
        for row in ["001.txt:1: class 7", "001.txt:3: 4 columns", "001.txt:4: class 8"] {
            assert!(holds(&report.errors, row), "{row}: {report}");
        }
        for row in [
            "002.txt:1: 9 is outside",
            "002.txt:2: `x` is not a number",
            "phone.HEIC: HEIC images are not read; convert it",
        ] {
            assert!(holds(&report.warnings, row), "{row}: {report}");
        }
        for (what, file) in [
            ("1 label rows that repeat another; dropped, first in ", "003.txt"),
            ("1 label rows a little outside 0 to 1; clipped, first in ", "003.txt"),
            ("1 label rows whose box has no area; dropped, first in ", "004.txt"),
        ] {
            let line = report.warnings.iter().find(|line| line.contains(what));
            assert!(line.is_some_and(|line| line.ends_with(file)), "{what}: {report}");
        }
        let found = &report.splits[0].found;
        assert_eq!((found.corrupt, found.unsupported, found.out_of_range, found.rows.clipped), (1, 1, 1, 1));
    }

    #[test]
    fn a_data_set_without_labels_cannot_be_trained_on_and_no_name_steers_a_terminal() {
        let data = TestData::new(2, 2);
        std::fs::remove_dir_all(data.path("labels")).unwrap();
        data.write("train/labels.json", b"{\"images\": []}");
        data.write("data.yaml", b"train: images/train\nval: images/val\nnames: [\"a\\e[31m\", \"b\\nc\"]\n");
        let report = check(&data.path("data.yaml"), 2);
        let [error] = &report.errors[..] else { panic!("{report}") };
        assert!(error.contains("none of the 2 images of `train` has a label file"), "{report}");
        assert!(
            report.warnings.iter().any(|text| text.starts_with("val: the validation images have no objects")),
            "{report}"
        );
        data.write("labels/train/000.txt", b"0 .5 .5 .1 .1\n1 .5 .5 .1 .1\n");
        let report = check(&data.path("data.yaml"), 2);
        assert!(report.is_usable(), "{report}");
        let text = report.to_string();
        assert!(text.contains("  class 0 a\u{FFFD}[31m: 1 objects\n  class 1 b c: 1 objects\n"), "{text}");
    }

    #[test]
    fn as_many_wrong_label_files_as_there_may_be_are_counted_after_the_first() {
        let data = TestData::new(3, 1);
        for index in 0..3 {
            data.write(&format!("labels/train/{index:03}.txt"), b"9 .5 .5 .1 .1\n");
        }
        let yaml = DataYaml::read(&data.path("data.yaml")).unwrap();
        let listed = listing::list(&yaml, "train", &yaml.train).unwrap().images;
        let found = scan::scan_all(&listed, &yaml.label_rules(false), 1, 2);
        assert_eq!((found.wrong_classes.len(), found.wrong_files, found.wrong_unnamed), (2, 3, 1));
    }

    #[test]
    fn a_good_data_set_has_a_histogram_and_no_problem() {
        let data = TestData::new(5, 2);
        data.write("labels/train/001.txt", "0 .5 .5 .1 .1\n1 .5 .5 .2 .1\n0 .4 .4 .1 .1\n".as_bytes());
        data.write("labels/train/002.txt", b"");
        let report = check(&data.path("data.yaml"), 1);
        assert!(report.is_usable() && report.warnings.is_empty(), "{report}");
        let buckets: Vec<_> =
            report.splits[0].histogram.iter().map(|bucket| (bucket.from, bucket.to, bucket.images)).collect();
        assert_eq!(buckets, [(0, 0, 1), (1, 1, 3), (2, 3, 1)]);
        assert_eq!(report.splits[0].most_objects, 3);
    }

    #[test]
    fn a_class_that_cannot_be_learnt_is_told_as_by_a_training() {
        let data = TestData::new(1, 2);
        let report = check(&data.path("data.yaml"), 1);
        assert_eq!(
            report.warnings,
            ["the training images have no object of class `disc`, which cannot be learnt"]
        );
    }

    #[test]
    fn what_is_not_there_is_an_error_with_a_way_out() {
        let report = check(Path::new("/no/data.yaml"), 1);
        assert!(report.errors[0].contains("`/no/data.yaml`"), "{report}");
        let data = TestData::new(1, 1);
        std::fs::remove_dir_all(data.path("images")).unwrap();
        let report = check(&data.path("data.yaml"), 1);
        assert_eq!(report.errors.len(), 2, "both splits: {report}");
    }
}
