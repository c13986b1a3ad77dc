//! Counts the boxes of label files. Pure.

use std::collections::BTreeSet;

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
    has_keypoints: bool,
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
        };
        let samples = tree.samples.iter().map(|(place, ..)| *place).collect();
        Self { summary, samples, has_keypoints: tree.has_keypoints }
    }

    /// Takes a label file; lines that are none are left out.
    pub fn take(&mut self, label: &Label, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let marked = text.lines().filter_map(|line| parse(line, self.has_keypoints));
        let mut seen = BTreeSet::new();
        let mut boxes = Vec::new();
        for found in marked {
            let class = found.class as usize;
            if class >= CLASSES {
                continue;
            }
            let classes = &mut self.summary.classes;
            if classes.len() <= class {
                classes.resize_with(class + 1, ClassCount::default);
            }
            classes[class].boxes += 1;
            if seen.insert(class) {
                classes[class].images += 1;
            }
            if label.sample.is_some() && boxes.len() < BOXES {
                boxes.push(found);
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

/// A line `CLASS X Y WIDTH HEIGHT`, or `CLASS X Y X Y …` around a shape, whose box counts.
fn parse(line: &str, has_keypoints: bool) -> Option<MarkedBox> {
    let mut words = line.split_ascii_whitespace();
    let class = words.next()?.parse::<f32>().ok().filter(|class| *class >= 0.0 && class.fract() == 0.0)?;
    let numbers: Vec<f32> = words.map_while(|word| word.parse().ok()).collect();
    // Class ids are small whole numbers.
    let class = class as u32;
    if let [x, y, width, height] = numbers[..] {
        return Some(MarkedBox { class, x, y, width, height });
    }
    if has_keypoints && let [x, y, width, height, ..] = numbers[..] {
        return Some(MarkedBox { class, x, y, width, height });
    }
    if numbers.len() < 6 {
        return None;
    }
    let range = |first: usize| {
        let along = numbers.iter().skip(first).step_by(2);
        along.fold((f32::MAX, f32::MIN), |(least, most), number| (least.min(*number), most.max(*number)))
    };
    let ((left, right), (top, bottom)) = (range(0), range(1));
    Some(MarkedBox {
        class,
        x: f32::midpoint(left, right),
        y: f32::midpoint(top, bottom),
        width: right - left,
        height: bottom - top,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_shapes_and_points_are_counted_and_nonsense_is_not() {
        let tree = Tree {
            names: vec!["cell".into()],
            samples: vec![(7, "images/a.jpg".into(), "train".into())],
            ..Tree::default()
        };
        let mut count = Count::new(&tree);
        let text = b"0 0.5 0.5 0.2 0.1\n2 0.1 0.2 0.3 0.2 0.3 0.6\n\nx y\n0 0.1\n-1 1 1 1 1\n99999999 1 1 1 1\n0 0.2 0.2 0.1 0.1";
        count.take(&Label { file: 1, sample: Some(7) }, text);
        count.take(&Label { file: 2, sample: None }, b"0 0.5 0.5 0.2 0.1\xff\n0 0.5 0.5 0.2 0.1");
        let summary = count.finish();
        let counts: Vec<_> = summary.classes.iter().map(|class| (class.boxes, class.images)).collect();
        assert_eq!(counts, [(3, 2), (0, 0), (1, 1)]);
        let boxes = &summary.samples[0].boxes;
        assert_eq!(boxes.len(), 3);
        assert_eq!(boxes[1].class, 2);
        let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(near(boxes[1].x, 0.2) && near(boxes[1].height, 0.4), "{boxes:?}");
        assert_eq!(parse("0 0.5 0.5 0.2 0.1 0.3 0.3 2", true).map(|found| found.width), Some(0.2));
    }
}
