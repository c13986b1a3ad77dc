//! A small data set on disk, for tests of what reads one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use tempfile::TempDir;

use trainyard_data::CacheMode;
use trainyard_data::DataYaml;
use trainyard_data::cache::disk::{CacheDir, Limits};
use trainyard_data::dataset::{DataError, Dataset, OpenOptions, Split};

/// `images/train`, `images/val`, their labels and a data.yaml of two classes.
pub(crate) struct TestData {
    folder: TempDir,
}

impl TestData {
    /// With so many images in each split, all different in size and content, one box each.
    pub fn new(train: usize, val: usize) -> Self {
        let data = Self { folder: tempfile::tempdir().unwrap() };
        data.write("data.yaml", b"train: images/train\nval: images/val\nnames: [square, disc]\n");
        for (split, count) in [("train", train), ("val", val)] {
            for index in 0..count {
                data.write_image(&format!("images/{split}/{index:03}.jpg"), index);
                let label = format!("{} 0.5 0.5 0.4 0.3\n", index % 2);
                data.write(&format!("labels/{split}/{index:03}.txt"), label.as_bytes());
            }
        }
        data
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Room for a disk cache beside the images, however full the machine's disk is.
    pub fn cache(&self) -> CacheMode {
        CacheMode::Disk(roomy(self.path("cache")))
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// An image whose content and size depend on `number`.
    pub fn write_image(&self, name: &str, number: usize) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        picture(number).save(path).unwrap();
    }

    pub fn try_open(&self, split: Split) -> Result<Dataset, DataError> {
        let yaml = DataYaml::read(&self.path("data.yaml"))?;
        let dataset = Dataset::open(&yaml, split, &OpenOptions { threads: 3, ..OpenOptions::default() })?;
        dataset.require_label_files(&yaml)?;
        Ok(dataset)
    }

    pub fn open(&self, split: Split) -> Arc<Dataset> {
        Arc::new(self.try_open(split).unwrap())
    }
}

/// A cache directory that takes what it needs.
pub(crate) fn roomy(directory: PathBuf) -> CacheDir {
    let limits = Limits { quota_bytes: Some(u64::MAX), floor_bytes: Some(0) };
    CacheDir { directory, limits }
}

fn picture(number: usize) -> RgbImage {
    let number = u32::try_from(number).unwrap();
    let (width, height) = (60 + number * 7 % 40, 50 + number * 13 % 50);
    RgbImage::from_fn(width, height, |x, y| {
        let byte = |value: u32| u8::try_from(value % 256).unwrap();
        image::Rgb([byte(x * 3 + number * 31), byte(y * 4 + number * 17), byte((x + y) * 2 + number)])
    })
}

/// Waits until the file system's clock has moved on so far that a change to `file` shows in its stamp.
pub(crate) fn settle(file: &Path) {
    while trainyard_data::files::FileStamp::of(file).unwrap().settled().is_none() {
        std::thread::yield_now();
    }
}

/// Cuts a file to half its length.
pub(crate) fn truncate(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}
