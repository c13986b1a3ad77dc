//! Colour jitter in OpenCV's 8-bit HSV. The loop exists once, without a branch; the compiler makes vector code of it
//! for AVX2 and for AVX-512, chosen at run time. All ways give the same bytes on every machine: single precision
//! without fused operations.

use crate::cpu::has_avx2;
#[cfg(target_arch = "x86_64")]
use crate::cpu::has_avx512_bytes;

/// A change of hue, saturation and value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HsvShift {
    /// What is added to the hue, in steps of two degrees: a whole number, 0 to 179.
    pub hue: f32,
    /// The factor of the saturation, 0 to 2.
    pub saturation: f32,
    /// The factor of the value, 0 to 2.
    pub value: f32,
}

impl HsvShift {
    /// Turns the hue by `hue` of the circle, and multiplies saturation and value by 1 plus the other two.
    /// All three lie in `[-1, 1]`.
    pub fn new(hue: f64, saturation: f64, value: f64) -> Self {
        let hue = (180.0 * hue).floor().rem_euclid(180.0);
        let [hue, saturation, value] = [hue, 1.0 + saturation, 1.0 + value].map(|number| number as f32);
        Self { hue, saturation, value }
    }
}

/// Changes the colours of a row of pixels in place, in OpenCV's 8-bit HSV.
///
/// # Panics
/// When the planes differ in length.
pub fn shift_hsv(red: &mut [u8], green: &mut [u8], blue: &mut [u8], shift: HsvShift) {
    assert!(red.len() == green.len() && red.len() == blue.len(), "planes of one size");
    #[cfg(target_arch = "x86_64")]
    if has_avx512_bytes() {
        // SAFETY: the processor has AVX-512 with bytes and words, and short vectors.
        unsafe { shift_hsv_avx512(red, green, blue, shift) };
        return;
    } else if has_avx2() {
        // SAFETY: the processor has AVX2.
        unsafe { shift_hsv_avx2(red, green, blue, shift) };
        return;
    }
    shift_hsv_row(red, green, blue, shift);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn shift_hsv_avx512(red: &mut [u8], green: &mut [u8], blue: &mut [u8], shift: HsvShift) {
    shift_hsv_row(red, green, blue, shift);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn shift_hsv_avx2(red: &mut [u8], green: &mut [u8], blue: &mut [u8], shift: HsvShift) {
    shift_hsv_row(red, green, blue, shift);
}

#[inline(always)]
fn shift_hsv_row(red: &mut [u8], green: &mut [u8], blue: &mut [u8], shift: HsvShift) {
    for ((r, g), b) in red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut()) {
        [*r, *g, *b] = shift_hsv_pixel([*r, *g, *b], shift);
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
fn shift_hsv_pixel(rgb: [u8; 3], shift: HsvShift) -> [u8; 3] {
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
    let hue = nearest((sixths * step) * (1.0 / 4096.0) + TIE_UP) + shift.hue;
    let hue = if hue < 0.0 { hue + 180.0 } else { hue };
    let hue = if hue >= 180.0 { hue - 180.0 } else { hue };

    let saturation = nearest(smaller(saturation * shift.saturation, 255.0) - FLOOR);
    let value = nearest(smaller(value * shift.value, 255.0) - FLOOR);
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
    fn vectors_and_plain_code_give_the_same_bytes() {
        let bytes: Vec<u8> = (0..400_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let shift = HsvShift { hue: 7.0, saturation: 1.31, value: 0.77 };
        let mut one: Vec<Vec<u8>> = [0, 31, 77].map(|from| bytes[from..from + 300].to_vec()).into();
        let mut other = one.clone();
        let [r, g, b] = &mut one[..] else { unreachable!() };
        shift_hsv(r, g, b, shift);
        let mut third = other.clone();
        let [r, g, b] = &mut other[..] else { unreachable!() };
        shift_hsv_row(r, g, b, shift);
        assert_eq!(one, other);
        if has_avx2() {
            let [r, g, b] = &mut third[..] else { unreachable!() };
            // SAFETY: the processor has AVX2.
            unsafe { shift_hsv_avx2(r, g, b, shift) };
            assert_eq!(one, third);
        }
    }
}
