//! Decoded pixels as the sampler reads them: one plane for each colour, owned or in a mapped file.

use std::ops::Range;
use std::sync::Arc;

use crate::disk_cache::mapping::Mapping;
use crate::image::Image;

/// An 8-bit RGB image as three planes of `height * width` bytes. Clones share the pixels.
#[derive(Debug, Clone)]
pub struct Planes {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    bytes: Bytes,
    range: Range<usize>,
}

#[derive(Debug, Clone)]
enum Bytes {
    Owned(Arc<Vec<u8>>),
    Mapped(Arc<Mapping>),
}

impl Planes {
    /// The image whose planes begin at `start` in a mapped file.
    pub fn mapped(map: Arc<Mapping>, start: usize, width: usize, height: usize) -> Self {
        Self { width, height, bytes: Bytes::Mapped(map), range: start..start + 3 * height * width }
    }

    /// The bytes, red before green before blue.
    pub fn bytes(&self) -> &[u8] {
        let all: &[u8] = match &self.bytes {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped(map) => map,
        };
        &all[self.range.clone()]
    }

    /// Row `y` of a plane: 0 is red, 1 green, 2 blue.
    ///
    /// # Panics
    /// When there is no such plane or row.
    pub fn row(&self, plane: usize, y: usize) -> &[u8] {
        let start = (plane * self.height + y) * self.width;
        &self.bytes()[start..start + self.width]
    }

    /// The same pixels, colours side by side.
    pub fn to_image(&self) -> Image {
        Image::from_planes(self.bytes(), self.height, self.width)
    }
}

impl From<&Image> for Planes {
    fn from(image: &Image) -> Self {
        let mut bytes = vec![0; image.rgb.len()];
        image.write_planes(&mut bytes);
        let range = 0..bytes.len();
        Self { width: image.width, height: image.height, bytes: Bytes::Owned(Arc::new(bytes)), range }
    }
}

impl PartialEq for Planes {
    fn eq(&self, other: &Self) -> bool {
        (self.width, self.height, self.bytes()) == (other.width, other.height, other.bytes())
    }
}
