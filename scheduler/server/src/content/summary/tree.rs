//! What the tree of a data set says of itself: its classes, and which label file is which image's. Pure.

use std::borrow::Cow;

use bytes::Bytes;
use trainyard_content::Manifest;

use trainyard_types::{SizeLimit, text};

/// The files at its top, in the form that every push of ours has.
pub const FILES: [&str; 4] = ["data.yaml", "train.txt", "val.txt", "test.txt"];
/// Pictures that are shown with their boxes.
const SAMPLES: usize = 24;

/// The most label files that are read, and the most bytes of them all.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    pub files: usize,
    pub bytes: u64,
}

/// A label file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its place in the manifest.
    pub file: usize,
    /// The image's place in the manifest, where the picture is a sample.
    pub sample: Option<usize>,
}

/// Classes, splits, pictures and label files of a data set.
#[derive(Debug, Default)]
pub struct Tree {
    /// Class names by id.
    pub names: Vec<String>,
    /// The shape of the points that labels have after their boxes: how many, and numbers of each.
    pub keypoints: Option<[usize; 2]>,
    /// Splits with their numbers of images.
    pub splits: Vec<(String, u64)>,
    /// Pictures that are shown, each with its split; by the image's place.
    pub samples: Vec<(usize, String, String)>,
    /// In the order of the manifest.
    pub labels: Vec<Label>,
    /// Whether label files are left out.
    pub partial: bool,
}

impl Tree {
    /// `files` are the contents of [`FILES`]; of more label files than `most` some are left out.
    pub fn of(manifest: &Manifest, files: &[Bytes], most: Most) -> Self {
        let mut tree = Self::default();
        let texts: Vec<Cow<'_, str>> =
            files.iter().map(|file| text::decode(file).unwrap_or_default()).collect();
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        tree.read_yaml(texts.first().copied().unwrap_or_default());
        let lists: Vec<(&str, Vec<&str>)> = FILES
            .iter()
            .zip(&texts)
            .skip(1)
            .map(|(name, text)| {
                let lines =
                    text.lines().map(|line| line.trim_start_matches("./")).filter(|line| !line.is_empty());
                (name.trim_end_matches(".txt"), lines.collect())
            })
            .collect();
        let all: usize = lists.iter().map(|(_, images)| images.len()).sum();
        let step = all.div_ceil(SAMPLES).max(1);
        let mut number = 0;
        for (split, images) in lists.iter().filter(|(_, images)| !images.is_empty()) {
            tree.splits.push(((*split).to_owned(), images.len() as u64));
            for image in images {
                number += 1;
                let is_sample = number % step == 0 || number == 1;
                tree.add(manifest, split, image, is_sample && tree.samples.len() < SAMPLES);
            }
        }
        tree.labels.sort_by_key(|label| label.file);
        tree.labels.dedup_by_key(|label| label.file);
        tree.leave_out(manifest, most);
        tree
    }

    fn add(&mut self, manifest: &Manifest, split: &str, image: &str, is_sample: bool) {
        let sample = manifest.find(image).filter(|_| is_sample);
        if let Some(place) = sample {
            self.samples.push((place, image.to_owned(), split.to_owned()));
        }
        let Some(file) = manifest.find(&label_of(image)) else { return };
        if SizeLimit::LABELS.check(bytes_of(manifest, file)).is_ok() {
            self.labels.push(Label { file, sample });
        } else {
            self.partial = true;
        }
    }

    fn leave_out(&mut self, manifest: &Manifest, most: Most) {
        let bytes: u64 = self.labels.iter().map(|label| bytes_of(manifest, label.file)).sum();
        let by_bytes = usize::try_from(bytes.div_ceil(most.bytes.max(1))).unwrap_or(usize::MAX);
        let step = self.labels.len().div_ceil(most.files.max(1)).max(by_bytes).max(1);
        if step > 1 {
            self.partial = true;
            let mut number = 0;
            self.labels.retain(|label| {
                number += 1;
                number % step == 0 || label.sample.is_some()
            });
        }
    }

    /// The normal form has a line `  ID: "NAME"` for each class; others tell no names.
    fn read_yaml(&mut self, text: &str) {
        let mut lines = text.lines();
        self.keypoints = text.lines().find_map(|line| {
            let [points, each] = serde_json::from_str(line.strip_prefix("kpt_shape:")?.trim()).ok()?;
            (1..=10_000).contains(&points).then_some([points, each]).filter(|_| (2..=3).contains(&each))
        });
        if lines.any(|line| line.trim_end() == "names:") {
            self.names = lines.map_while(class_of).collect();
        }
    }
}

