//! Matches detections with objects and sums up: precision, recall, mAP50, mAP50-95, per class and over all.

use trainyard_data::Object;

use crate::eval::ap::{Curve, interpolate, smoothed};
use crate::eval::nms::Detection;

/// IoU thresholds: 0.50, 0.55 … 0.95.
pub const THRESHOLDS: usize = 10;

/// Points of confidence at which precision and recall are compared.
const CONFIDENCES: usize = 1000;

/// Width of the window that smooths F1 over confidence.
const SMOOTHING: usize = 101;

/// The IoU that a detection needs at threshold `index`.
pub fn threshold(index: usize) -> f64 {
    0.5 + 0.05 * index as f64
}

/// Results of one class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassMetrics {
    /// The class's id.
    pub class: usize,
    /// Images with an object of it.
    pub images: usize,
    /// Objects of it.
    pub instances: usize,
    /// The precision at the confidence of the best mean F1, IoU 0.5.
    pub precision: f64,
    /// The recall at the same confidence.
    pub recall: f64,
    /// The F1 at the same confidence.
    pub f1: f64,
    /// Average precision at each IoU threshold.
    pub ap: [f64; THRESHOLDS],
}

impl ClassMetrics {
    /// Average precision at IoU 0.5.
    pub fn ap50(&self) -> f64 {
        self.ap[0]
    }

    /// Mean over the thresholds.
    pub fn ap50_95(&self) -> f64 {
        self.ap.iter().sum::<f64>() / THRESHOLDS as f64
    }
}

/// Results of a validation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics {
    /// Images seen.
    pub images: usize,
    /// Objects in them.
    pub instances: usize,
    /// Mean over the classes that occur, as are all below; 0 when none does.
    pub precision: f64,
    /// See [`ClassMetrics::recall`].
    pub recall: f64,
    /// See [`ClassMetrics::f1`].
    pub f1: f64,
    /// mAP at IoU 0.5.
    pub map50: f64,
    /// mAP over IoU 0.5 to 0.95.
    pub map50_95: f64,
    /// The confidence of the best mean F1.
    pub confidence: f64,
    /// The classes that occur, by id.
    pub classes: Vec<ClassMetrics>,
}

/// A detection, matched with the objects of its image.
#[derive(Debug, Clone, Copy)]
struct Match {
    score: f32,
    class: u32,
    /// Whether it found an object, at each threshold.
    hits: [bool; THRESHOLDS],
}

/// What there is of a class.
#[derive(Debug, Clone, Copy, Default)]
struct TruthCount {
    /// Images with an object of it.
    images: usize,
    /// Objects of it.
    objects: usize,
}

/// Collects the detections of a validation.
#[derive(Debug, Clone)]
pub struct Evaluator {
    matches: Vec<Match>,
    images: usize,
    /// Images and objects, by class.
    truths: Vec<TruthCount>,
}

impl Evaluator {
    /// An evaluator of so many classes.
    pub fn new(classes: usize) -> Self {
        Self { matches: Vec::new(), images: 0, truths: vec![TruthCount::default(); classes] }
    }

    /// Adds an image. Both lists are in the same pixels; detections in any order.
    ///
    /// # Panics
    /// When a truth's class is out of range.
    pub fn add(&mut self, detections: &[Detection], truths: &[Object]) {
        self.images += 1;
        let mut seen = vec![false; self.truths.len()];
        for truth in truths {
            let class = truth.class as usize;
            self.truths[class].objects += 1;
            if !std::mem::replace(&mut seen[class], true) {
                self.truths[class].images += 1;
            }
        }
        let mut order: Vec<usize> = (0..detections.len()).collect();
        order.sort_by(|a, b| detections[*b].score.total_cmp(&detections[*a].score));
        let sorted: Vec<Detection> = order.into_iter().map(|index| detections[index]).collect();
        for (detection, hits) in sorted.iter().zip(match_detections(&sorted, truths)) {
            self.matches.push(Match { score: detection.score, class: detection.class, hits });
        }
    }

