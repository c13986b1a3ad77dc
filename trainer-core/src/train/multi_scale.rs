//! Training sizes that vary from step to step.

use tch::Tensor;

/// The side of square images at the optimiser step of that number, drawn with `seed`: half to one and a half times
/// `side`, a multiple of 32.
pub fn draw(side: usize, seed: u64, step: u64) -> usize {
    let (low, high) = ((side / 2).max(32) / 32, side * 3 / 2 / 32);
    let choices = high.saturating_sub(low) as u64 + 1;
    32 * (low + usize::try_from(scramble(seed ^ scramble(step)) % choices).unwrap_or(0))
}

/// Square images, `side` pixels wide and high.
pub fn resize(images: Tensor, side: usize) -> Tensor {
    let side = i64::try_from(side).unwrap_or(0);
    if images.size()[2] == side {
        return images;
    }
    images.upsample_bilinear2d([side, side], false, None, None)
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
    use super::*;

    #[test]
    fn sizes_vary_between_a_half_and_one_and_a_half_and_repeat_with_the_seed() {
        let sides = |seed| (0..40).map(|step| draw(64, seed, step)).collect::<Vec<_>>();
        let found = sides(1);
        assert_eq!(found, sides(1));
        assert!([32, 64, 96].iter().all(|side| found.contains(side)), "{found:?}");
        assert!(found.iter().all(|side| [32, 64, 96].contains(side)), "{found:?}");
    }
}
