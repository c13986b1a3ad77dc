//! The inner loops of the sampler. Each exists once as plain code; the hot ones again with AVX2 (colours
//! with AVX-512, too), which is looked for at run time. All ways give the same bytes on every machine: whole numbers, or single
//! precision without fused operations.

/// Weights along a row are whole numbers of this sum: the largest for which a weighted sum of two signed
/// bytes fits 16 bits.
pub const ROW_SUM: u8 = 255;

/// Weights between rows have this sum: `ROW_SUM * COLUMN_SUM` is nearly `2^22`, so that a shift divides.
pub const COLUMN_SUM: i16 = 16448;
pub(crate) const COLUMN_SHIFT: u32 = 22;
/// Pixels are signed inside, 128 less than outside; this puts it back, and rounds.
pub(crate) const COLUMN_BIAS: i32 = 128 * 255 * COLUMN_SUM as i32 + (1 << (COLUMN_SHIFT - 1));

/// Outputs that [`blend_columns`] makes at a time.
pub const GROUP: usize = 16;
/// A row must go on for so many bytes behind the last pixel that is used.
pub const SLACK: usize = 32;

/// The inputs of [`GROUP`] outputs along a row.
#[derive(Debug, Clone)]
pub struct Group {
    /// For each output the first of its two inputs; the second is the next one.
    inputs: [usize; GROUP],
    /// For each output the weights of its two inputs, which have the sum [`ROW_SUM`].
    weights: [u8; 2 * GROUP],
    /// For a shuffle: where the inputs of each half of the outputs begin, and the offsets of all inputs
    /// from there. Only if they fit the 16 bytes of a shuffle.
    shuffle: Option<([usize; 2], [u8; 2 * GROUP])>,
}

impl Group {
    /// From up to [`GROUP`] outputs: the first input of each, and the share of the second.
    pub fn new(taps: impl IntoIterator<Item = (usize, f64)>) -> Self {
        let (mut inputs, mut weights, mut last) = ([0; GROUP], [0; 2 * GROUP], 0);
        let mut taps = taps.into_iter();
        for (input, weights) in inputs.iter_mut().zip(weights.chunks_exact_mut(2)) {
            // A row that ends within a group goes on with its last pixel.
            let (first, share) = taps.next().unwrap_or((last, 0.0));
            last = first;
            *input = first;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of ROW_SUM")]
            let second = (share * f64::from(ROW_SUM)).round_ties_even() as u8;
            weights.copy_from_slice(&[ROW_SUM - second, second]);
        }
        let halves = [&inputs[..8], &inputs[8..]];
        let base = halves.map(|inputs| inputs.iter().copied().min().unwrap_or(0));
        let mut offsets = [0; 2 * GROUP];
        for (index, (input, offsets)) in inputs.iter().zip(offsets.chunks_exact_mut(2)).enumerate() {
            let Some(offset) = u8::try_from(input - base[index / 8]).ok().filter(|offset| *offset < 15)
            else {
                return Self { inputs, weights, shuffle: None };
            };
            offsets.copy_from_slice(&[offset, offset + 1]);
        }
        Self { inputs, weights, shuffle: Some((base, offsets)) }
    }
}

