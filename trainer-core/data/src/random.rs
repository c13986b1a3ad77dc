//! Random choices as a function of where they are made, so that they can be made again anywhere.
//!
//! `rand_xoshiro::SplitMix64` gives the same numbers. It would save no code: the key is mixed by the generator's own
//! function, which that crate does not export, and each number must stay what it is, or runs could not be repeated.

/// What a random choice is for. Each purpose has a stream of numbers of its own, so that one more number for one purpose
/// leaves all others as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The order of an epoch's images.
    Order = 1,
    /// Whether and from which images a mosaic is made, and its centre.
    Mosaic = 2,
    /// Rotation, scale, shear, perspective, translation.
    Affine = 3,
    /// Whether and how two images are blended.
    Mixup = 4,
    /// Hue, saturation, value.
    Colour = 5,
    /// Horizontal and vertical flips.
    Flip = 6,
}

/// The random numbers of one stream at one sample (SplitMix64, Steele et al. 2014).
#[derive(Debug, Clone)]
pub struct SampleRng {
    state: u64,
}

impl SampleRng {
    /// The numbers of `stream` at one sample of one epoch of the run that has `seed`.
    pub fn new(seed: u64, epoch: u32, sample: usize, stream: Stream) -> Self {
        let mut state = mix(seed);
        for word in [u64::from(epoch), sample as u64, stream as u64] {
            state = mix(state ^ mix(word.wrapping_add(0x9E37_79B9_7F4A_7C15)));
        }
        Self { state }
    }

    /// The next number, uniform in all 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// A number uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        // 53 bits are what an f64 can hold exactly.
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number uniform in `[low, high)`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A number uniform in `0..count`.
    ///
    /// # Panics
    /// When `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        assert!(count > 0, "a choice among none");
        // The high half of a product is uniform up to one part in 2^64 / count.
        let product = u128::from(self.next_u64()) * count as u128;
        usize::try_from(product >> 64).expect("it is below `count`, which is a usize")
    }

    /// `true` with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A number from the beta distribution with both parameters `shape`, a whole number: near a half.
    pub fn beta(&mut self, shape: u32) -> f64 {
        // A gamma variate of whole shape is a sum of exponential ones.
        let mut gamma = || (0..shape).map(|_| -(1.0 - self.unit()).ln()).sum::<f64>();
        let (first, second) = (gamma(), gamma());
        first / (first + second)
    }

    /// The numbers below `count` in random order (Fisher–Yates).
    ///
    /// # Panics
    /// When `count` does not fit in 32 bits.
    pub fn permutation(&mut self, count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..u32::try_from(count).expect("an index has fewer images")).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

/// A bijection of 64-bit numbers without visible pattern.
const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seed: u64, epoch: u32, sample: usize, stream: Stream) -> u64 {
        SampleRng::new(seed, epoch, sample, stream).next_u64()
    }

    #[test]
    fn the_same_place_draws_the_same_and_each_other_place_another() {
        let here = first(7, 3, 5, Stream::Affine);
        assert_eq!(first(7, 3, 5, Stream::Affine), here);
        for other in [
            first(8, 3, 5, Stream::Affine),
            first(7, 5, 3, Stream::Affine),
            first(7, 3, 6, Stream::Affine),
            first(7, 3, 5, Stream::Flip),
            first(0, 0, 0, Stream::Order),
        ] {
            assert_ne!(other, here);
        }
    }

    #[test]
    fn numbers_are_spread_evenly_over_samples() {
        let count = 20_000;
        let draws: Vec<f64> = (0..count).map(|s| SampleRng::new(1, 0, s, Stream::Flip).unit()).collect();
        let mean = draws.iter().sum::<f64>() / count as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count as f64;
        let pairs = draws.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum::<f64>() / count as f64;
        // Seven standard errors of each.
        assert!((mean - 0.5).abs() < 0.015 && (variance - 1.0 / 12.0).abs() < 0.004, "{mean} {variance}");
        assert!(pairs.abs() < 0.005, "{pairs}");
    }

    #[test]
    fn a_permutation_has_every_number_once_and_no_favourite_place() {
        let mut first = [0; 5];
        for epoch in 0..5_000 {
            let mut order = SampleRng::new(1, epoch, 0, Stream::Order).permutation(5);
            first[order[0] as usize] += 1;
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3, 4]);
        }
        assert!(first.iter().all(|count| (800..1200).contains(count)), "{first:?}");
    }

    #[test]
    fn beta_variates_lie_around_a_half() {
        let draws: Vec<f64> = (0..4_000).map(|s| SampleRng::new(1, 0, s, Stream::Mixup).beta(32)).collect();
        let mean = draws.iter().sum::<f64>() / 4_000.0;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4_000.0;
        // Beta(32, 32): mean 1/2, variance 1 / (4 * 65).
        assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 260.0).abs() < 0.0008, "{mean} {variance}");
    }
}