    /// Results over all images added.
    pub fn metrics(&self) -> Metrics {
        let reports = self.reports();
        let instances = self.truths.iter().map(|truth| truth.objects).sum();
        if reports.is_empty() {
            return Metrics { images: self.images, ..Metrics::default() };
        }
        let mean_f1: Vec<f64> = (0..CONFIDENCES)
            .map(|point| reports.iter().map(|report| report.f1(point)).sum::<f64>() / reports.len() as f64)
            .collect();
        let best = argmax(&smoothed(&mean_f1, SMOOTHING));
        let classes: Vec<ClassMetrics> = reports
            .iter()
            .map(|report| ClassMetrics {
                class: report.class,
                images: self.truths[report.class].images,
                instances: self.truths[report.class].objects,
                precision: report.precision[best],
                recall: report.recall[best],
                f1: report.f1(best),
                ap: report.ap,
            })
            .collect();
        let mean =
            |value: fn(&ClassMetrics) -> f64| classes.iter().map(value).sum::<f64>() / classes.len() as f64;
        Metrics {
            images: self.images,
            instances,
            precision: mean(|class| class.precision),
            recall: mean(|class| class.recall),
            f1: mean(|class| class.f1),
            map50: mean(ClassMetrics::ap50),
            map50_95: mean(ClassMetrics::ap50_95),
            confidence: confidence(best),
            classes,
        }
    }

    /// Precision and recall over confidence, of the classes that occur, by id.
    pub fn reports(&self) -> Vec<ClassReport> {
        let present = (0..self.truths.len()).filter(|class| self.truths[*class].objects > 0);
        present.map(|class| self.class_report(class)).collect()
    }

    /// The precision-recall curve of `class` at each threshold.
    pub fn curves(&self, class: usize) -> [Curve; THRESHOLDS] {
        let matches = self.of_class(class);
        std::array::from_fn(|index| {
            Curve::new(matches.iter().map(|found| found.hits[index]), self.truths[class].objects)
        })
    }

    /// Whether each detection found an object, in the order in which images were added, surest first
    /// within an image.
    pub fn hits(&self) -> impl Iterator<Item = [bool; THRESHOLDS]> + '_ {
        self.matches.iter().map(|found| found.hits)
    }

    /// The detections of `class`, surest first.
    fn of_class(&self, class: usize) -> Vec<Match> {
        let mut matches: Vec<Match> =
            self.matches.iter().filter(|found| found.class as usize == class).copied().collect();
        matches.sort_by(|a, b| b.score.total_cmp(&a.score));
        matches
    }

    fn class_report(&self, class: usize) -> ClassReport {
        let matches = self.of_class(class);
        let mut report = ClassReport {
            class,
            precision: vec![0.0; CONFIDENCES],
            recall: vec![0.0; CONFIDENCES],
            ap: [0.0; THRESHOLDS],
        };
        let Some(surest) = matches.first().map(|found| f64::from(found.score)) else { return report };
        let curves = self.curves(class);
        report.ap = std::array::from_fn(|index| curves[index].area_trapezoid());
        let falling: Vec<f64> = matches.iter().map(|found| -f64::from(found.score)).collect();
        for point in 0..CONFIDENCES {
            let confidence = confidence(point);
            // Above the surest detection nothing is found, and nothing is wrong.
            let at = |values: &[f64], above| {
                if confidence > surest { above } else { interpolate(-confidence, &falling, values) }
            };
            report.recall[point] = at(&curves[0].recall, 0.0);
            report.precision[point] = at(&curves[0].precision, 1.0);
        }
        report
    }
}

/// A class over all confidences: 1000 points from 0 to 1, at IoU 0.5.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassReport {
    /// The class's id.
    pub class: usize,
    /// Precision at each point: of the detections that are surer, the share that finds something.
    pub precision: Vec<f64>,
    /// Recall at each point: of the objects, the share that they find.
    pub recall: Vec<f64>,
    /// Average precision at each IoU threshold.
    pub ap: [f64; THRESHOLDS],
}

