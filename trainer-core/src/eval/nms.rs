//! Non-maximum suppression: of boxes that overlap too much, only the surest stays.

use super::logit_scores::LogitScores;

/// One detected object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Corners in pixels of the network's input, `[x1, y1, x2, y2]`.
    pub xyxy: [f32; 4],
    /// Confidence, 0 to 1.
    pub score: f32,
    /// Class id.
    pub class: u32,
}

/// How detections are selected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NmsConfig {
    /// Scores must be greater than this.
    pub conf: f32,
    /// A box is suppressed when its IoU with a surer one is greater than this.
    pub iou: f32,
    /// Every class above `conf` makes a candidate of its own; otherwise only the best class.
    pub multi_label: bool,
    /// Boxes of different classes suppress each other.
    pub agnostic: bool,
    /// Detections per image.
    pub max_det: usize,
    /// Candidates per image; the surest are taken.
    pub max_nms: usize,
    /// Boxes are moved by class id times this, pixels, so that classes do not meet.
    pub class_offset: f32,
}

impl NmsConfig {
    /// The configuration for metrics, where nearly every box counts.
    pub const fn validation() -> Self {
        Self {
            conf: 0.001,
            iou: 0.7,
            multi_label: true,
            agnostic: false,
            max_det: 300,
            max_nms: 30_000,
            class_offset: 7680.0,
        }
    }

    /// The configuration for people: boxes with a fair score.
    pub const fn predict() -> Self {
        Self { conf: 0.25, multi_label: false, ..Self::validation() }
    }
}

/// A box that may become a detection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) score: f32,
    pub(super) anchor: usize,
    pub(super) class: usize,
}

/// Selects the detections of one image, surest first.
///
/// `pred`: `[4 + classes, anchors]`, row by row: centre x, centre y, width, height in pixels, then a
/// score for each class. Equal scores keep the order of anchors, then of classes.
///
/// # Panics
/// When `pred` does not have that length.
pub fn suppress(pred: &[f32], classes: usize, anchors: usize, config: &NmsConfig) -> Vec<Detection> {
    assert_eq!(pred.len(), (4 + classes) * anchors, "predictions are [4 + classes, anchors]");
    let (boxes, scores) = pred.split_at(4 * anchors);
    let candidates = if config.multi_label {
        every_class(scores, anchors, config.conf)
    } else {
        best_class(scores, anchors, config.conf)
    };
    select(candidates, classes, |anchor| [0, 1, 2, 3].map(|row| boxes[row * anchors + anchor]), config)
}

/// [`suppress`], of what a GPU sends: boxes in 32 bits, and of scores the logits in 16, anchor by anchor.
///
/// `boxes`: `[anchors, 4]`, as above; `logits`: `[anchors, classes]`, the bits of each.
///
/// # Panics
/// When they have not those lengths.
pub fn suppress_logits(
    boxes: &[f32],
    logits: &[u16],
    classes: usize,
    scores: &LogitScores,
    config: &NmsConfig,
) -> Vec<Detection> {
    let (boxes, rest) = boxes.as_chunks::<4>();
    assert!(rest.is_empty() && logits.len() == classes * boxes.len(), "a box and its logits for each anchor");
    let candidates = scores.candidates(logits, classes, config);
    select(candidates, classes, |anchor| boxes[anchor], config)
}

/// Detections from candidates in any order; `cxcywh` is the box of an anchor.
fn select(
    mut candidates: Vec<Candidate>,
    classes: usize,
    cxcywh: impl Fn(usize) -> [f32; 4],
    config: &NmsConfig,
) -> Vec<Detection> {
    let surest = |a: &Candidate, b: &Candidate| {
        b.score.total_cmp(&a.score).then_with(|| (a.anchor, a.class).cmp(&(b.anchor, b.class)))
    };
    if candidates.len() > config.max_nms {
        candidates.select_nth_unstable_by(config.max_nms, surest);
        candidates.truncate(config.max_nms);
    }
    candidates.sort_unstable_by(surest);

    // Boxes kept so far, by class, moved by the class offset: its rounding is part of the reference.
    let mut kept: Vec<Vec<Area>> = vec![Vec::new(); if config.agnostic { 1 } else { classes }];
    let mut detections = Vec::new();
    for candidate in candidates {
        if detections.len() == config.max_det {
            break;
        }
        let [cx, cy, w, h] = cxcywh(candidate.anchor);
        let xyxy = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
        let (group, offset) = if config.agnostic {
            (0, 0.0)
        } else {
            (candidate.class, candidate.class as f32 * config.class_offset)
        };
        let area = Area::new(xyxy.map(|side| side + offset));
        if kept[group].iter().all(|surer| !surer.overlaps(&area, config.iou)) {
            kept[group].push(area);
            let class = u32::try_from(candidate.class).expect("class counts fit in 32 bits");
            detections.push(Detection { xyxy, score: candidate.score, class });
        }
    }
    detections
}

