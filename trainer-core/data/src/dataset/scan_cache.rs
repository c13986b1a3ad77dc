//! The results of scans, kept beside the image cache, so that the next job with the same files opens at once. A file is
//! named after the paths and stamps of all images and label files, so it is never stale. A damaged one is made again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use sha2::{Digest, Sha256};
use trainyard_files::write_atomically_shared;

use super::index::ImageIndex;
use super::listing::ListedImage;
use super::scan::ScanReport;
use crate::activity;
use crate::chunks::map_chunks;
use crate::files::{FileStamp, checksum, mark_as_used};
use crate::labels::LabelRules;

/// Changes with the layout, the rules for labels, and which images are read.
const MAGIC: [u8; 8] = *b"TYLABEL\x06";
/// Extension of the cache's files.
pub(crate) const SUFFIX: &str = "tylabels";
/// Bytes of the header: magic, checksum of all behind it, length of the report.
const HEADER_BYTES: usize = 24;

/// The cache file of one split.
#[derive(Debug)]
pub(crate) struct ScanCacheFile {
    path: PathBuf,
    /// Whether the stamps that it is named after would show any later change; only then it may be written.
    is_settled: bool,
}

/// The cache file in `directory` of the `listed` images, whose labels are read by `rules`. Stamps are taken by
/// `threads` threads.
pub(crate) fn find(
    directory: &Path,
    listed: &[ListedImage],
    rules: &LabelRules,
    threads: usize,
) -> ScanCacheFile {
    let mut hash = Sha256::new();
    let mut is_settled = true;
    hash.update(MAGIC);
    let LabelRules { classes, single_class, keypoints } = *rules;
    let [points, each] = keypoints.unwrap_or_default();
    for number in [classes, usize::from(single_class), points, each] {
        hash.update((number as u64).to_le_bytes());
    }
    for (digest, settled) in map_chunks(listed, threads, digest_of) {
        hash.update(digest);
        is_settled &= settled;
    }
    let path = directory.join(hex::encode(&hash.finalize()[..16])).with_extension(SUFFIX);
    ScanCacheFile { path, is_settled }
}

/// A digest of paths and stamps, and whether all stamps are settled.
fn digest_of(listed: &[ListedImage]) -> (Vec<u8>, bool) {
    let (mut hash, mut is_settled) = (Sha256::new(), true);
    let mut last = None;
    for image in listed {
        // The report names the folders where labels are looked for, so they are a part of the name.
        if !last.replace(&image.labels).is_some_and(|last| Arc::ptr_eq(last, &image.labels)) {
            hash.update(image.labels.folders()[0].as_os_str().as_encoded_bytes());
        }
        activity::tick();
        let path = image.path.as_os_str().as_encoded_bytes();
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path);
        let stamp = |path: &Path| FileStamp::of(path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        let label = image.labels.find(&image.path, stamp).ok().flatten();
        hash.update([label.as_ref().map_or(2, |label| u8::from(label.is_first))]);
        for stamp in [FileStamp::of(&image.path), label.map(|label| label.content)] {
            hash.update(stamp.map_or(0, FileStamp::number).to_le_bytes());
            is_settled &= stamp.is_none_or(|stamp| stamp.settled().is_some());
        }
    }
    (hash.finalize().to_vec(), is_settled)
}

/// The index and the report of an earlier scan; `None` when there is none, or the file is damaged.
pub(crate) fn read(ScanCacheFile { path, .. }: &ScanCacheFile) -> Option<(ImageIndex, ScanReport)> {
    let bytes = fs::read(path).ok()?;
    // Eviction goes by age.
    let _ = fs::File::options().read(true).write(true).open(path).and_then(|file| mark_as_used(&file));
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    if bytes.get(..8)? != MAGIC || word(8)? != checksum(&bytes[16..]) {
        return None;
    }
    let (report, images) = bytes.get(HEADER_BYTES..)?.split_at_checked(usize::try_from(word(16)?).ok()?)?;
    Some((ImageIndex::decode(images)?, serde_json::from_slice(report).ok()?))
}

