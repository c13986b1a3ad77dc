//! Which classes are taken for which: detections matched with objects whatever their classes.

use trainyard_data::Object;

use crate::eval::map::iou;
use crate::eval::nms::Detection;

/// Detections that are less sure do not count.
const MIN_CONFIDENCE: f32 = 0.25;
/// A detection finds an object when they overlap by more than this.
const MIN_IOU: f64 = 0.45;

/// Counts of (predicted class, true class); the class behind the last is the background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// Row by row: predicted.
    counts: Vec<u64>,
}

impl Confusion {
    /// Nothing counted yet.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; (classes + 1) * (classes + 1)] }
    }

    /// Classes, without the background.
    pub const fn classes(&self) -> usize {
        self.classes
    }

    /// How often `truth` was taken for `predicted`. Either may be the background, [`Confusion::classes`]:
    /// a predicted background is an object that was missed, a true one a detection of nothing.
    ///
    /// # Panics
    /// When one of them is larger.
    pub fn count(&self, predicted: usize, truth: usize) -> u64 {
        assert!(predicted <= self.classes && truth <= self.classes, "a class or the background");
        self.counts[predicted * (self.classes + 1) + truth]
    }

    /// Adds an image. Of all pairs that overlap enough, those that overlap most are matched first.
    ///
    /// # Panics
    /// When a class is out of range.
    pub fn add(&mut self, detections: &[Detection], truths: &[Object]) {
        let confident: Vec<&Detection> =
            detections.iter().filter(|found| found.score > MIN_CONFIDENCE).collect();
        let mut pairs = Vec::new();
        for (at, found) in confident.iter().enumerate() {
            for (of, truth) in truths.iter().enumerate() {
                let overlap = iou(found.xyxy, truth.xyxy);
                if overlap > MIN_IOU {
                    pairs.push((overlap, at, of));
                }
            }
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut taken = vec![None; truths.len()];
        let mut used = vec![false; confident.len()];
        for (_, at, of) in pairs {
            if !used[at] && taken[of].is_none() {
                used[at] = true;
                taken[of] = Some(confident[at].class as usize);
            }
        }
        let background = self.classes;
        for (truth, predicted) in truths.iter().zip(taken) {
            self.increment(predicted.unwrap_or(background), truth.class as usize);
        }
        for (found, used) in confident.iter().zip(used) {
            if !used {
                self.increment(found.class as usize, background);
            }
        }
    }

    fn increment(&mut self, predicted: usize, truth: usize) {
        self.counts[predicted * (self.classes + 1) + truth] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detection(x: f32, score: f32, class: u32) -> Detection {
        Detection { xyxy: [x, 0.0, x + 10.0, 10.0], score, class }
    }

    fn truth(x: f32, class: u32) -> Object {
        Object { class, xyxy: [x, 0.0, x + 10.0, 10.0] }
    }

    #[test]
    fn hits_mistakes_misses_and_inventions_each_have_their_cell() {
        let mut found = Confusion::new(2);
        let detections = [
            detection(0.0, 0.9, 0),
            detection(50.0, 0.5, 0),
            detection(200.0, 0.5, 1),
            detection(300.0, 0.2, 1),
        ];
        found.add(&detections, &[truth(0.0, 0), truth(50.0, 1), truth(100.0, 1)]);
        let nonzero: Vec<(usize, usize, u64)> = (0..3)
            .flat_map(|row| (0..3).map(move |column| (row, column)))
            .map(|(row, column)| (row, column, found.count(row, column)))
            .filter(|cell| cell.2 > 0)
            .collect();
        assert_eq!(nonzero, [(0, 0, 1), (0, 1, 1), (1, 2, 1), (2, 1, 1)]);
    }

    #[test]
    fn the_closest_detection_gets_the_object_even_if_another_is_surer() {
        let mut found = Confusion::new(2);
        found.add(&[detection(2.0, 0.9, 1), detection(0.0, 0.3, 0)], &[truth(0.0, 0)]);
        assert_eq!((found.count(0, 0), found.count(1, 2), found.count(1, 0)), (1, 1, 0));
    }
}