/// Whether the processor has AVX2.
pub(crate) fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// For each output the weighted sum of two neighbours in `row`, minus 128 each, times [`ROW_SUM`].
///
/// # Panics
/// When a group reaches beyond `row`, or `out` is not as long as all groups.
pub fn blend_columns(row: &[u8], groups: &[Group], out: &mut [i16]) {
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

fn blend_group(row: &[u8], group: &Group, out: &mut [i16]) {
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
fn blend_columns_avx2(row: &[u8], groups: &[Group], out: &mut [i16]) {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_loadu_si128, _mm256_castsi128_si256, _mm256_inserti128_si256,
        _mm256_loadu_si256, _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_shuffle_epi8, _mm256_storeu_si256,
        _mm256_xor_si256,
    };
    let sign = _mm256_set1_epi8(-128);
    for (group, out) in groups.iter().zip(out.chunks_exact_mut(GROUP)) {
        let Some((base, offsets)) = &group.shuffle else {
            blend_group(row, group, out);
            continue;
        };
        let [low, high]: [&[u8; 16]; 2] =
            base.map(|base| row[base..][..16].try_into().expect("16 bytes were just taken"));
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
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of bytes")]
        let byte = (sum >> COLUMN_SHIFT) as u8;
        *out = byte;
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

/// Lays `there` over `here`, which keeps `share` 256ths.
pub fn blend_pictures(here: &mut [u8], there: &[u8], share: u16) {
    for (here, there) in here.iter_mut().zip(there) {
        // At most 255 * 256 + 128, which fits.
        let sum = u16::from(*here)
            .wrapping_mul(share)
            .wrapping_add(u16::from(*there).wrapping_mul(256_u16.wrapping_sub(share)))
            .wrapping_add(128);
        *here = sum.to_be_bytes()[0];
    }
}

/// A change of colour: a turn of the hue in steps of two degrees, factors of saturation and value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ColourChange {
    /// Whole, 0 to 179.
    pub hue: f32,
    /// 0 to 2.
    pub saturation: f32,
    /// 0 to 2.
    pub value: f32,
}

impl ColourChange {
    /// Turns hue by `hue` of the circle, and multiplies saturation and value by 1 plus the others.
    /// All three lie in `[-1, 1]`.
    pub fn new(hue: f64, saturation: f64, value: f64) -> Self {
        let hue = (180.0 * hue).floor().rem_euclid(180.0);
        let [hue, saturation, value] = [hue, 1.0 + saturation, 1.0 + value].map(|number| {
            #[expect(clippy::cast_possible_truncation, reason = "pixels have eight bits")]
            let number = number as f32;
            number
        });
        Self { hue, saturation, value }
    }
}

/// Changes the colours of a row in place, in OpenCV's 8-bit HSV.
///
/// # Panics
/// When the planes differ in length.
pub fn change_colours(red: &mut [u8], green: &mut [u8], blue: &mut [u8], change: ColourChange) {
    assert!(red.len() == green.len() && red.len() == blue.len(), "planes of one size");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512bw") && std::arch::is_x86_feature_detected!("avx512vl") {
        // SAFETY: the processor has AVX-512 with bytes and words, and short vectors.
        unsafe { change_colours_avx512(red, green, blue, change) };
        return;
    } else if has_avx2() {
        // SAFETY: the processor has AVX2.
        unsafe { change_colours_avx2(red, green, blue, change) };
        return;
    }
    change_row(red, green, blue, change);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn change_colours_avx512(red: &mut [u8], green: &mut [u8], blue: &mut [u8], change: ColourChange) {
    change_row(red, green, blue, change);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn change_colours_avx2(red: &mut [u8], green: &mut [u8], blue: &mut [u8], change: ColourChange) {
    change_row(red, green, blue, change);
}

#[inline(always)]
fn change_row(red: &mut [u8], green: &mut [u8], blue: &mut [u8], change: ColourChange) {
    for ((r, g), b) in red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut()) {
        [*r, *g, *b] = change_pixel([*r, *g, *b], change);
    }
}

/// The methods of `f32` care for what is not a number, which takes longer.
#[inline(always)]
fn larger(one: f32, other: f32) -> f32 {
    if one > other { one } else { other }
}

#[inline(always)]
fn smaller(one: f32, other: f32) -> f32 {
    if one < other { one } else { other }
}

/// To the nearest whole number, a tie to the even one. For what is below 2^22 and not below -2^22.
#[inline(always)]
fn nearest(value: f32) -> f32 {
    // In this range of magnitudes the spacing of single precision is 1.
    const SHIFTER: f32 = 12_582_912.0;
    (value + SHIFTER) - SHIFTER
}

/// One pixel without a branch, so that the compiler makes vectors of it. The two divisors are OpenCV's
/// tables of rounded quotients, computed instead of looked up.
#[inline(always)]
fn change_pixel(rgb: [u8; 3], change: ColourChange) -> [u8; 3] {
    let [r, g, b] = rgb.map(f32::from);
    let value = larger(larger(r, g), b);
    let range = value - smaller(smaller(r, g), b);

    let by = larger(value, 1.0);
    let step = floor_quotient(1_044_480.0 + floor_half(by), by);
    let saturation = nearest((range * step) * (1.0 / 4096.0) + TIE_UP);
    let by = larger(range, 1.0);
    let step = floor_quotient(122_880.0 + floor_half(by), by);
    let sixths = if value == r {
        g - b
    } else if value == g {
        b - r + 2.0 * range
    } else {
        r - g + 4.0 * range
    };
    let hue = nearest((sixths * step) * (1.0 / 4096.0) + TIE_UP) + change.hue;
    let hue = if hue < 0.0 { hue + 180.0 } else { hue };
    let hue = if hue >= 180.0 { hue - 180.0 } else { hue };

    let saturation = nearest(smaller(saturation * change.saturation, 255.0) - FLOOR);
    let value = nearest(smaller(value * change.value, 255.0) - FLOOR);
    // How far each colour stays above the lowest, in thirtieths of the range.
    let above = |distance: f32| smaller(larger(distance, 0.0), 30.0);
    let red = above((hue - 90.0).abs() - 30.0);
    let green = above(60.0 - (hue - 60.0).abs());
    let blue = above(60.0 - (hue - 120.0).abs());
    let slope = value * saturation * (1.0 / 7650.0);
    let lowest = value - slope * 30.0;
    [red, green, blue].map(|thirtieths| to_byte(lowest + slope * thirtieths))
}

/// Added before [`nearest`], it makes ties of 4096ths go up.
const TIE_UP: f32 = 1.0 / 16_384.0;
/// Taken away before [`nearest`], it makes a floor; a little less than a half, for whole numbers.
const FLOOR: f32 = 0.5 - 1.0 / 4096.0;

/// Half of a whole number, rounded down.
#[inline(always)]
fn floor_half(whole: f32) -> f32 {
    nearest(whole * 0.5 - 0.25)
}

/// A quotient rounded down, of whole numbers below 2^21 and 256: its fraction is a multiple of 1/255 or more.
#[inline(always)]
fn floor_quotient(whole: f32, by: f32) -> f32 {
    nearest(whole / by - (0.5 - 1.0 / 512.0))
}

/// The nearest byte to a value from 0 to 255.
#[inline(always)]
fn to_byte(value: f32) -> u8 {
    // The low byte of the mantissa, where the spacing is 1.
    (value + 12_582_912.0).to_bits().to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_those_of_the_tables() {
        for by in 1..=255_i32 {
            for (numerator, name) in [(255 << 12, "saturation"), (30 << 12, "hue")] {
                let table = (numerator + by / 2) / by;
                let (numerator, by) = (numerator as f32, by as f32);
                assert_eq!(floor_quotient(numerator + floor_half(by), by), table as f32, "{name} {by}");
            }
        }
    }

    #[test]
    fn a_blend_of_equal_bytes_is_that_byte_at_every_weight() {
        for byte in 0..=255_u8 {
            for weight in [0, 1, 100, 254, 255] {
                let group = Group::new([(0, f64::from(weight) / 255.0)]);
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
            |index: usize| Group::new((0..16).map(|at| (index * 20 + at * (index + 1), at as f64 / 16.0)));
        let groups: Vec<Group> = (0..6).map(group).collect();
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
        let change = ColourChange { hue: 7.0, saturation: 1.31, value: 0.77 };
        let mut one: Vec<Vec<u8>> = [0, 31, 77].map(|from| bytes[from..from + 300].to_vec()).into();
        let mut other = one.clone();
        let [r, g, b] = &mut one[..] else { unreachable!() };
        change_colours(r, g, b, change);
        let mut third = other.clone();
        let [r, g, b] = &mut other[..] else { unreachable!() };
        change_row(r, g, b, change);
        assert_eq!(one, other);
        if has_avx2() {
            let [r, g, b] = &mut third[..] else { unreachable!() };
            // SAFETY: the processor has AVX2.
            unsafe { change_colours_avx2(r, g, b, change) };
            assert_eq!(one, third);
        }
    }
}