impl ClassReport {
    /// The harmonic mean of precision and recall at a point.
    pub fn f1(&self, point: usize) -> f64 {
        let (precision, recall) = (self.precision[point], self.recall[point]);
        2.0 * precision * recall / (precision + recall + 1e-16)
    }
}

fn confidence(point: usize) -> f64 {
    point as f64 / (CONFIDENCES - 1) as f64
}

fn argmax(values: &[f64]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// Which detections (surest first) find an object: at each threshold for itself, each takes the object
/// of its class that it overlaps most, among those that no surer one has taken.
fn match_detections(detections: &[Detection], truths: &[Object]) -> Vec<[bool; THRESHOLDS]> {
    let overlaps: Vec<Vec<f64>> = detections
        .iter()
        .map(|detection| {
            let of_class = |truth: &Object| {
                if truth.class == detection.class { iou(detection.xyxy, truth.xyxy) } else { 0.0 }
            };
            truths.iter().map(of_class).collect()
        })
        .collect();
    let mut hits = vec![[false; THRESHOLDS]; detections.len()];
    for index in 0..THRESHOLDS {
        let mut taken = vec![false; truths.len()];
        for (overlap, hits) in overlaps.iter().zip(&mut hits) {
            let mut best = None;
            let mut most = threshold(index);
            for (truth, overlap) in overlap.iter().enumerate() {
                if !taken[truth] && *overlap >= most {
                    most = *overlap;
                    best = Some(truth);
                }
            }
            if let Some(truth) = best {
                taken[truth] = true;
                hits[index] = true;
            }
        }
    }
    hits
}

/// Intersection over union of two boxes `[x1, y1, x2, y2]`.
pub(super) fn iou(a: [f32; 4], b: [f32; 4]) -> f64 {
    let (a, b) = (a.map(f64::from), b.map(f64::from));
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let common = width * height;
    let area = |side: [f64; 4]| (side[2] - side[0]) * (side[3] - side[1]);
    common / (area(a) + area(b) - common + 1e-7)
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
    fn a_perfect_model_has_full_marks() {
        let mut evaluator = Evaluator::new(3);
        for image in 0..4 {
            let x = 20.0 * image as f32;
            evaluator.add(
                &[detection(x, 0.9, 0), detection(x + 50.0, 0.8, 2)],
                &[truth(x, 0), truth(x + 50.0, 2)],
            );
        }
        let metrics = evaluator.metrics();
        assert_eq!((metrics.images, metrics.instances, metrics.classes.len()), (4, 8, 2));
        assert!((metrics.map50 - 0.995).abs() < 1e-9 && (metrics.map50_95 - 0.995).abs() < 1e-9);
        assert!(metrics.precision > 0.999 && metrics.recall > 0.999, "{metrics:?}");
        assert_eq!((metrics.classes[1].class, metrics.classes[1].images), (2, 4));
    }

    #[test]
    fn an_object_is_found_once_and_by_the_surest() {
        let hits = match_detections(&[detection(1.0, 0.9, 0), detection(0.0, 0.8, 0)], &[truth(0.0, 0)]);
        assert_eq!((hits[0][0], hits[1][0]), (true, false));
        // At a threshold that the surer one does not reach, the object is still free.
        assert_eq!((hits[0][9], hits[1][9]), (false, true));
    }

    #[test]
    fn a_detection_of_another_class_finds_nothing() {
        assert!(!match_detections(&[detection(0.0, 0.9, 1)], &[truth(0.0, 0)])[0][0]);
    }

    #[test]
    fn nothing_detected_or_nothing_there_is_zero_not_a_failure() {
        let mut evaluator = Evaluator::new(2);
        assert_eq!(evaluator.metrics(), Metrics::default());
        evaluator.add(&[detection(0.0, 0.5, 1)], &[]);
        assert_eq!(evaluator.metrics(), Metrics { images: 1, ..Metrics::default() });
        evaluator.add(&[], &[truth(0.0, 0)]);
        let metrics = evaluator.metrics();
        assert_eq!((metrics.map50, metrics.instances, metrics.classes.len()), (0.0, 1, 1));
    }
}
