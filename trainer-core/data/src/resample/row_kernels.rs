//! Bilinear samples where rows stay rows: first along the columns of each input row, then between two rows. Each loop
//! exists as plain code and with AVX2, which is looked for at run time. Both are of whole numbers and give the same
//! bytes on every machine.

use crate::cpu::has_avx2;

/// The two weights along a row are whole numbers of this sum: the largest for which a weighted sum of two signed bytes
/// fits 16 bits.
pub const ROW_SUM: u8 = 255;

/// The two weights between rows have this sum: `ROW_SUM * COLUMN_SUM` is nearly `2^22`, so that a shift divides.
pub const COLUMN_SUM: i16 = 16448;
/// The shift that divides by about `ROW_SUM * COLUMN_SUM`.
pub(crate) const COLUMN_SHIFT: u32 = 22;
/// Pixels are signed inside, 128 less than outside; this puts it back, and rounds.
pub(crate) const COLUMN_BIAS: i32 = 128 * 255 * COLUMN_SUM as i32 + (1 << (COLUMN_SHIFT - 1));

/// Outputs that [`blend_columns`] makes at a time.
pub const GROUP: usize = 16;
/// Bytes that a row must have behind the last pixel that is used: vector loads reach so far.
pub const ROW_PADDING: usize = 32;

/// The filter taps of [`GROUP`] outputs along a row.
#[derive(Debug, Clone)]
pub struct TapGroup {
    /// For each output the first of its two inputs; the second is the next one.
    inputs: [usize; GROUP],
    /// For each output the weights of its two inputs, which have the sum [`ROW_SUM`].
    weights: [u8; 2 * GROUP],
    /// Only if the inputs of each half of the outputs fit the 16 bytes of a shuffle.
    shuffle: Option<Shuffle>,
}

/// How a vector shuffle gathers the inputs of a [`TapGroup`].
#[derive(Debug, Clone)]
struct Shuffle {
    /// Where the inputs of each half of the outputs begin in the row.
    bases: [usize; 2],
    /// The offset of each input from the base of its half.
    offsets: [u8; 2 * GROUP],
}

impl TapGroup {
    /// Of up to [`GROUP`] outputs: the first input of each, and the share of the second, 0 to 1.
    pub fn new(taps: impl IntoIterator<Item = (usize, f64)>) -> Self {
        let (mut inputs, mut weights, mut last) = ([0; GROUP], [0; 2 * GROUP], 0);
        let mut taps = taps.into_iter();
        for (input, weights) in inputs.iter_mut().zip(weights.chunks_exact_mut(2)) {
            // A row that ends within a group goes on with its last pixel.
            let (first, share) = taps.next().unwrap_or((last, 0.0));
            last = first;
            *input = first;
            let second = (share * f64::from(ROW_SUM)).round_ties_even() as u8;
            weights.copy_from_slice(&[ROW_SUM - second, second]);
        }
        let halves = [&inputs[..8], &inputs[8..]];
        let bases = halves.map(|inputs| inputs.iter().copied().min().unwrap_or(0));
        let mut offsets = [0; 2 * GROUP];
        for (index, (input, offsets)) in inputs.iter().zip(offsets.chunks_exact_mut(2)).enumerate() {
            let Some(offset) = u8::try_from(input - bases[index / 8]).ok().filter(|offset| *offset < 15)
            else {
                return Self { inputs, weights, shuffle: None };
            };
            offsets.copy_from_slice(&[offset, offset + 1]);
        }
        Self { inputs, weights, shuffle: Some(Shuffle { bases, offsets }) }
    }
}

/// For each output the weighted sum of two neighbours in `row`, less 128 each, times [`ROW_SUM`].
///
/// # Panics
/// When a group reaches beyond `row`, or `out` is not as long as all groups.
pub fn blend_columns(row: &[u8], groups: &[TapGroup], out: &mut [i16]) {
    assert_eq!(out.len(), groups.len() * GROUP, "one output for each place in a group");
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor has AVX2.
        unsafe { blend_columns_avx2(row, groups, out) };
        return;
    }
    for (group, out) in groups.iter().zip(out.chunks_exact_mut(GROUP)) {
        blend_group(row, group, out);
    }
}

fn blend_group(row: &[u8], group: &TapGroup, out: &mut [i16]) {
    for ((out, input), weights) in out.iter_mut().zip(&group.inputs).zip(group.weights.chunks_exact(2)) {
        let part = |offset: usize| {
            let pixel = (row[input + offset] ^ 0x80).cast_signed();
            i16::from(pixel).wrapping_mul(i16::from(weights[offset]))
        };
        *out = part(0).wrapping_add(part(1));
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn blend_columns_avx2(row: &[u8], groups: &[TapGroup], out: &mut [i16]) {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_loadu_si128, _mm256_castsi128_si256, _mm256_inserti128_si256,
        _mm256_loadu_si256, _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_shuffle_epi8, _mm256_storeu_si256,
        _mm256_xor_si256,
    };
    let sign = _mm256_set1_epi8(-128);
    for (group, out) in groups.iter().zip(out.chunks_exact_mut(GROUP)) {
        let Some(Shuffle { bases, offsets }) = &group.shuffle else {
            blend_group(row, group, out);
            continue;
        };
        let [low, high]: [&[u8; 16]; 2] =
            bases.map(|base| row[base..][..16].try_into().expect("16 bytes were just taken"));
        // SAFETY: every pointer is to an array of the size that is read or written.
        unsafe {
            let low = _mm_loadu_si128(low.as_ptr().cast::<__m128i>());
            let high = _mm_loadu_si128(high.as_ptr().cast::<__m128i>());
            let both = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high);
            let offsets = _mm256_loadu_si256(offsets.as_ptr().cast::<__m256i>());
            let weights = _mm256_loadu_si256(group.weights.as_ptr().cast::<__m256i>());
            let pixels = _mm256_xor_si256(_mm256_shuffle_epi8(both, offsets), sign);
            _mm256_storeu_si256(out.as_mut_ptr().cast::<__m256i>(), _mm256_maddubs_epi16(weights, pixels));
        }
    }
}

