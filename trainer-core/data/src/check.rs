//! The check of a data set before anybody waits for a GPU: every problem of every split at once.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Serialize;
use trainyard_types::text::clean;

use crate::dataset::listing::{self, ListedImage, Listing};
use crate::dataset::notes::{MissingLabels, has_label_file, no_labels_error, split_notes, unseen_classes};
use crate::dataset::scan::{self, ScanOutcome, ScanReport};
use crate::dataset::{DataError, DataYaml, ImageIndex, Split, share};

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
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CheckReport {
    /// Class names by id.
    pub names: Vec<String>,
    /// One report for each split that can be listed.
    pub splits: Vec<SplitReport>,
    /// Problems for which a training would not start: one sentence each.
    pub errors: Vec<String>,
    /// Problems that a training would leave out or mend: one sentence each.
    pub warnings: Vec<String>,
    /// How many problems `errors` tell of. One sentence may tell of many: "… and 99000 more such label files".
    pub error_count: usize,
    /// How many problems `warnings` tell of.
    pub warning_count: usize,
}

impl CheckReport {
    /// Whether a training would start.
    pub fn is_usable(&self) -> bool {
        self.errors.is_empty()
    }

    /// Adds sentences, each about one problem.
    fn warn(&mut self, sentences: impl IntoIterator<Item = String>) {
        let before = self.warnings.len();
        self.warnings.extend(sentences);
        self.warning_count += self.warnings.len() - before;
    }

    /// Adds a sentence about one problem.
    fn fail(&mut self, sentence: String) {
        self.errors.push(sentence);
        self.error_count += 1;
    }

    /// Adds what the scan of the split `key` has left out.
    fn take_left_out(&mut self, key: &str, found: &ScanReport) {
        self.warnings.extend(found.warnings().into_iter().map(|message| format!("{key}: {message}")));
        self.warning_count += found.warning_count();
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

/// The part of a data set that a check looks at.
#[derive(Clone, Copy)]
pub struct CheckOptions<'a> {
    /// Number of threads that scan.
    pub threads: usize,
    /// Whether every class counts as one.
    pub single_cls: bool,
    /// Share of the training images that is looked at, above 0 and up to 1: the first ones.
    pub fraction: f64,
    /// Whether the test split is looked at, too, which trainings do not read.
    pub with_test: bool,
    /// Whether nothing is scanned unless every split can be listed: many machines may be asked for one that has them all.
    pub lists_first: bool,
    /// Whether images in a folder may be read.
    pub allowed: &'a dyn Fn(&Path) -> bool,
}

impl CheckOptions<'_> {
    /// Everything, wherever it lies.
    pub fn all(threads: usize) -> Self {
        Self {
            threads,
            single_cls: false,
            fraction: 1.0,
            with_test: true,
            lists_first: false,
            allowed: &|_| true,
        }
    }
}

/// Scans everything that a data.yaml names, with `threads` threads.
pub fn check(file: &Path, threads: usize) -> CheckReport {
    Checked::of(file, &CheckOptions::all(threads)).report
}

/// A check's report, and what it read of the data set.
#[derive(Debug)]
pub struct Checked {
    pub report: CheckReport,
    /// Those of the report's errors that are about a whole split, or the data.yaml: a machine that lacks a share has such.
    pub failures: Vec<DataError>,
    /// The data.yaml; `None` when it cannot be read.
    pub yaml: Option<DataYaml>,
    /// The images of each split that can be listed.
    pub(crate) splits: Vec<CheckedSplit>,
}

impl Checked {
    /// Scans what `options` say of a data.yaml.
    pub fn of(file: &Path, options: &CheckOptions<'_>) -> Self {
        let report = CheckReport::default();
        let mut checked = Self { report, failures: Vec::new(), yaml: None, splits: Vec::new() };
        let yaml = match DataYaml::read(file) {
            Ok(yaml) => yaml,
            Err(error) => {
                checked.fail(error.into());
                return checked;
            }
        };
        checked.report.names.clone_from(&yaml.names);
        let notes = yaml.notes.iter().map(|note| format!("{}: {note}", file.display()));
        checked.report.warn(notes);
        let wanted = [(Split::Train, &yaml.train), (Split::Val, &yaml.val), (Split::Test, &yaml.test)];
        let listed: Vec<_> = wanted
            .into_iter()
            .filter(|(split, entries)| !entries.is_empty() && (*split != Split::Test || options.with_test))
            .filter_map(|(split, entries)| {
                Some((split, entries, checked.list(&yaml, split, entries, options)?))
            })
            .collect();
        if checked.failures.is_empty() || !options.lists_first {
            for (split, entries, listing) in listed {
                checked.scan_split(&yaml, split, entries, listing, options);
            }
        }
        checked.yaml = Some(yaml);
        checked
    }

    fn fail(&mut self, error: DataError) {
        self.report.fail(error.to_string());
        self.failures.push(error);
    }

    /// The images of a split that can be listed.
    fn list(
        &mut self,
        yaml: &DataYaml,
        split: Split,
        entries: &[String],
        options: &CheckOptions<'_>,
    ) -> Option<Listing> {
        match list_allowed(yaml, split, entries, options) {
            Ok(listing) => return Some(listing),
            // Trainings do not read the test split.
            Err(error) if split == Split::Test => self.report.warn([error.to_string()]),
            Err(error) => self.fail(error),
        }
        None
    }

