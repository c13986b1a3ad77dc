//! What a scan found, kept beside the image cache: the next job with the same files opens at once. A file
//! is named after the paths and stamps of all images and label files, so it cannot be stale; a damaged one is
//! made again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fs, io};

use sha2::{Digest, Sha256};

use crate::disk_cache::format::checksum;
use crate::items::Items;
use crate::labels::LabelRules;
use crate::listing::Listed;
use crate::parts::by_parts;
use crate::pulse;
use crate::scan::ScanReport;
use crate::source::Stamp;

/// Changes with the layout, the rules for labels, and which images are read.
const MAGIC: [u8; 8] = *b"TYLABEL\x06";
/// Ending of the cache's files.
pub(crate) const SUFFIX: &str = "tylabels";
/// Magic, checksum of all behind it, length of the report.
const HEADER_BYTES: usize = 24;

/// A file, and whether it may be written.
#[derive(Debug)]
pub(crate) struct Known {
    file: PathBuf,
    /// Whether all that it is named after would show a change from now on.
    is_settled: bool,
}

/// The file for what is `listed`.
pub(crate) fn find(directory: &Path, listed: &[Listed], rules: &LabelRules, threads: usize) -> Known {
    let mut hash = Sha256::new();
    let mut is_settled = true;
    hash.update(MAGIC);
    let LabelRules { classes, single_class, keypoints } = *rules;
    let [points, each] = keypoints.unwrap_or_default();
    for number in [classes, usize::from(single_class), points, each] {
        hash.update((number as u64).to_le_bytes());
    }
    for (digest, settled) in by_parts(listed, threads, digest_of) {
        hash.update(digest);
        is_settled &= settled;
    }
    let file = directory.join(hex::encode(&hash.finalize()[..16])).with_extension(SUFFIX);
    Known { file, is_settled }
}

fn digest_of(listed: &[Listed]) -> (Vec<u8>, bool) {
    let (mut hash, mut is_settled) = (Sha256::new(), true);
    let mut last = None;
    for image in listed {
        // Where labels are looked for is told of, so it is a part of what is known.
        if !last.replace(&image.labels).is_some_and(|last| Arc::ptr_eq(last, &image.labels)) {
            hash.update(image.labels.folders()[0].as_os_str().as_encoded_bytes());
        }
        pulse::tick();
        let path = image.path.as_os_str().as_encoded_bytes();
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path);
        let stamp = |path: &Path| Stamp::of(path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        let label = image.labels.find(&image.path, stamp).ok().flatten();
        hash.update([label.as_ref().map_or(2, |label| u8::from(label.is_first))]);
        for stamp in [Stamp::of(&image.path), label.map(|label| label.of)] {
            hash.update(stamp.map_or(0, Stamp::number).to_le_bytes());
            is_settled &= stamp.is_none_or(|stamp| stamp.settled().is_some());
        }
    }
    (hash.finalize().to_vec(), is_settled)
}

/// What was found before; `None` when nothing was, or it is damaged.
pub(crate) fn read(Known { file, .. }: &Known) -> Option<(Items, ScanReport)> {
    let bytes = fs::read(file).ok()?;
    // Eviction goes by age.
    let _ = fs::File::options().append(true).open(file).and_then(|file| file.set_modified(SystemTime::now()));
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    if bytes.get(..8)? != MAGIC || word(8)? != checksum(&bytes[16..]) {
        return None;
    }
    let (report, items) = bytes.get(HEADER_BYTES..)?.split_at_checked(usize::try_from(word(16)?).ok()?)?;
    Some((Items::decode(items)?, serde_json::from_slice(report).ok()?))
}

