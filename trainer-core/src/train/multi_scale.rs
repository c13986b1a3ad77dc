//! Training sizes that vary from step to step.

use tch::Tensor;

/// The batch at another size, drawn from `seed` and the number of the optimiser step: half to one and a half times, a multiple
/// of 32.
pub fn rescale(images: &Tensor, seed: u64, step: u64) -> Tensor {
    let side = images.size()[2];
    let (low, high) = ((side / 2).max(32) / 32, side * 3 / 2 / 32);
    let choices = u64::try_from(high - low + 1).unwrap_or(1).max(1);
    let target = 32 * (low + i64::try_from(scramble(seed ^ scramble(step)) % choices).unwrap_or(0));
    if target == side {
        return images.shallow_clone();
    }
    images.upsample_bilinear2d([target, target], false, None, None)
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
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn sizes_vary_between_a_half_and_one_and_a_half_and_repeat_with_the_seed() {
        let images = Tensor::zeros([1, 3, 64, 64], (Kind::Float, Device::Cpu));
        let sides = |seed| (0..40).map(|at| rescale(&images, seed, at).size()[3]).collect::<Vec<_>>();
        let found = sides(1);
        assert_eq!(found, sides(1));
        assert!([32, 64, 96].iter().all(|side| found.contains(side)), "{found:?}");
        assert!(found.iter().all(|side| [32, 64, 96].contains(side)), "{found:?}");
    }
}