/// Blends two rows of [`blend_columns`]' output to pixels. `lower` is the weight of `below`, from 0 to
/// [`COLUMN_SUM`].
///
/// # Panics
/// When a row is shorter than `out`.
pub fn blend_rows(above: &[i16], below: &[i16], lower: i16, out: &mut [u8]) {
    let (above, below) = (&above[..out.len()], &below[..out.len()]);
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        done = out.len() / 32 * 32;
        // SAFETY: the processor has AVX2.
        unsafe { blend_rows_avx2(&above[..done], &below[..done], lower, &mut out[..done]) };
    }
    let (upper, lower) = (i32::from(COLUMN_SUM - lower), i32::from(lower));
    for ((out, above), below) in out[done..].iter_mut().zip(&above[done..]).zip(&below[done..]) {
        let sum = i32::from(*above) * upper + i32::from(*below) * lower + COLUMN_BIAS;
        *out = (sum >> COLUMN_SHIFT) as u8;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn blend_rows_avx2(above: &[i16], below: &[i16], lower: i16, out: &mut [u8]) {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_packs_epi32,
        _mm256_packus_epi16, _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_srai_epi32,
        _mm256_storeu_si256, _mm256_unpackhi_epi16, _mm256_unpacklo_epi16,
    };
    let upper = COLUMN_SUM - lower;
    let weights = _mm256_set1_epi32((i32::from(lower) << 16) | i32::from(upper));
    let bias = _mm256_set1_epi32(COLUMN_BIAS);
    for ((above, below), out) in
        above.chunks_exact(32).zip(below.chunks_exact(32)).zip(out.chunks_exact_mut(32))
    {
        let half = |at: usize| {
            let (above, below): (&[i16; 16], &[i16; 16]) = (
                above[at..at + 16].try_into().expect("16 were just taken"),
                below[at..at + 16].try_into().expect("16 were just taken"),
            );
            // SAFETY: both pointers are to 32 bytes, which is what is read.
            let (above, below) = unsafe {
                (
                    _mm256_loadu_si256(above.as_ptr().cast::<__m256i>()),
                    _mm256_loadu_si256(below.as_ptr().cast::<__m256i>()),
                )
            };
            let sum =
                |pairs| _mm256_srai_epi32::<22>(_mm256_add_epi32(_mm256_madd_epi16(pairs, weights), bias));
            let low = sum(_mm256_unpacklo_epi16(above, below));
            let high = sum(_mm256_unpackhi_epi16(above, below));
            _mm256_packs_epi32(low, high)
        };
        let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(half(0), half(16)));
        // SAFETY: `out` is a chunk of 32 bytes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast::<__m256i>(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blend_of_equal_bytes_is_that_byte_at_every_weight() {
        for byte in 0..=255_u8 {
            for weight in [0, 1, 100, 254, 255] {
                let group = TapGroup::new([(0, f64::from(weight) / 255.0)]);
                let mut sums = [0; 16];
                blend_columns(&[byte; 16], &[group], &mut sums);
                let mut pixels = [0; 16];
                for lower in [0, 1, 8000, COLUMN_SUM] {
                    blend_rows(&sums, &sums, lower, &mut pixels);
                    assert_eq!(pixels, [byte; 16], "{weight} {lower}");
                }
            }
        }
    }

    #[test]
    fn vectors_and_plain_code_give_the_same_bytes() {
        let bytes: Vec<u8> = (0..400_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        // The later groups reach too far for a shuffle.
        let group =
            |index: usize| TapGroup::new((0..16).map(|at| (index * 20 + at * (index + 1), at as f64 / 16.0)));
        let groups: Vec<TapGroup> = (0..6).map(group).collect();
        assert!(groups[1].shuffle.is_some() && groups[5].shuffle.is_none());
        let (mut fast, mut plain) = (vec![0; 96], vec![0; 96]);
        blend_columns(&bytes, &groups, &mut fast);
        for (group, out) in groups.iter().zip(plain.chunks_exact_mut(GROUP)) {
            blend_group(&bytes, group, out);
        }
        assert_eq!(fast, plain);
        let mut below = fast.clone();
        below.reverse();
        let (mut whole, mut parts) = (vec![0; 96], vec![0; 96]);
        blend_rows(&fast, &below, 5000, &mut whole);
        for ((out, above), below) in parts.chunks_mut(5).zip(fast.chunks(5)).zip(below.chunks(5)) {
            blend_rows(above, below, 5000, out);
        }
        assert_eq!(whole, parts);
    }
}
