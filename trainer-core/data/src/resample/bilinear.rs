//! Bilinear samples of one image at any positions. The loop exists as plain code and with AVX2; both give the same
//! bytes.

use super::row_kernels::{COLUMN_BIAS, COLUMN_SHIFT, COLUMN_SUM, ROW_SUM};
use crate::cpu::has_avx2;
use crate::image::PlanarImage;

/// Positions are fixed-point numbers of pixels, with so many fractional bits.
pub const SUBPIXEL_BITS: u32 = 11;
/// Steps of a position from one pixel to the next.
pub const SUBPIXELS: i32 = 1 << SUBPIXEL_BITS;
/// Samples that are made at a time.
const LANES: usize = 8;

/// An image, and where it lies in the coordinates of the positions.
#[derive(Debug, Clone, Copy)]
pub struct SourceImage<'a> {
    /// The pixels of the image.
    pub planes: &'a PlanarImage,
    /// Column of its first pixel.
    pub left: i32,
    /// Row of its first pixel.
    pub top: i32,
}

/// The weight of the second of two pixels in a row, of [`ROW_SUM`].
fn row_weight(fraction: i32) -> i32 {
    (fraction.wrapping_mul(i32::from(ROW_SUM)).wrapping_add(SUBPIXELS / 2)) >> SUBPIXEL_BITS
}

/// The weight of the second of two rows, of [`COLUMN_SUM`].
fn column_weight(fraction: i32) -> i32 {
    (fraction.wrapping_mul(i32::from(COLUMN_SUM)).wrapping_add(SUBPIXELS / 2)) >> SUBPIXEL_BITS
}

/// The bilinear sample of `pixels`, `[left above, right above, left below, right below]`. `right` and `lower` say how far
/// it lies from the first one, 0 to [`SUBPIXELS`].
pub fn blend(pixels: [u8; 4], right: i32, lower: i32) -> u8 {
    let (right, lower) = (row_weight(right), column_weight(lower));
    let [a, b, c, d] = pixels.map(|pixel| i32::from((pixel ^ 0x80).cast_signed()));
    let along = |left: i32, next: i32| {
        let left = left.wrapping_mul(i32::from(ROW_SUM).wrapping_sub(right));
        left.wrapping_add(next.wrapping_mul(right))
    };
    let above = along(a, b).wrapping_mul(i32::from(COLUMN_SUM).wrapping_sub(lower));
    let sum = above.wrapping_add(along(c, d).wrapping_mul(lower)).wrapping_add(COLUMN_BIAS);
    (sum >> COLUMN_SHIFT) as u8
}

/// Writes the samples at `xs` and `ys` to the three planes of `out`. All four neighbours of each position lie on the
/// image.
///
/// # Panics
/// When lengths differ, or a position is not on the image.
pub fn sample(source: SourceImage<'_>, xs: &[i32], ys: &[i32], out: [&mut [u8]; 3]) {
    assert!(xs.len() == ys.len() && out.iter().all(|plane| plane.len() == xs.len()), "of one length");
    #[cfg(target_arch = "x86_64")]
    if has_avx2() && xs.len() >= LANES {
        // SAFETY: the processor has AVX2.
        unsafe { sample_avx2(source, xs, ys, out) };
        return;
    }
    sample_plain(source, xs, ys, out);
}

