//! Bilinear resize of whole images: OpenCV's `INTER_LINEAR` on 8-bit images, 11-bit weights included. Models that were
//! trained elsewhere saw these pixels.

use crate::image::Image;

/// A computed side in whole pixels, rounded down.
pub(crate) fn to_side(pixels: f64) -> usize {
    pixels.max(0.0) as usize
}

/// The size at which the loader keeps an image: its long side becomes `long_side`.
/// `size` and the result are `[width, height]`.
pub fn loaded_size(size: [usize; 2], long_side: usize) -> [usize; 2] {
    let ratio = long_side as f64 / size[0].max(size[1]) as f64;
    size.map(|side| to_side((side as f64 * ratio).ceil()).min(long_side))
}

/// Resizes so that the long side becomes `long_side` pixels; an image that has it already is returned as it is.
pub fn load_resize(image: Image, long_side: usize) -> Image {
    if image.width.max(image.height) == long_side {
        return image;
    }
    let [width, height] = loaded_size([image.width, image.height], long_side);
    resize(&image, width, height)
}

/// The weights of a bilinear sample are whole numbers of this many bits.
const WEIGHT_BITS: u32 = 11;

/// The filter tap of one output position along an axis: the two inputs around it, and the weight of each.
#[derive(Clone, Copy)]
struct Tap {
    first: usize,
    second: usize,
    weights: [i32; 2],
}

/// The taps of all output positions along an axis that goes from `from` to `to` pixels.
///
/// Beyond the outermost pixel centres both inputs are the same pixel. OpenCV gives that pixel its whole weight along a
/// row (`whole_at_edges`), but leaves the weight split between rows, which rounds differently.
fn taps(from: usize, to: usize, whole_at_edges: bool) -> Vec<Tap> {
    let scale = 1.0 / (to as f64 / from as f64);
    let weight = |share: f32| (share * (1 << WEIGHT_BITS) as f32).round_ties_even() as i32;
    (0..to)
        .map(|index| {
            // OpenCV goes on in single precision here.
            let position = ((index as f64 + 0.5) * scale - 0.5) as f32;
            let floor = position.floor();
            let share = position - floor;
            let below = to_side(f64::from(floor)).min(from - 1);
            let (first, second) = if floor < 0.0 { (0, 0) } else { (below, (below + 1).min(from - 1)) };
            let share = if first == second && whole_at_edges { 0.0 } else { share };
            Tap { first, second, weights: [weight(1.0 - share), weight(share)] }
        })
        .collect()
}

/// Resizes to `width` x `height` pixels, bilinear, without smoothing when it shrinks.
///
/// # Panics
/// When either image has no pixels.
pub fn resize(image: &Image, width: usize, height: usize) -> Image {
    assert!(image.width > 0 && image.height > 0 && width > 0 && height > 0, "an image has pixels");
    let (columns, rows) = (taps(image.width, width, true), taps(image.height, height, false));
    let mut resized = Image::filled(width, height, 0);
    let mut above = ResizedRow::default();
    let mut below = ResizedRow::default();
    for (y, tap) in rows.iter().enumerate() {
        // Going down, the lower row of one output row is often the upper of the next.
        if above.source_row != Some(tap.first) && below.source_row == Some(tap.first) {
            std::mem::swap(&mut above, &mut below);
        }
        above.fill(image, tap.first, &columns);
        below.fill(image, tap.second, &columns);
        let [upper, lower] = tap.weights;
        for ((out, a), b) in resized.row_mut(y).iter_mut().zip(&above.values).zip(&below.values) {
            let sum = ((upper * (a >> 4)) >> 16) + ((lower * (b >> 4)) >> 16);
            *out = ((sum + 2) >> 2) as u8;
        }
    }
    resized
}

/// A row of the source at the output's width.
#[derive(Default)]
struct ResizedRow {
    source_row: Option<usize>,
    /// Interleaved RGB, times 2^11.
    values: Vec<i32>,
}

impl ResizedRow {
    fn fill(&mut self, image: &Image, y: usize, columns: &[Tap]) {
        if self.source_row == Some(y) {
            return;
        }
        self.source_row = Some(y);
        self.values.resize(columns.len() * 3, 0);
        let row = image.row(y);
        for (out, tap) in self.values.chunks_exact_mut(3).zip(columns) {
            let (left, right) = (&row[tap.first * 3..][..3], &row[tap.second * 3..][..3]);
            for channel in 0..3 {
                out[channel] =
                    i32::from(left[channel]) * tap.weights[0] + i32::from(right[channel]) * tap.weights[1];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_image_stays_even_at_every_size() {
        for (width, height) in [(1, 1), (3, 200), (64, 48), (65, 47)] {
            let resized = resize(&Image::filled(64, 48, 93), width, height);
            assert!(resized.rgb.iter().all(|byte| *byte == 93), "{width}x{height}");
        }
    }
}
