//! Pixels in memory: interleaved, as decoders write and people look at them ([`Image`]), or one plane for each colour, as
//! the cache keeps and the resampler reads them ([`PlanarImage`]).

mod planar;

pub use self::planar::PlanarImage;
#[cfg(target_arch = "x86_64")]
use crate::cpu::has_avx2;

/// An 8-bit RGB image, interleaved: `[height, width, 3]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// R, G, B of the upper left pixel, then of its right neighbour; `height * width * 3` bytes.
    pub rgb: Vec<u8>,
}

impl Image {
    /// An image whose bytes all have one value, so that it is grey.
    pub fn filled(width: usize, height: usize, value: u8) -> Self {
        Self { width, height, rgb: vec![value; width * height * 3] }
    }

    /// Bytes of one row.
    pub fn stride(&self) -> usize {
        self.width * 3
    }

    /// The bytes of row `y`.
    ///
    /// # Panics
    /// When `y` is not below `height`.
    pub fn row(&self, y: usize) -> &[u8] {
        &self.rgb[y * self.stride()..(y + 1) * self.stride()]
    }

    /// The bytes of row `y`, to write.
    ///
    /// # Panics
    /// When `y` is not below `height`.
    pub fn row_mut(&mut self, y: usize) -> &mut [u8] {
        let stride = self.stride();
        &mut self.rgb[y * stride..(y + 1) * stride]
    }

    /// Makes an image from planar data as a batch holds it: `[3, height, width]`, RGB.
    ///
    /// # Panics
    /// When `planes` does not have that length.
    pub fn from_planes(planes: &[u8], height: usize, width: usize) -> Self {
        let area = height * width;
        assert_eq!(planes.len(), 3 * area, "three planes of {height} x {width}");
        let mut rgb = vec![0; 3 * area];
        for (index, pixel) in rgb.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&[planes[index], planes[area + index], planes[2 * area + index]]);
        }
        Self { width, height, rgb }
    }

    /// Writes the pixels as planes, `[3, height, width]`, RGB; the inverse of [`Image::from_planes`].
    ///
    /// # Panics
    /// When `planes` does not have that length.
    pub fn write_planes(&self, planes: &mut [u8]) {
        let area = self.width * self.height;
        assert_eq!(planes.len(), 3 * area, "three planes");
        let (red, rest) = planes.split_at_mut(area);
        let (green, blue) = rest.split_at_mut(area);
        #[cfg(target_arch = "x86_64")]
        if has_avx2() {
            // SAFETY: the processor has AVX2.
            unsafe { split_avx2(&self.rgb, red, green, blue) };
            return;
        }
        split(&self.rgb, red, green, blue);
    }
}

#[inline(always)]
fn split(rgb: &[u8], red: &mut [u8], green: &mut [u8], blue: &mut [u8]) {
    for (((pixel, r), g), b) in rgb.chunks_exact(3).zip(red).zip(green).zip(blue) {
        (*r, *g, *b) = (pixel[0], pixel[1], pixel[2]);
    }
}

/// As [`split`]: with AVX2 the compiler makes shuffles of it, which take a sixth of the time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn split_avx2(rgb: &[u8], red: &mut [u8], green: &mut [u8], blue: &mut [u8]) {
    split(rgb, red, green, blue);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_hold_what_the_image_does_for_any_width() {
        for width in [1, 7, 31, 32, 33, 100, 257] {
            let rgb: Vec<u8> = (0..width * 3 * 3).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
            let image = Image { width, height: 3, rgb };
            let mut planes = vec![0; image.rgb.len()];
            image.write_planes(&mut planes);
            for (at, byte) in planes.iter().enumerate() {
                let (plane, pixel) = (at / (3 * width), at % (3 * width));
                assert_eq!(*byte, image.rgb[3 * pixel + plane], "{width}: {at}");
            }
            assert_eq!(Image::from_planes(&planes, 3, width), image);
        }
    }
}
