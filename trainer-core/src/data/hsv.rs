//! Changes hue, saturation and brightness, in OpenCV's 8-bit HSV: hue in steps of two degrees.

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
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to bytes")]
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

    /// Changes `rgb`, three bytes a pixel.
    pub fn apply(&self, rgb: &mut [u8]) {
        for pixel in rgb.chunks_exact_mut(3) {
            let [h, s, v] = to_hsv([pixel[0], pixel[1], pixel[2]]);
            let changed =
                [self.hue[usize::from(h)], self.saturation[usize::from(s)], self.value[usize::from(v)]];
            pixel.copy_from_slice(&to_rgb(changed));
        }
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
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "each is in its range")]
    [hue.min(179) as u8, saturation.min(255) as u8, value as u8]
}

fn to_rgb(hsv: [u8; 3]) -> [u8; 3] {
    let [h, s, v] = hsv.map(i32::from);
    // The share of a sixth of the circle, in 30ths.
    let (sector, part) = (h / 30, h % 30);
    // `v` times 1 - s, 1 - s * part and 1 - s * (1 - part), rounded.
    let scaled = |thirtieths: i32| {
        let whole = 255 * 30;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most v")]
        let byte = ((v * (whole - s * thirtieths) + whole / 2) / whole) as u8;
        byte
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
        let mut pixels = [114, 114, 114, 250, 250, 250];
        Jitter::new(0.5, 0.7, 0.4).apply(&mut pixels);
        assert_eq!(pixels, [159, 159, 159, 255, 255, 255]);
        let mut red = [255, 0, 0];
        Jitter::new(1.0 / 3.0, 0.0, 0.0).apply(&mut red);
        assert_eq!(red, [0, 255, 0]);
    }
}