fn every_class(scores: &[f32], anchors: usize, conf: f32) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (class, row) in scores.chunks_exact(anchors.max(1)).enumerate() {
        for (anchor, score) in row.iter().enumerate() {
            if *score > conf {
                candidates.push(Candidate { score: *score, anchor, class });
            }
        }
    }
    candidates
}

fn best_class(scores: &[f32], anchors: usize, conf: f32) -> Vec<Candidate> {
    // Starting at `conf` leaves out what is not above it, not-a-number included.
    let mut best = vec![(conf, usize::MAX); anchors];
    for (class, row) in scores.chunks_exact(anchors.max(1)).enumerate() {
        for (best, score) in best.iter_mut().zip(row) {
            if *score > best.0 {
                *best = (*score, class);
            }
        }
    }
    let found = best.into_iter().enumerate().filter(|(_, (_, class))| *class != usize::MAX);
    found.map(|(anchor, (score, class))| Candidate { score, anchor, class }).collect()
}

/// A box with its area.
#[derive(Clone, Copy)]
struct Area {
    xyxy: [f32; 4],
    area: f32,
}

impl Area {
    fn new(xyxy: [f32; 4]) -> Self {
        Self { xyxy, area: (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1]) }
    }

    fn overlaps(&self, other: &Self, limit: f32) -> bool {
        let (a, b) = (&self.xyxy, &other.xyxy);
        let width = a[2].min(b[2]) - a[0].max(b[0]);
        let height = a[3].min(b[3]) - a[1].max(b[1]);
        if width <= 0.0 || height <= 0.0 {
            return false;
        }
        let common = width * height;
        common / (self.area + other.area - common) > limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Predictions from `(cx, cy, w, h, scores)`.
    fn predictions(rows: &[([f32; 4], [f32; 2])]) -> Vec<f32> {
        let mut pred: Vec<f32> = (0..4).flat_map(|k| rows.iter().map(move |row| row.0[k])).collect();
        pred.extend((0..2).flat_map(|k| rows.iter().map(move |row| row.1[k])));
        pred
    }

    fn classes_and_scores(rows: &[([f32; 4], [f32; 2])], config: &NmsConfig) -> Vec<(u32, f32)> {
        let found = suppress(&predictions(rows), 2, rows.len(), config);
        found.iter().map(|detection| (detection.class, detection.score)).collect()
    }

    const HERE: [f32; 4] = [50.0, 50.0, 20.0, 20.0];
    const NEAR: [f32; 4] = [51.0, 50.0, 20.0, 20.0];
    const FAR: [f32; 4] = [90.0, 50.0, 20.0, 20.0];

    #[test]
    fn the_surest_of_overlapping_boxes_stays() {
        let rows = [(NEAR, [0.5, 0.0]), (HERE, [0.9, 0.0]), (FAR, [0.4, 0.0])];
        assert_eq!(classes_and_scores(&rows, &NmsConfig::predict()), [(0, 0.9), (0, 0.4)]);
    }

    #[test]
    fn classes_suppress_each_other_only_when_agnostic() {
        let rows = [(HERE, [0.9, 0.8]), (NEAR, [0.3, 0.7])];
        let multi = NmsConfig::validation();
        assert_eq!(classes_and_scores(&rows, &multi), [(0, 0.9), (1, 0.8)]);
        let best = NmsConfig::predict();
        assert_eq!(classes_and_scores(&rows, &best), [(0, 0.9), (1, 0.7)]);
        let agnostic = NmsConfig { agnostic: true, ..best };
        assert_eq!(classes_and_scores(&rows, &agnostic), [(0, 0.9)]);
    }

    #[test]
    fn limits_take_the_surest_and_ties_keep_the_anchors_order() {
        let rows = [(HERE, [0.5, 0.0]), (FAR, [0.5, 0.0]), ([10.0, 10.0, 5.0, 5.0], [0.6, 0.0])];
        let config = NmsConfig { max_det: 2, ..NmsConfig::predict() };
        let found = suppress(&predictions(&rows), 2, 3, &config);
        assert_eq!((found[0].score, found[1].xyxy[0], found.len()), (0.6, 40.0, 2));
        let few = NmsConfig { max_nms: 1, ..NmsConfig::predict() };
        assert_eq!(classes_and_scores(&rows, &few), [(0, 0.6)]);
    }

    #[test]
    fn what_is_not_a_number_or_not_above_the_limit_is_left_out() {
        let rows = [(HERE, [f32::NAN, 0.25]), (FAR, [0.25, f32::NAN])];
        assert_eq!(classes_and_scores(&rows, &NmsConfig::predict()), []);
        assert!(suppress(&[], 2, 0, &NmsConfig::validation()).is_empty());
    }
}