fn sample_plain(source: SourceImage<'_>, xs: &[i32], ys: &[i32], [red, green, blue]: [&mut [u8]; 3]) {
    let (width, height) = (source.planes.width, source.planes.height);
    let bytes = source.planes.bytes();
    for ((((x, y), red), green), blue) in xs.iter().zip(ys).zip(red).zip(green).zip(blue) {
        let column = (x >> SUBPIXEL_BITS).wrapping_sub(source.left).cast_unsigned() as usize;
        let row = (y >> SUBPIXEL_BITS).wrapping_sub(source.top).cast_unsigned() as usize;
        let (right, lower) = (x & (SUBPIXELS - 1), y & (SUBPIXELS - 1));
        [*red, *green, *blue] = [0, 1, 2].map(|plane| {
            let start = (plane * height + row) * width + column;
            let (above, below) = (&bytes[start..start + 2], &bytes[start + width..start + width + 2]);
            blend([above[0], above[1], below[0], below[1]], right, lower)
        });
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sample_avx2(source: SourceImage<'_>, xs: &[i32], ys: &[i32], mut out: [&mut [u8]; 3]) {
    use std::arch::x86_64::{
        __m256i, _mm_cvtsi128_si64, _mm256_add_epi32, _mm256_and_si256, _mm256_blend_epi16,
        _mm256_castsi256_si128, _mm256_cmpeq_epi32, _mm256_loadu_si256, _mm256_madd_epi16,
        _mm256_maddubs_epi16, _mm256_min_epu32, _mm256_movemask_epi8, _mm256_mullo_epi32, _mm256_or_si256,
        _mm256_packus_epi16, _mm256_packus_epi32, _mm256_permutevar8x32_epi32, _mm256_set1_epi8,
        _mm256_set1_epi32, _mm256_setr_epi32, _mm256_slli_epi32, _mm256_srai_epi32, _mm256_srli_epi32,
        _mm256_storeu_si256, _mm256_sub_epi32, _mm256_xor_si256,
    };
    const BITS: i32 = SUBPIXEL_BITS.cast_signed();
    let (width, height, bytes) = (source.planes.width, source.planes.height, source.planes.bytes());
    let plane = width * height;
    assert!(width >= 2 && height >= 2 && bytes.len() == 3 * plane, "a sample has four neighbours");
    let narrow = |number: usize| i32::try_from(number).expect("sides of images are below 65536 / 3");
    let last = _mm256_set1_epi32(narrow(plane - width - 2));
    let (widths, all) = (_mm256_set1_epi32(narrow(width)), _mm256_set1_epi32(i32::from(ROW_SUM)));
    let (left, top) = (_mm256_set1_epi32(source.left), _mm256_set1_epi32(source.top));
    let (half, fraction) = (_mm256_set1_epi32(SUBPIXELS / 2), _mm256_set1_epi32(SUBPIXELS - 1));
    let (rows, bias) = (_mm256_set1_epi32(i32::from(COLUMN_SUM)), _mm256_set1_epi32(COLUMN_BIAS));
    let (sign, firsts) = (_mm256_set1_epi8(-128), _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4));
    let load = |numbers: &[i32]| {
        let numbers: &[i32; LANES] = numbers.try_into().expect("as many were taken");
        // SAFETY: the pointer is to 32 bytes, which is what is read.
        unsafe { _mm256_loadu_si256(numbers.as_ptr().cast::<__m256i>()) }
    };
    let mut at = 0;
    loop {
        let (x, y) = (load(&xs[at..at + LANES]), load(&ys[at..at + LANES]));
        let column = _mm256_sub_epi32(_mm256_srai_epi32::<BITS>(x), left);
        let row = _mm256_sub_epi32(_mm256_srai_epi32::<BITS>(y), top);
        let index = _mm256_add_epi32(_mm256_mullo_epi32(row, widths), column);
        let inside = _mm256_cmpeq_epi32(_mm256_min_epu32(index, last), index);
        assert_eq!(_mm256_movemask_epi8(inside), -1, "positions are on the image");
        // Loads one by one are faster than the processor's gathers.
        let mut places = [0_u32; LANES];
        // SAFETY: the pointer is to 32 bytes, which is what is written.
        unsafe { _mm256_storeu_si256(places.as_mut_ptr().cast::<__m256i>(), index) };
        let weight = |of: __m256i, sum: __m256i| {
            let share = _mm256_mullo_epi32(_mm256_and_si256(of, fraction), sum);
            _mm256_srli_epi32::<BITS>(_mm256_add_epi32(share, half))
        };
        let (right, lower) = (weight(x, all), weight(y, rows));
        let along = _mm256_or_si256(_mm256_sub_epi32(all, right), _mm256_slli_epi32::<8>(right));
        let along = _mm256_or_si256(along, _mm256_slli_epi32::<16>(along));
        let down = _mm256_or_si256(_mm256_sub_epi32(rows, lower), _mm256_slli_epi32::<16>(lower));
        for (number, out) in out.iter_mut().enumerate() {
            let (above, below) = (&bytes[number * plane..], &bytes[number * plane + width - 2..]);
            // SAFETY: with `index` at most `plane - width - 2`, what is read of the rows above ends before, and
            // what is read of those below ends with, the pixel right below; it begins behind the one above.
            let four =
                |from: &[u8], at: usize| unsafe { from.as_ptr().add(at).cast::<i32>().read_unaligned() };
            let eight = |from: &[u8]| {
                let [a, b, c, d, e, f, g, h] = places.map(|place| four(from, place as usize));
                _mm256_setr_epi32(a, b, c, d, e, f, g, h)
            };
            let (above, below) = (eight(above), eight(below));
            let pixels = _mm256_xor_si256(_mm256_blend_epi16::<0b1010_1010>(above, below), sign);
            let sums = _mm256_madd_epi16(_mm256_maddubs_epi16(along, pixels), down);
            let sums = _mm256_srai_epi32::<{ COLUMN_SHIFT.cast_signed() }>(_mm256_add_epi32(sums, bias));
            let words = _mm256_packus_epi32(sums, sums);
            let packed = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words, words), firsts);
            let eight = _mm_cvtsi128_si64(_mm256_castsi256_si128(packed));
            out[at..at + LANES].copy_from_slice(&eight.to_le_bytes());
        }
        if at + LANES == xs.len() {
            return;
        }
        // The last ones are made with some before them, again.
        at = (at + LANES).min(xs.len() - LANES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;
    use crate::random::{SampleRng, Stream};

    type Loop = fn(SourceImage<'_>, &[i32], &[i32], [&mut [u8]; 3]);

    #[test]
    fn vectors_and_plain_code_give_the_same_bytes_up_to_the_last_pixel() {
        let mut rng = SampleRng::new(108, 0, 0, Stream::Affine);
        for (width, height) in [(2, 2), (3, 9), (40, 30)] {
            let mut image = Image::filled(width, height, 0);
            image.rgb.iter_mut().for_each(|byte| *byte = u8::try_from(rng.below(256)).unwrap());
            let planes = PlanarImage::from(&image);
            let source = SourceImage { planes: &planes, left: -3, top: 7 };
            for count in [1, 7, 8, 9, 100] {
                let mut places = |first: i32, side: usize| -> Vec<i32> {
                    let last = (side - 1) << SUBPIXEL_BITS;
                    let any = (0..count).map(|_| rng.below(last));
                    let mut any: Vec<usize> = any.collect();
                    any[0] = last - 1;
                    any.into_iter().map(|at| i32::try_from(at).unwrap() + (first << SUBPIXEL_BITS)).collect()
                };
                let (xs, ys) = (places(-3, width), places(7, height));
                let make = |how: Loop| {
                    let mut out = [vec![0; count], vec![0; count], vec![0; count]];
                    let [red, green, blue] = &mut out;
                    how(source, &xs, &ys, [red, green, blue]);
                    out
                };
                assert_eq!(make(sample), make(sample_plain), "{width} {height} {count}");
            }
        }
    }

    #[test]
    fn a_position_beside_the_image_is_refused() {
        let planes = PlanarImage::from(&Image::filled(9, 9, 1));
        let source = SourceImage { planes: &planes, left: 0, top: 0 };
        for (x, y) in [(-1, 0), (0, -1), (8 << SUBPIXEL_BITS, 8 << SUBPIXEL_BITS), (0, 8 << SUBPIXEL_BITS)] {
            let (xs, ys) = (vec![x; 8], vec![y; 8]);
            let made = std::panic::catch_unwind(|| {
                let mut out = [[0; 8]; 3];
                let [red, green, blue] = &mut out;
                sample(source, &xs, &ys, [red, green, blue]);
            });
            assert!(made.is_err() || y == 0 && x >= 0, "{x} {y}");
        }
    }

    #[test]
    fn a_blend_of_equal_pixels_is_that_pixel() {
        for byte in 0..=255 {
            for (right, lower) in [(0, 0), (2048, 2048), (1, 2047), (1024, 77)] {
                assert_eq!(blend([byte; 4], right, lower), byte);
            }
        }
    }
}
