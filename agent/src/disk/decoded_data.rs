//! Which data sets are decoded on this machine (warm caches). They are kept in one small file, and told to the scheduler as
//! long as the images are there. Without the file a job may be placed on another machine than the best one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trainyard_files::write_atomically;

/// So many data sets are remembered, those told last.
const MOST: usize = 256;

/// A data set that is decoded at one image size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// The data set as jobs name it.
    data: String,
    /// Pixels along an image's side.
    imgsz: u32,
    /// The files that hold its images; all of them must be there.
    files: Vec<PathBuf>,
}

/// The decoded data sets, and the file that keeps them.
#[derive(Debug, Default)]
pub struct DecodedDataSets {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl DecodedDataSets {
    /// Reads the file in `data_dir`; one that is missing or damaged counts as empty.
    pub fn load(data_dir: &Path) -> Self {
        let path = data_dir.join("cached.json");
        let mut entries: Vec<Entry> =
            serde_json::from_slice(&fs::read(&path).unwrap_or_default()).unwrap_or_default();
        entries.iter_mut().flat_map(|entry| &mut entry.files).for_each(follow);
        Self { path, entries }
    }

    /// Adds what a trainer told: `files` hold all images of `data`.
    ///
    /// # Errors
    /// The disk's; what was told counts until the agent ends.
    pub fn note(&mut self, data: String, imgsz: u32, files: Vec<PathBuf>) -> io::Result<()> {
        let entry = Entry { data, imgsz, files };
        if self.entries.last() == Some(&entry) {
            return Ok(());
        }
        self.entries.retain(|other| (&other.data, other.imgsz) != (&entry.data, entry.imgsz));
        self.entries.push(entry);
        let surplus = self.entries.len().saturating_sub(MOST);
        self.entries.drain(..surplus);
        self.save()
    }

    /// The data sets whose files are still there, with their image sizes. The others are forgotten.
    pub fn present(&mut self) -> Vec<(String, u32)> {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.files.iter().all(|file| file.is_file()));
        if self.entries.len() != before {
            // Whether the files are there is checked again before the data sets are told.
            let _looked_at_again = self.save();
        }
        self.entries.iter().map(|entry| (entry.data.clone(), entry.imgsz)).collect()
    }

    fn save(&self) -> io::Result<()> {
        write_atomically(&self.path, &serde_json::to_vec(&self.entries)?)
    }
}

/// Former versions kept decoded images in `cache_dir` itself, from where they have moved to a folder of their own.
fn follow(file: &mut PathBuf) {
    let moved = file.parent().zip(file.file_name()).map(|(folder, name)| folder.join("decoded").join(name));
    if let Some(moved) = moved.filter(|moved| !file.is_file() && moved.is_file()) {
        *file = moved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_counts_as_decoded_as_long_as_all_its_files_are_there_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "pixels").unwrap();
            path
        };
        let mut decoded = DecodedDataSets::load(folder.path());
        assert_eq!(decoded.present(), []);
        let (train, val, other) = (file("train"), file("val"), file("other"));
        decoded.note("/data/a.yaml".into(), 640, vec![train, val.clone()]).unwrap();
        decoded.note("/data/a.yaml".into(), 320, vec![other.clone()]).unwrap();
        decoded.note("/data/a.yaml".into(), 320, vec![other]).unwrap();
        let mut decoded = DecodedDataSets::load(folder.path());
        assert_eq!(decoded.present(), [("/data/a.yaml".into(), 640), ("/data/a.yaml".into(), 320)]);
        fs::remove_file(val).unwrap();
        assert_eq!(decoded.present(), [("/data/a.yaml".into(), 320)]);
        file("val");
        assert_eq!(
            DecodedDataSets::load(folder.path()).present().len(),
            1,
            "another file of that name is another cache"
        );
    }

    #[test]
    fn what_was_told_longest_ago_is_forgotten_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cache");
        fs::write(&file, "pixels").unwrap();
        let mut decoded = DecodedDataSets::load(folder.path());
        for imgsz in 1..=300 {
            decoded.note("/data/a.yaml".into(), imgsz, vec![file.clone()]).unwrap();
        }
        let present = decoded.present();
        assert_eq!((present.len(), present[0].1), (MOST, 45));
        fs::write(folder.path().join("cached.json"), "[{").unwrap();
        assert_eq!(DecodedDataSets::load(folder.path()).present(), []);
    }
}