fn bytes_of(manifest: &Manifest, file: usize) -> u64 {
    manifest.get(file).map_or(0, |entry| entry.size_bytes)
}

fn class_of(line: &str) -> Option<String> {
    let (id, name) = line.strip_prefix("  ")?.split_once(": ")?;
    id.parse::<u32>().ok()?;
    serde_json::from_str(name.trim()).ok()
}

/// Where the label file of an image lies: under the last `labels` for `images`, or beside it.
fn label_of(image: &str) -> String {
    let stem =
        image.rsplit_once('.').filter(|(_, suffix)| !suffix.contains('/')).map_or(image, |(stem, _)| stem);
    let mut parts: Vec<&str> = stem.split('/').collect();
    let folders = parts.len().saturating_sub(1);
    if let Some(images) = parts[..folders].iter().rposition(|part| *part == "images") {
        parts[images] = "labels";
    }
    format!("{}.txt", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use trainyard_content::{Builder, Digest, Kind};

    use super::*;

    #[test]
    fn labels_lie_under_labels_or_beside_their_images() {
        assert_eq!(label_of("images/train/a.b.jpg"), "labels/train/a.b.txt");
        assert_eq!(label_of("outside/0/images/images/a.png"), "outside/0/images/labels/a.txt");
        assert_eq!(label_of("pictures/a.jpg"), "pictures/a.txt");
        assert_eq!(label_of("images.v2/a"), "images.v2/a.txt");
    }

    #[test]
    fn a_tree_tells_its_classes_splits_and_some_pictures() {
        let mut builder = Builder::new(Kind::DataSet);
        builder.add("data.yaml", 1, Digest::of(b"")).unwrap();
        for (folder, suffix) in [("images", "jpg"), ("labels", "txt")] {
            for number in 100..200 {
                let path = format!("{folder}/train/{number}.{suffix}");
                builder.add(&path, 9, Digest::of(b"")).unwrap();
            }
        }
        let manifest = builder.finish().unwrap();
        let list: String = (100..200).map(|number| format!("./images/train/{number}.jpg\n")).collect();
        let yaml = "train: train.txt\nnames:\n  0: \"a cell\"\n  1: \"\\u00e9\\\"\"\nkpt_shape: [5, 3]\n";
        let files: Vec<Bytes> = vec![yaml.into(), list.into(), "./gone.jpg\n".into(), Bytes::new()];
        let most = |files| Most { files, bytes: 1 << 30 };
        let tree = Tree::of(&manifest, &files, most(1000));
        assert_eq!(tree.names, ["a cell", "é\""]);
        assert!(tree.keypoints == Some([5, 3]) && !tree.partial);
        assert_eq!(tree.splits, [("train".to_owned(), 100), ("val".to_owned(), 1)]);
        assert!((20..=24).contains(&tree.samples.len()), "{}", tree.samples.len());
        assert_eq!(tree.labels.len(), 100);
        for most in [most(30), Most { files: 1000, bytes: 300 }] {
            let tree = Tree::of(&manifest, &files, most);
            assert!(tree.partial && (25..60).contains(&tree.labels.len()), "{}", tree.labels.len());
        }
        // What says nothing of itself has nothing.
        let tree = Tree::of(&manifest, &[Bytes::from_static(b"\xff"), Bytes::new()], most(10));
        assert!(tree.names.is_empty() && tree.labels.is_empty());
    }

    #[test]
    fn a_label_file_that_no_training_reads_for_its_size_is_left_out_and_said_so() {
        let mut builder = Builder::new(Kind::DataSet);
        let large = SizeLimit::LABELS.most + 1;
        for (path, bytes) in [("data.yaml", 1), ("labels/a.txt", large), ("labels/b.txt", large - 1)] {
            builder.add(path, bytes, Digest::of(b"")).unwrap();
        }
        let manifest = builder.finish().unwrap();
        let files = [Bytes::new(), Bytes::from_static(b"\xef\xbb\xbf./images/a.jpg\r\n./images/b.jpg\r\n")];
        let tree = Tree::of(&manifest, &files, Most { files: 10, bytes: u64::MAX });
        assert_eq!((tree.labels.len(), tree.partial), (1, true));
        assert_eq!(tree.splits, [("train".to_owned(), 2)]);
    }
}