/// Keeps the result of a scan. It is a cache only: a file that cannot be written is no error.
pub(crate) fn write(
    ScanCacheFile { path, is_settled }: &ScanCacheFile,
    images: &ImageIndex,
    report: &ScanReport,
) {
    if !is_settled {
        return;
    }
    let Ok(report) = serde_json::to_vec(report) else { return };
    let mut bytes = Vec::from(MAGIC);
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&(report.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&report);
    images.encode(&mut bytes);
    let sum = checksum(&bytes[16..]).to_le_bytes();
    bytes[8..16].copy_from_slice(&sum);
    let Some(folder) = path.parent() else { return };
    // Another job may be scanning the same files. What fails here is scanned again by the next one.
    let _ = fs::create_dir_all(folder).and_then(|()| write_atomically_shared(path, &bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{DataYaml, Dataset, OpenOptions, Split};
    use crate::test_data::{TestData, settle};

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
        let cached = ScanCacheFile { path: file, is_settled: true };
        assert_eq!(read(&cached), Some((plain.images.clone(), plain.report.clone())));
        assert_eq!(open(&data), plain);
        assert_eq!(files(&data).len(), 1);
        data.write("labels/train/001.txt", b"1 .5 .5 .25 .25\n0 .5 .5 .1 .1\n");
        assert_eq!(open(&data).images.labels(1).len(), 2);
        settle(&data.path("labels/train/001.txt"));
        assert_eq!(open(&data).images.labels(1).len(), 2);
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
        assert_eq!((before.images.labels(1)[0].class, after.images.labels(1)[0].class), (1, 0));
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
        let cached = ScanCacheFile { path: files(&data).remove(0), is_settled: true };
        assert_eq!(read(&cached), Some((first.images.clone(), first.report.clone())));
        assert_eq!(open(&data), first);
    }

    #[test]
    fn nothing_is_kept_of_files_that_could_change_again_unnoticed() {
        let data = TestData::new(2, 1);
        let yaml = DataYaml::read(&data.path("data.yaml")).unwrap();
        let listed = crate::dataset::listing::list(&yaml, "train", &yaml.train).unwrap().images;
        let plain = data.open(Split::Train);
        let mut cached = find(&data.path("cache"), &listed, &RULES, 1);
        cached.is_settled = false;
        write(&cached, &plain.images, &plain.report);
        assert_eq!(read(&cached), None);
        cached.is_settled = true;
        write(&cached, &plain.images, &plain.report);
        assert!(read(&cached).is_some());
    }

    #[test]
    fn the_name_of_a_file_does_not_depend_on_the_number_of_threads() {
        let data = TestData::new(7, 1);
        let yaml = DataYaml::read(&data.path("data.yaml")).unwrap();
        let listed = crate::dataset::listing::list(&yaml, "train", &yaml.train).unwrap().images;
        let name = |threads| find(&data.path("cache"), &listed, &RULES, threads).path;
        assert_eq!([name(2), name(5)], [name(1), name(1)]);
    }

    #[test]
    fn labels_that_appear_in_a_better_place_and_rows_that_mean_something_else_are_read_again() {
        let data = TestData::new(2, 1);
        std::fs::rename(data.path("labels/train/001.txt"), data.path("images/train/001.txt")).unwrap();
        settle(&data.path("images/train/001.txt"));
        assert_eq!(open(&data).images.labels(1).len(), 1);
        assert_eq!(open(&data), data.try_open(Split::Train).unwrap());
        data.write("labels/train/001.txt", b"0 .5 .5 .1 .1\n1 .5 .5 .3 .3\n");
        assert_eq!(open(&data).images.labels(1).len(), 2);
        data.write("labels/train/001.txt", b"0 .5 .5 .1 .1 .0 .0 .9 .9\n");
        settle(&data.path("labels/train/001.txt"));
        assert_eq!(open(&data).images.labels(1)[0].cxcywh[2], 0.9);
        data.write("data.yaml", b"train: images/train\nval: images/val\nnames: [a, b]\nkpt_shape: [2, 2]\n");
        assert_eq!(open(&data).images.labels(1)[0].cxcywh[2], 0.1);
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
