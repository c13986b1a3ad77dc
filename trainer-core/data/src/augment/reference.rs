//! The augmentation as it is defined, plainly: a mosaic that is put together, exact bilinear samples, OpenCV's 8-bit
//! HSV by tables. The fast code must agree with it; only for tests.

use super::affine::Matrix;
use super::mosaic::MosaicLayout;
use super::resampler::Flips;
use crate::resample::GREY;

/// A whole mosaic, put together in memory.
#[derive(Debug)]
pub struct MosaicPixels {
    side: isize,
    planes: [Vec<u8>; 3],
}

impl MosaicPixels {
    pub fn new(layout: &MosaicLayout) -> Self {
        let side = layout.side;
        let mut planes = [0, 1, 2].map(|_| vec![GREY; side * side]);
        for tile in &layout.tiles {
            for (y, x) in tile.rows(side).flat_map(|y| tile.columns(side).map(move |x| (y, x))) {
                let inside = |at: usize, start: isize| (at.cast_signed() - start).cast_unsigned();
                for (plane, pixels) in planes.iter_mut().enumerate() {
                    pixels[y * side + x] = tile.planes.row(plane, inside(y, tile.top))[inside(x, tile.left)];
                }
            }
        }
        Self { side: side.cast_signed(), planes }
    }

    /// The value at a position; grey outside of the mosaic.
    pub fn pixel(&self, plane: usize, x: isize, y: isize) -> u8 {
        let inside = |at: isize| (0..self.side).contains(&at);
        if !inside(x) || !inside(y) {
            return GREY;
        }
        self.planes[plane][(y * self.side + x).cast_unsigned()]
    }

    /// The bilinear sample at a continuous position.
    fn sample(&self, plane: usize, [x, y]: [f64; 2]) -> u8 {
        let (x, y) = (x - 0.5, y - 0.5);
        let (left, top) = (x.floor(), y.floor());
        let (right, lower) = (x - left, y - top);
        let at = |dx: isize, dy: isize| f64::from(self.pixel(plane, left as isize + dx, top as isize + dy));
        let row = |dy: isize| at(0, dy) * (1.0 - right) + at(1, dy) * right;
        (row(0) * (1.0 - lower) + row(1) * lower).round() as u8
    }
}

/// A whole sample before colours: three planes of `side` x `side`.
pub fn render(layout: &MosaicLayout, matrix: &Matrix, side: usize, flips: Flips) -> Vec<u8> {
    let mosaic = MosaicPixels::new(layout);
    let Some(back) = matrix.inverse() else { return vec![GREY; 3 * side * side] };
    let flip = |at: usize, flipped: bool| if flipped { side - 1 - at } else { at };
    let mut planes = Vec::with_capacity(3 * side * side);
    for plane in 0..3 {
        for y in 0..side {
            for x in 0..side {
                let (x, y) = (flip(x, flips.left_right), flip(y, flips.up_down));
                planes.push(mosaic.sample(plane, back.apply(x as f64 + 0.5, y as f64 + 0.5)));
            }
        }
    }
    planes
}

/// Lays `there` over `here`, which keeps `share` of its brightness.
pub fn blend(here: &mut [u8], there: &[u8], share: f64) {
    for (here, there) in here.iter_mut().zip(there) {
        *here = (f64::from(*here) * share + f64::from(*there) * (1.0 - share)).round() as u8;
    }
}

/// Changes the colours of three planes.
pub fn shift_hsv(jitter: &Jitter, planes: &mut [u8]) {
    let area = planes.len() / 3;
    for index in 0..area {
        let pixel = [planes[index], planes[area + index], planes[2 * area + index]];
        for (plane, byte) in jitter.change(pixel).into_iter().enumerate() {
            planes[plane * area + index] = byte;
        }
    }
}

/// A change of colour, as tables over 8-bit values.
#[derive(Debug, Clone)]
pub struct Jitter {
    hue: [u8; 180],
    saturation: [u8; 256],
    value: [u8; 256],
}

/// Multiplied by a difference and shifted down by this, the tables give saturation and hue.
const SHIFT: u32 = 12;

struct Divisors {
    saturation: [i32; 256],
    hue: [i32; 256],
}

static DIVISORS: Divisors = divisors();

const fn divisors() -> Divisors {
    let (mut saturation, mut hue) = ([0; 256], [0; 256]);
    let mut index = 1;
    while index < 256 {
        let by = index as i32;
        // Rounded quotients of 255 and of 30 (a sixth of the circle), in 4096ths.
        saturation[index] = ((255 << SHIFT) + by / 2) / by;
        hue[index] = ((30 << SHIFT) + by / 2) / by;
        index += 1;
    }
    Divisors { saturation, hue }
}

