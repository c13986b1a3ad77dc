//! Scores from logits in 16 bits, of which there are few: a table knows them all, and a comparison of integers finds the
//! few that may become detections.

use super::nms::{Candidate, NmsConfig};

/// How many numbers 16 bits can tell apart.
const NUMBERS: usize = 1 << 16;

/// The score of each logit of a 16-bit type of floats.
#[derive(Debug)]
pub struct LogitScores {
    /// By the logit's bits.
    scores: Vec<f32>,
}

impl LogitScores {
    /// `scores`: by a logit's bits; what is not a number may be anything.
    ///
    /// # Panics
    /// When there are more or fewer than 65,536.
    pub fn new(scores: Vec<f32>) -> Self {
        assert_eq!(scores.len(), NUMBERS, "there is a score for each number of 16 bits");
        Self { scores }
    }

    /// The candidates of an image, in the order of anchors. `logits`: `[anchors, classes]`.
    pub(super) fn candidates(&self, logits: &[u16], classes: usize, config: &NmsConfig) -> Vec<Candidate> {
        let Some(least) = self.least_above(config.conf) else { return Vec::new() };
        let mut candidates = Vec::new();
        for (anchor, row) in logits.chunks_exact(classes.max(1)).enumerate() {
            // Nearly all anchors see nothing, and a maximum takes many numbers at a time.
            if row.iter().fold(i16::MIN, |most, logit| most.max(order(*logit))) < least {
                continue;
            }
            let found = row.iter().enumerate().map(|(class, &logit)| {
                let score = self.scores[usize::from(logit)];
                Candidate { score, anchor, class }
            });
            let mut found = found.filter(|candidate| candidate.score > config.conf);
            if config.multi_label {
                candidates.extend(found);
            } else {
                let first = found.next();
                let surest = |a: Candidate, b: Candidate| if b.score > a.score { b } else { a };
                candidates.extend(first.map(|first| found.fold(first, surest)));
            }
        }
        candidates
    }

    /// The least of all logits, in their [`order`], whose score is above `conf`.
    fn least_above(&self, conf: f32) -> Option<i16> {
        let above = self.scores.iter().zip(0_u16..=u16::MAX).filter(|(score, _)| **score > conf);
        above.map(|(_, logit)| order(logit)).min()
    }
}

/// Numbers that are ordered as floats of these bits are: the signs of both types are in front, exponents follow.
const fn order(bits: u16) -> i16 {
    let signed = bits.cast_signed();
    if signed < 0 { signed ^ i16::MAX } else { signed }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::eval::{suppress, suppress_logits};

    fn sigmoid(logit: f32) -> f32 {
        1.0 / (1.0 + (-logit).exp())
    }

    fn table(value: fn(u16) -> f32) -> LogitScores {
        LogitScores::new((0..=u16::MAX).map(|bits| sigmoid(value(bits))).collect())
    }

    #[test]
    fn bits_are_ordered_as_the_numbers_are() {
        let numbers = [f32::NEG_INFINITY, -300.0, -1.5, -0.25, 0.0, 1e-3, 1.0, 7.5, f32::INFINITY];
        for bits in [
            numbers.map(|number| f16::from_f32(number).to_bits()),
            numbers.map(|number| bf16::from_f32(number).to_bits()),
        ] {
            assert!(bits.is_sorted_by(|a, b| order(*a) < order(*b)), "{bits:?}");
        }
    }

    #[test]
    fn detections_are_those_of_the_same_scores_in_32_bits() {
        const ANCHORS: usize = 200;
        const CLASSES: usize = 3;
        // A linear congruence: evenly spread numbers, the same in every run.
        let mut state = 1_u32;
        let mut spread = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 65_536.0
        };
        let boxes: Vec<f32> = (0..ANCHORS)
            .flat_map(|_| [100.0, 100.0, 20.0, 20.0])
            .map(|side| side * (0.5 + spread()))
            .collect();
        let mut logits: Vec<u16> =
            (0..ANCHORS * CLASSES).map(|_| f16::from_f32(spread() * 16.0 - 12.0).to_bits()).collect();
        logits[7] = f16::NAN.to_bits();
        logits[8] = f16::NEG_INFINITY.to_bits();
        let scores = table(|bits| f16::from_bits(bits).to_f32());
        let of_boxes = (0..4).flat_map(|row| (0..ANCHORS).map(move |anchor| (anchor, 4, row)));
        let of_scores = (0..CLASSES).flat_map(|class| (0..ANCHORS).map(move |anchor| (anchor, class)));
        let single: Vec<f32> =
            of_boxes
                .map(|(anchor, sides, row)| boxes[sides * anchor + row])
                .chain(of_scores.map(|(anchor, class)| {
                    sigmoid(f16::from_bits(logits[CLASSES * anchor + class]).to_f32())
                }))
                .collect();
        for config in [NmsConfig::validation(), NmsConfig::predict()] {
            let expected = suppress(&single, CLASSES, ANCHORS, &config);
            let found = suppress_logits(&boxes, &logits, CLASSES, &scores, &config);
            assert!(expected.len() > 20, "{}", expected.len());
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn without_a_score_above_the_limit_there_is_nothing() {
        let scores = table(|bits| bf16::from_bits(bits).to_f32());
        let logits = [bf16::from_f32(-20.0).to_bits(), bf16::NAN.to_bits()];
        let nothing = suppress_logits(&[0.0; 8], &logits, 1, &scores, &NmsConfig::validation());
        assert_eq!(nothing, []);
        let never = NmsConfig { conf: 1.0, ..NmsConfig::validation() };
        assert_eq!(suppress_logits(&[0.0; 4], &[0x7f80], 1, &scores, &never), []);
    }
}
