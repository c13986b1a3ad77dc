//! Counts the boxes of label files, by the trainer's own rules. Pure.

use std::collections::BTreeSet;

use trainyard_types::labels::{self, LabelRules};
use trainyard_types::text;

use super::tree::{Label, Tree};
use super::{ClassCount, MarkedBox, Sample, SplitImages, Summary};

/// Classes, and boxes of one picture, that are told at most: pushes of others may say anything.
const CLASSES: usize = 10_000;
const BOXES: usize = 500;

/// A summary while its label files are counted.
#[derive(Debug)]
pub struct Count {
    summary: Summary,
    /// The places of the samples' images, in their order.
    samples: Vec<usize>,
    rules: LabelRules,
}

impl Count {
    pub fn new(tree: &Tree) -> Self {
        let images =
            tree.splits.iter().map(|(split, count)| SplitImages { split: split.clone(), count: *count });
        let class = |name: &String| ClassCount { name: name.clone(), ..ClassCount::default() };
        let sample = |(_, path, split): &(usize, String, String)| Sample {
            path: path.clone(),
            split: split.clone(),
            boxes: Vec::new(),
        };
        let summary = Summary {
            images: images.collect(),
            classes: tree.names.iter().map(class).collect(),
            samples: tree.samples.iter().map(sample).collect(),
            partial: tree.partial,
            rules: 0,
        };
        let samples = tree.samples.iter().map(|(place, ..)| *place).collect();
        // Where the data.yaml does not tell its classes, there may be any.
        let classes = if tree.names.is_empty() { CLASSES } else { tree.names.len() };
        let rules = LabelRules { classes, single_class: false, keypoints: tree.keypoints };
        Self { summary, samples, rules }
    }

    /// Takes a label file. One with a row that cannot be used counts as nothing: a training leaves its image out.
    pub fn take(&mut self, label: &Label, bytes: &[u8]) {
        let Ok(text) = text::decode(bytes) else { return };
        let Ok(file) = labels::parse(&text, &self.rules) else { return };
        let mut seen = BTreeSet::new();
        let mut boxes = Vec::new();
        for labels::Label { class: id, cxcywh } in file.labels {
            let class = id as usize;
            let classes = &mut self.summary.classes;
            if classes.len() <= class {
                classes.resize_with(class + 1, ClassCount::default);
            }
            classes[class].boxes += 1;
            if seen.insert(class) {
                classes[class].images += 1;
            }
            if label.sample.is_some() && boxes.len() < BOXES {
                let [x, y, width, height] = cxcywh;
                boxes.push(MarkedBox { class: id, x, y, width, height });
            }
        }
        let sample = label.sample.and_then(|place| self.samples.iter().position(|sample| *sample == place));
        if let Some(sample) = sample {
            self.summary.samples[sample].boxes = boxes;
        }
    }

    pub fn finish(self) -> Summary {
        self.summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(count: Count) -> Vec<(u64, u64)> {
        count.finish().classes.iter().map(|class| (class.boxes, class.images)).collect()
    }

    #[test]
    fn what_a_training_takes_is_counted_and_nothing_else() {
        let names = ["cell", "disc", "dust"].map(str::to_owned).to_vec();
        let samples = vec![(7, "images/a.jpg".into(), "train".into())];
        let tree = Tree { names, samples, ..Tree::default() };
        let mut count = Count::new(&tree);
        let sample = Label { file: 1, sample: Some(7) };
        let other = Label { file: 2, sample: None };
        // A byte order mark, a row that is there twice, a polygon, a blank line, and a box without area.
        let text = "\u{feff}0 0.5 0.5 0.2 0.1\r\n0 0.5 0.5 0.2 0.1\r\n2 0.1 0.2 0.3 0.2 0.3 0.6\r\n\r\n0 .5 .5 0 .1\r\n";
        count.take(&sample, text.as_bytes());
        // One bad row, and a training leaves the image out.
        for text in ["0 .5 .5 .1 .1\n3 .5 .5 .1 .1", "0 .5 .5 .1 .1\nx y", "0 .5 .5 .1 .1\n0 .5 .5 .1 7"] {
            count.take(&other, text.as_bytes());
        }
        count.take(&other, b"0 0.5 0.5 0.2 0.1\xff");
        count.take(&other, b"0 0.5 0.5 0.2 0.1");
        let summary = count.finish();
        let told: Vec<_> = summary.classes.iter().map(|class| (class.boxes, class.images)).collect();
        assert_eq!(told, [(2, 2), (0, 0), (1, 1)]);
        let boxes = &summary.samples[0].boxes;
        assert_eq!((boxes.len(), boxes[1].class), (2, 2));
        let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(near(boxes[1].x, 0.2) && near(boxes[1].height, 0.4), "{boxes:?}");
    }

    #[test]
    fn points_are_read_as_the_data_yaml_says_and_unnamed_classes_are_bounded() {
        let mut count = Count::new(&Tree { keypoints: Some([1, 3]), ..Tree::default() });
        count.take(&Label { file: 1, sample: None }, b"0 0.5 0.5 0.2 0.1 0.3 0.3 2\n1 .1 .1 .1 .1");
        count.take(&Label { file: 2, sample: None }, b"99999999 .5 .5 .1 .1");
        assert_eq!(counts(count), [(1, 1), (1, 1)]);
    }
}