impl Jitter {
    /// Turns hue by `hue` of the circle, and multiplies saturation and value by 1 plus the others.
    /// All three lie in `[-1, 1]`.
    pub fn new(hue: f64, saturation: f64, value: f64) -> Self {
        let scaled = |gain: f64| {
            let mut table = [0; 256];
            for (index, entry) in table.iter_mut().enumerate() {
                *entry = (index as f64 * (1.0 + gain)).clamp(0.0, 255.0) as u8;
            }
            table
        };
        let mut turned = [0; 180];
        for (index, entry) in turned.iter_mut().enumerate() {
            *entry = ((index as f64 + 180.0 * hue).rem_euclid(180.0) as u8).min(179);
        }
        Self { hue: turned, saturation: scaled(saturation), value: scaled(value) }
    }

    /// Changes one pixel.
    pub fn change(&self, rgb: [u8; 3]) -> [u8; 3] {
        let [h, s, v] = to_hsv(rgb);
        to_rgb([self.hue[usize::from(h)], self.saturation[usize::from(s)], self.value[usize::from(v)]])
    }
}

/// Hue below 180, saturation, value.
fn to_hsv(rgb: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = rgb.map(i32::from);
    let value = r.max(g).max(b);
    let range = value - r.min(g).min(b);
    let round = 1 << (SHIFT - 1);
    let at = |table: &[i32; 256], index: i32| table[(index & 255) as usize];
    let saturation = (range * at(&DIVISORS.saturation, value) + round) >> SHIFT;
    let sixths = if value == r {
        g - b
    } else if value == g {
        b - r + 2 * range
    } else {
        r - g + 4 * range
    };
    let hue = (sixths * at(&DIVISORS.hue, range) + round) >> SHIFT;
    let hue = if hue < 0 { hue + 180 } else { hue };
    [hue.min(179) as u8, saturation.min(255) as u8, value as u8]
}

fn to_rgb(hsv: [u8; 3]) -> [u8; 3] {
    let [h, s, v] = hsv.map(i32::from);
    // The share of a sixth of the circle, in 30ths.
    let (sector, part) = (h / 30, h % 30);
    // `v` times 1 - s, 1 - s * part and 1 - s * (1 - part), rounded.
    let scaled = |thirtieths: i32| {
        let whole = 255 * 30;
        ((v * (whole - s * thirtieths) + whole / 2) / whole) as u8
    };
    let (low, falling, rising) = (scaled(30), scaled(part), scaled(30 - part));
    let high = hsv[2];
    match sector {
        0 => [high, rising, low],
        1 => [falling, high, low],
        2 => [low, high, rising],
        3 => [low, falling, high],
        4 => [rising, low, high],
        _ => [high, low, falling],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_colours_have_known_hues() {
        for (rgb, hsv) in [
            ([255, 0, 0], [0, 255, 255]),
            ([0, 255, 0], [60, 255, 255]),
            ([0, 0, 255], [120, 255, 255]),
            ([255, 255, 0], [30, 255, 255]),
            ([114, 114, 114], [0, 0, 114]),
            ([0, 0, 0], [0, 0, 0]),
            ([200, 100, 50], [10, 191, 200]),
        ] {
            assert_eq!(to_hsv(rgb), hsv, "{rgb:?}");
        }
    }

    #[test]
    fn there_and_back_is_close_for_every_colour() {
        for r in (0..=255).step_by(3) {
            for g in (0..=255).step_by(5) {
                for b in (0..=255).step_by(7) {
                    let back = to_rgb(to_hsv([r, g, b]));
                    let worst = [r, g, b].iter().zip(back).map(|(a, b)| a.abs_diff(b)).max().unwrap();
                    // Hue has only 180 steps: a sixth of the circle spans 255 grey values in 30.
                    assert!(worst <= 6, "{r} {g} {b} -> {back:?}");
                }
            }
        }
    }

    #[test]
    fn grey_stays_grey_and_brightness_is_clipped() {
        let jitter = Jitter::new(0.5, 0.7, 0.4);
        assert_eq!(jitter.change([114; 3]), [159; 3]);
        assert_eq!(jitter.change([250; 3]), [255; 3]);
        assert_eq!(Jitter::new(1.0 / 3.0, 0.0, 0.0).change([255, 0, 0]), [0, 255, 0]);
    }
}