/// Keeps what was found. It is a cache only: nobody minds if it cannot be written.
pub(crate) fn write(Known { file, is_settled }: &Known, items: &Items, report: &ScanReport) {
    if !is_settled {
        return;
    }
    let Ok(report) = serde_json::to_vec(report) else { return };
    let mut bytes = Vec::from(MAGIC);
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&(report.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&report);
    items.encode(&mut bytes);
    let sum = checksum(&bytes[16..]).to_le_bytes();
    bytes[8..16].copy_from_slice(&sum);
    let temporary = file.with_extension(format!("{}.part", std::process::id()));
    let Some(folder) = file.parent() else { return };
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(&temporary, &bytes))
        .and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Dataset, OpenOptions, Split};
    use crate::test_data::{TestData, settle};
    use crate::yaml::DataYaml;

    const RULES: LabelRules = LabelRules { classes: 2, single_class: false, keypoints: None };

    fn open(data: &TestData) -> Dataset {
        let yaml = DataYaml::read(&data.path("data.yaml")).unwrap();
        let options = OpenOptions { threads: 2, ..OpenOptions::default() };
        Dataset::open_cached(&yaml, Split::Train, &options, &data.path("cache")).unwrap()
    }

    fn files(data: &TestData) -> Vec<PathBuf> {
        fs::read_dir(data.path("cache")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_second_open_finds_the_same_and_a_changed_label_is_read_again() {
        let data = TestData::new(6, 1);
        data.write("labels/train/003.txt", b"0 x\n");
        settle(&data.path("labels/train/003.txt"));
        let plain = data.try_open(Split::Train).unwrap();
        assert_eq!(open(&data), plain);
        let file = files(&data).remove(0);
        let known = Known { file, is_settled: true };
        assert_eq!(read(&known), Some((plain.items.clone(), plain.report.clone())));
        assert_eq!(open(&data), plain);
        assert_eq!(files(&data).len(), 1);
        data.write("labels/train/001.txt", b"1 .5 .5 .25 .25\n0 .5 .5 .1 .1\n");
        assert_eq!(open(&data).items.labels(1).len(), 2);
        settle(&data.path("labels/train/001.txt"));
        assert_eq!(open(&data).items.labels(1).len(), 2);
        assert_eq!(files(&data).len(), 2);
    }

    #[test]
    fn a_label_that_is_rewritten_with_its_old_length_and_time_is_read_again() {
        let data = TestData::new(3, 1);
        let file = data.path("labels/train/001.txt");
        settle(&file);
        let before = open(&data);
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        data.write("labels/train/001.txt", b"0 0.5 0.5 0.4 0.3\n");
        fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        let after = open(&data);
        assert_eq!((before.items.labels(1)[0].class, after.items.labels(1)[0].class), (1, 0));
    }

    #[test]
    fn names_that_are_no_utf8_are_told_and_kept() {
        use std::os::unix::ffi::OsStrExt;
        let data = TestData::new(2, 1);
        let latin1 = data.path("images/train").join(std::ffi::OsStr::from_bytes(b"Gr\xF6\xDFe.jpg"));
        fs::rename(data.path("images/train/001.jpg"), &latin1).unwrap();
        fs::remove_file(data.path("labels/train/001.txt")).unwrap();
        settle(&latin1);
        let first = open(&data);
        assert!(
            first.report.first_unlabelled.as_ref().unwrap().ends_with("images/train/Gr\u{FFFD}\u{FFFD}e.jpg")
        );
        serde_json::to_string(&crate::check::check(&data.path("data.yaml"), 1)).unwrap();
        let known = Known { file: files(&data).remove(0), is_settled: true };
        assert_eq!(read(&known), Some((first.items.clone(), first.report.clone())));
        assert_eq!(open(&data), first);
    }

    #[test]
    fn nothing_is_kept_of_files_that_could_change_again_unnoticed() {
        let data = TestData::new(2, 1);
        let yaml = DataYaml::read(&data.path("data.yaml")).unwrap();
        let listed = crate::listing::list(&yaml, "train", &yaml.train).unwrap().images;
        let plain = data.open(Split::Train);
        let mut known = find(&data.path("cache"), &listed, &RULES, 1);
        known.is_settled = false;
        write(&known, &plain.items, &plain.report);
        assert_eq!(read(&known), None);
        known.is_settled = true;
        write(&known, &plain.items, &plain.report);
        assert!(read(&known).is_some());
    }

    #[test]
    fn the_name_of_a_file_does_not_depend_on_the_number_of_threads() {
        let data = TestData::new(7, 1);
        let yaml = DataYaml::read(&data.path("data.yaml")).unwrap();
        let listed = crate::listing::list(&yaml, "train", &yaml.train).unwrap().images;
        let name = |threads| find(&data.path("cache"), &listed, &RULES, threads).file;
        assert_eq!([name(2), name(5)], [name(1), name(1)]);
    }

    #[test]
    fn labels_that_appear_in_a_better_place_and_rows_that_mean_something_else_are_read_again() {
        let data = TestData::new(2, 1);
        std::fs::rename(data.path("labels/train/001.txt"), data.path("images/train/001.txt")).unwrap();
        settle(&data.path("images/train/001.txt"));
        assert_eq!(open(&data).items.labels(1).len(), 1);
        assert_eq!(open(&data), data.try_open(Split::Train).unwrap());
        data.write("labels/train/001.txt", b"0 .5 .5 .1 .1\n1 .5 .5 .3 .3\n");
        assert_eq!(open(&data).items.labels(1).len(), 2);
        data.write("labels/train/001.txt", b"0 .5 .5 .1 .1 .0 .0 .9 .9\n");
        settle(&data.path("labels/train/001.txt"));
        assert_eq!(open(&data).items.labels(1)[0].cxcywh[2], 0.9);
        data.write("data.yaml", b"train: images/train\nval: images/val\nnames: [a, b]\nkpt_shape: [2, 2]\n");
        assert_eq!(open(&data).items.labels(1)[0].cxcywh[2], 0.1);
    }

    #[test]
    fn a_damaged_file_is_made_again() {
        let data = TestData::new(3, 1);
        settle(&data.path("labels/val/000.txt"));
        let plain = open(&data);
        let file = files(&data).remove(0);
        let whole = fs::read(&file).unwrap();
        for at in [0, 9, 30, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            fs::write(&file, damaged).unwrap();
            assert_eq!(open(&data), plain);
            assert_eq!(fs::read(&file).unwrap(), whole);
        }
        fs::write(&file, &whole[..20]).unwrap();
        assert_eq!(open(&data), plain);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_no_matter() {
        let data = TestData::new(2, 1);
        data.write("cache", b"a file");
        assert_eq!(open(&data).len(), 2);
    }
}
