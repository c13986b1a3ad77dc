//! Training sizes that vary from step to step.

use super::batch_tensors::BatchTensors;
use crate::loss::assign::Targets;

/// A square batch and its objects at another size, drawn from `seed` and the number of the optimiser
/// step: half to one and a half times, a multiple of 32.
pub fn rescale(batch: BatchTensors, seed: u64, step: u64) -> BatchTensors {
    let BatchTensors { images, targets } = batch;
    let side = images.size()[2];
    let (low, high) = ((side / 2).max(32) / 32, side * 3 / 2 / 32);
    let choices = u64::try_from(high - low + 1).unwrap_or(1).max(1);
    let target = 32 * (low + i64::try_from(scramble(seed ^ scramble(step)) % choices).unwrap_or(0));
    if target == side {
        return BatchTensors { images, targets };
    }
    let ratio = target as f64 / side as f64;
    // Boxes are in pixels, too.
    let boxes = targets.boxes * ratio;
    let images = images.upsample_bilinear2d([target, target], false, None, None);
    BatchTensors { images, targets: Targets { boxes, ..targets } }
}

/// A well-mixed function of a number (SplitMix64, public domain).
const fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};
    use trainyard_types::ModelScale;

    use super::*;
    use crate::libtorch::Precision;
    use crate::loss::assign::Object;
    use crate::loss::{Gains, detection_loss};
    use crate::model::Model;
    use crate::train::precision::forward;

    fn targets(side: i64) -> Targets {
        let object = |image, class, place| Object { image, class, cxcywh: [place, 0.4, 0.5, 0.375] };
        let objects = [object(0, 1, 0.5), object(1, 0, 0.3), object(1, 1, 0.6)];
        Targets::new(&objects, 2, [side, side], Device::Cpu)
    }

    #[test]
    fn sizes_vary_between_a_half_and_one_and_a_half_and_repeat_with_the_seed() {
        let side = |seed, at| {
            let images = Tensor::zeros([2, 3, 64, 64], (Kind::Float, Device::Cpu));
            rescale(BatchTensors { images, targets: targets(64) }, seed, at).images.size()[3]
        };
        let sides = |seed| (0..40).map(|at| side(seed, at)).collect::<Vec<_>>();
        let found = sides(1);
        assert_eq!(found, sides(1));
        assert!([32, 64, 96].iter().all(|side| found.contains(side)), "{found:?}");
        assert!(found.iter().all(|side| [32, 64, 96].contains(side)), "{found:?}");
    }

    #[test]
    fn objects_are_where_they_are_in_the_rescaled_images() {
        tch::set_num_threads(1);
        tch::manual_seed(0);
        let model = Model::new(ModelScale::N, 2, 0, Device::Cpu);
        for step in 0..8 {
            let images = Tensor::rand([2, 3, 64, 64], (Kind::Float, Device::Cpu));
            let BatchTensors { images, targets: scaled } =
                rescale(BatchTensors { images, targets: targets(64) }, 1, step);
            let side = images.size()[2];
            let prediction = forward(&model, &images, true, Precision::Fp32);
            let loss = |targets: &Targets| {
                detection_loss(&prediction, model.head().bins(), targets, Gains::default()).components
            };
            let (found, expected) = (loss(&scaled), loss(&targets(side)));
            assert!(found.allclose(&expected, 1e-5, 1e-6, false), "{side}: {found}, not {expected}");
        }
    }
}
