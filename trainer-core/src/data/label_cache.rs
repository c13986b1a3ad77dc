//! What a scan found, kept beside the image cache: the next job with the same files opens at once. A file
//! is named after the paths, lengths and times of change of all images and label files, so it cannot be
//! stale; a damaged one is made again.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::data::disk_cache::format::{checksum, stamp};
use crate::data::items::Items;
use crate::data::labels::label_path;
use crate::data::scan::{Listed, ScanReport};

/// Changes with the layout and the rules for labels.
const MAGIC: [u8; 8] = *b"TYLABEL\x01";
/// Of its files.
pub(crate) const SUFFIX: &str = "tylabels";
/// Magic, checksum of all behind it, length of the report.
const HEADER_BYTES: usize = 24;

/// The file for what is `listed`.
pub(crate) fn path(
    directory: &Path,
    listed: &[Listed],
    classes: usize,
    single_class: bool,
    threads: usize,
) -> PathBuf {
    let chunk = listed.len().div_ceil(threads.max(1)).max(1);
    let mut hash = Sha256::new();
    hash.update(MAGIC);
    hash.update((classes as u64).to_le_bytes());
    hash.update([u8::from(single_class)]);
    std::thread::scope(|scope| {
        let parts: Vec<_> = listed.chunks(chunk).map(|part| scope.spawn(|| digest_of(part))).collect();
        for part in parts {
            hash.update(part.join().unwrap_or_default());
        }
    });
    hash.update((chunk as u64).to_le_bytes());
    directory.join(hex::encode(&hash.finalize()[..16])).with_extension(SUFFIX)
}

fn digest_of(listed: &[Listed]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for image in listed {
        let path = image.path.as_os_str().as_encoded_bytes();
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path);
        hash.update(stamp(&image.path).unwrap_or_default());
        hash.update(stamp(&label_path(&image.path)).unwrap_or_default());
    }
    hash.finalize().to_vec()
}

/// What was found before; `None` when nothing was, or it is damaged.
pub(crate) fn read(file: &Path) -> Option<(Items, ScanReport)> {
    let bytes = fs::read(file).ok()?;
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    if bytes.get(..8)? != MAGIC || word(8)? != checksum(&bytes[16..]) {
        return None;
    }
    let (report, items) = bytes.get(HEADER_BYTES..)?.split_at_checked(usize::try_from(word(16)?).ok()?)?;
    Some((Items::decode(items)?, serde_json::from_slice(report).ok()?))
}

/// Keeps what was found. It is a cache only: nobody minds if it cannot be written.
pub(crate) fn write(file: &Path, items: &Items, report: &ScanReport) {
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
    use crate::data::dataset::{Dataset, OpenOptions, Split};
    use crate::data::test_data::TestData;
    use crate::data::yaml::DataYaml;

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
        let plain = data.try_open(Split::Train).unwrap();
        assert_eq!(open(&data), plain);
        let file = files(&data).remove(0);
        assert_eq!(read(&file), Some((plain.items.clone(), plain.report.clone())));
        assert_eq!(open(&data), plain);
        assert_eq!(files(&data).len(), 1);
        data.write("labels/train/001.txt", b"1 .5 .5 .25 .25\n0 .5 .5 .1 .1\n");
        assert_eq!(open(&data).items.labels(1).len(), 2);
        assert_eq!(files(&data).len(), 2);
    }

    #[test]
    fn a_damaged_file_is_made_again() {
        let data = TestData::new(3, 1);
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
