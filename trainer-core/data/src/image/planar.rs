//! An image as three planes, in memory of its own or in a mapped cache file.

use std::ops::Range;
use std::sync::Arc;

use crate::files::MappedFile;
use crate::image::Image;

/// An 8-bit RGB image, planar: `[3, height, width]`. Clones share the pixels.
#[derive(Debug, Clone)]
pub struct PlanarImage {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    bytes: Bytes,
    /// The pixels' place in `bytes`.
    range: Range<usize>,
}

#[derive(Debug, Clone)]
enum Bytes {
    Owned(Arc<Vec<u8>>),
    Mapped(Arc<MappedFile>),
}

impl PlanarImage {
    /// The image whose planes begin at `start` in a mapped file.
    pub fn mapped(map: Arc<MappedFile>, start: usize, width: usize, height: usize) -> Self {
        Self { width, height, bytes: Bytes::Mapped(map), range: start..start + 3 * height * width }
    }

    /// The three planes one behind the other: red, green, blue.
    pub fn bytes(&self) -> &[u8] {
        let all: &[u8] = match &self.bytes {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped(map) => map,
        };
        &all[self.range.clone()]
    }

    /// The `width` bytes of row `y` of a plane: 0 is red, 1 green, 2 blue.
    ///
    /// # Panics
    /// When there is no such plane or row.
    pub fn row(&self, plane: usize, y: usize) -> &[u8] {
        let start = (plane * self.height + y) * self.width;
        &self.bytes()[start..start + self.width]
    }

    /// The same pixels, interleaved.
    pub fn to_image(&self) -> Image {
        Image::from_planes(self.bytes(), self.height, self.width)
    }
}

impl From<&Image> for PlanarImage {
    fn from(image: &Image) -> Self {
        let mut bytes = vec![0; image.rgb.len()];
        image.write_planes(&mut bytes);
        let range = 0..bytes.len();
        Self { width: image.width, height: image.height, bytes: Bytes::Owned(Arc::new(bytes)), range }
    }
}

impl PartialEq for PlanarImage {
    fn eq(&self, other: &Self) -> bool {
        (self.width, self.height, self.bytes()) == (other.width, other.height, other.bytes())
    }
}