    fn scan_split(
        &mut self,
        yaml: &DataYaml,
        split: Split,
        entries: &[String],
        listing: Listing,
        options: &CheckOptions<'_>,
    ) {
        let (key, report) = (split.key(), &mut self.report);
        let Listing { images: listed, notes, .. } = listing;
        let used = &listed[..used(&listed, split, options)];
        let ScanOutcome { images, report: found, wrong_classes, wrong_unnamed, wrong_rows, .. } =
            scan::scan_all(used, &yaml.label_rules(options.single_cls), options.threads, MAX_MESSAGES);
        report.errors.extend(wrong_classes.into_iter().map(|message| format!("{key}: {message}")));
        if wrong_unnamed > 0 {
            report.errors.push(format!("{key}: … and {wrong_unnamed} more such label files"));
        }
        report.error_count += wrong_rows;
        let missing = MissingLabels::of(yaml, &found);
        let split_notes = split_notes(yaml, split, &found, missing.as_ref());
        report.take_left_out(key, &found);
        report.warn(notes.into_iter().chain(split_notes).map(|message| format!("{key}: {message}")));
        if split == Split::Train {
            report.warn(unseen_classes(&yaml.names, &found));
        }
        if split == Split::Train && !has_label_file(&listed, &found) {
            let error =
                missing.map(|missing| no_labels_error(yaml, split, found.images, &missing).to_string());
            error.into_iter().for_each(|error| report.fail(error));
        }
        if images.is_empty() && split != Split::Test {
            let (file, entries) = (yaml.file.clone(), entries.join(", "));
            report.fail(format!("{}: `{key}: {entries}` has no usable image", file.display()));
            self.failures.push(match found.messages.first() {
                Some(first) => {
                    DataError::NothingUsable { file, key, listed: used.len(), first: first.clone() }
                }
                None => DataError::Empty { file, key, entries },
            });
        }
        let most_objects = found.objects.keys().next_back().copied().unwrap_or(0);
        let histogram = histogram(&found);
        report.splits.push(SplitReport { split: key, found, most_objects, histogram });
        let (usable, left_out) = parted(listed, &images);
        self.splits.push(CheckedSplit { split, usable, left_out });
    }
}

/// How many of the listed images a training uses.
fn used(listed: &[ListedImage], split: Split, options: &CheckOptions<'_>) -> usize {
    match split {
        Split::Train if !listed.is_empty() => share(listed.len(), options.fraction),
        _ => listed.len(),
    }
}

/// The images of a split, if all that are used lie in folders that may be read.
fn list_allowed(
    yaml: &DataYaml,
    split: Split,
    entries: &[String],
    options: &CheckOptions<'_>,
) -> Result<Listing, DataError> {
    let key = split.key();
    let listing = listing::list(yaml, key, entries)?;
    let count = used(&listing.images, split, options);
    let images = listing.images[..count].iter().filter_map(|image| image.path.parent());
    let folders: BTreeSet<&Path> = listing.unreadable.iter().map(AsRef::as_ref).chain(images).collect();
    let forbidden = folders.into_iter().find(|folder| !(options.allowed)(folder)).map(Path::to_owned);
    match forbidden {
        Some(folder) => Err(DataError::NotAllowed { file: yaml.file.clone(), key, folder }),
        None => Ok(listing),
    }
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
        let (errors, warnings) = (self.error_count, self.warning_count);
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
    fn problems_that_are_told_in_sum_are_counted_one_by_one() {
        let data = TestData::new(3, 1);
        data.write("labels/train/000.txt", "7 .5 .5 .1 .1\n".repeat(100_000).as_bytes());
        data.write("labels/train/001.txt", "0 .5 .5 9 .1\n".repeat(50).as_bytes());
        let report = check(&data.path("data.yaml"), 2);
        assert_eq!((report.errors.len(), report.error_count), (21, 100_000), "{report}");
        assert!(report.errors[20].ends_with("000.txt: 99980 more rows cannot be used"), "{report}");
        // And a class that no training image has.
        assert_eq!((report.warnings.len(), report.warning_count), (22, 51), "{report}");
        assert!(report.to_string().contains("\n100000 errors, 51 warnings: "), "{report}");
    }

    #[test]
    fn what_a_training_does_not_read_is_no_error_of_its_check() {
        let data = TestData::new(4, 2);
        data.write("labels/train/003.txt", b"7 .5 .5 .1 .1\n");
        data.write("data.yaml", b"train: images/train\nval: images/val\ntest: nowhere\nnames: [a, b]\n");
        let check = |options: CheckOptions<'_>| Checked::of(&data.path("data.yaml"), &options);
        let training = CheckOptions { with_test: false, ..CheckOptions::all(2) };
        let checked = check(training);
        assert_eq!((checked.report.errors.len(), checked.failures.len()), (1, 0), "{}", checked.report);
        assert!(!checked.report.warnings.iter().any(|text| text.contains("nowhere")), "{}", checked.report);
        for options in
            [CheckOptions { fraction: 0.5, ..training }, CheckOptions { single_cls: true, ..training }]
        {
            assert!(check(options).report.is_usable());
        }
        let refused = check(CheckOptions { allowed: &|folder| !folder.ends_with("images/val"), ..training });
        assert!(matches!(&refused.failures[..], [DataError::NotAllowed { key: "val", .. }]), "{refused:?}");
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
