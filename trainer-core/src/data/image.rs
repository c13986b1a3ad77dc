//! Decoded pixels in main memory.

/// An 8-bit RGB image, row by row, `height * width * 3` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// R, G, B of the first pixel, then of its right neighbour.
    pub rgb: Vec<u8>,
}

impl Image {
    /// An image of one grey value.
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
        for (((pixel, r), g), b) in self.rgb.chunks_exact(3).zip(red).zip(green).zip(blue) {
            (*r, *g, *b) = (pixel[0], pixel[1], pixel[2]);
        }
    }
}
