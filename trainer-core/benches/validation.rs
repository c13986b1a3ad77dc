//! Speed of what follows the model in a validation: non-maximum suppression, matching with the labels, and the metrics.
//! 128 images with 40 objects each, 80 classes, 8,400 anchors of which 780 are candidates. One line `name value unit`.

use std::time::Instant;

use tch::Tensor;
use trainyard_data::Object;
use trainyard_trainer::eval::{Confusion, Evaluator, NmsConfig};
use trainyard_trainer::libtorch;
use trainyard_trainer::train::validate::detections;

const IMAGES: usize = 128;
const BATCH: usize = 32;
const CLASSES: usize = 80;
const ANCHORS: usize = 8400;
const OBJECTS: usize = 40;
/// Anchors that see an object.
const VIEWS: usize = 12;
/// Anchors that see something that is not there.
const GHOSTS: usize = 300;

/// Evenly spread numbers from 0 to 1 (a linear congruence), the same in every run.
struct Spread(u32);

impl Spread {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(self.0 >> 16).unwrap_or(0)) / 65_536.0
    }
}

/// What a model says of an image, `[4 + classes, anchors]`, and what is there.
fn image(number: usize, spread: &mut Spread) -> (Vec<f32>, Vec<Object>) {
    let mut said = vec![0.0005_f32; (4 + CLASSES) * ANCHORS];
    let mut say = |anchor: usize, cxcywh: [f32; 4], class: usize, score: f32| {
        for (row, value) in cxcywh.into_iter().enumerate() {
            said[row * ANCHORS + anchor] = value;
        }
        said[(4 + class) * ANCHORS + anchor] = score;
    };
    let mut truths = Vec::new();
    let mut box_at = || {
        [
            80.0 + 480.0 * spread.next(),
            80.0 + 480.0 * spread.next(),
            20.0 + 100.0 * spread.next(),
            20.0 + 100.0 * spread.next(),
        ]
    };
    for object in 0..OBJECTS {
        let [cx, cy, w, h] = box_at();
        let class = (object * 7 + number) % CLASSES;
        truths.push(Object {
            xyxy: [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0],
            class: u32::try_from(class).unwrap_or(0),
        });
        for view in 0..VIEWS {
            let aside = view as f32;
            say(object * VIEWS + view, [cx + aside, cy - aside, w, h + aside], class, 0.9 - 0.06 * aside);
        }
    }
    for ghost in 0..GHOSTS {
        let there = box_at();
        let score = 0.002 + 0.0001 * ghost as f32;
        say(OBJECTS * VIEWS + ghost, there, (ghost * 11 + number) % CLASSES, score);
    }
    (said, truths)
}

fn main() {
    let _ = libtorch::load_cuda();
    let mut spread = Spread(1);
    let (said, truths): (Vec<_>, Vec<_>) = (0..IMAGES).map(|number| image(number, &mut spread)).unzip();
    let shape = [BATCH, 4 + CLASSES, ANCHORS].map(|side| i64::try_from(side).unwrap_or(0));
    let batches: Vec<Tensor> =
        said.chunks(BATCH).map(|images| Tensor::from_slice(&images.concat()).view(shape)).collect();
    let config = NmsConfig::validation();
    let mut seconds: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            let mut evaluator = Evaluator::new(CLASSES);
            let mut confusion = Confusion::new(CLASSES);
            let found = batches.iter().flat_map(|batch| detections(batch, &config));
            for (detections, truths) in found.zip(&truths) {
                evaluator.add(&detections, truths);
                confusion.add(&detections, truths);
            }
            assert!(evaluator.metrics().map50 > 0.9, "every object is seen");
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let rate = IMAGES as f64 / seconds[seconds.len() / 2];
    println!("validation_after_the_model_640_80classes {rate:.0} images/s");
}
