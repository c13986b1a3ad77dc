//! Fits images into rectangles as YOLO does: a bilinear resize, then a grey border.

use super::resize::{resize, to_side};
use crate::image::{Image, PlanarImage};

/// The value of all three colours in borders, and of a mosaic where no image lies.
pub const GREY: u8 = 114;

/// Where an image lies in a letterbox, all in pixels of the letterbox.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Letterbox {
    /// Size of the original image, before any resize, `[width, height]`.
    pub original: [usize; 2],
    /// Size of the image inside, `[width, height]`.
    pub inner: [usize; 2],
    /// Grey columns to the left.
    pub left: usize,
    /// Grey rows above.
    pub top: usize,
    /// Size of the whole, `[width, height]`.
    pub outer: [usize; 2],
}

/// How an image is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Fill the rectangle in one direction, whatever the image's size.
    Scale,
    /// As `Scale`, but never enlarge.
    ShrinkOnly,
    /// As `Scale`, with the least border that makes both sides multiples of this stride.
    Tight(usize),
}

impl Letterbox {
    /// Fits an image of `size` into `outer` (both `[width, height]`).
    pub fn fit(size: [usize; 2], outer: [usize; 2], fit: Fit) -> Self {
        let mut ratio = (outer[1] as f64 / size[1] as f64).min(outer[0] as f64 / size[0] as f64);
        if fit == Fit::ShrinkOnly {
            ratio = ratio.min(1.0);
        }
        let inner = size.map(|side| to_side((side as f64 * ratio).round_ties_even()).max(1));
        let border = |axis: usize| {
            let border = outer[axis].saturating_sub(inner[axis]);
            let border = if let Fit::Tight(stride) = fit { border % stride } else { border };
            let half = border as f64 / 2.0;
            // An odd border has its extra line right or below.
            (to_side((half - 0.1).round_ties_even()), to_side((half + 0.1).round_ties_even()))
        };
        let ((left, right), (top, bottom)) = (border(0), border(1));
        let outer = [left + inner[0] + right, top + inner[1] + bottom];
        Self { original: size, inner, left, top, outer }
    }

    /// The letterboxed image, of size [`Letterbox::outer`]. `image` need not have the original's size, only its aspect
    /// ratio.
    pub fn apply(&self, image: &Image) -> Image {
        let resized;
        let inner = if [image.width, image.height] == self.inner {
            image
        } else {
            resized = resize(image, self.inner[0], self.inner[1]);
            &resized
        };
        if self.inner == self.outer {
            return inner.clone();
        }
        let mut boxed = Image::filled(self.outer[0], self.outer[1], GREY);
        for y in 0..inner.height {
            let start = self.left * 3;
            boxed.row_mut(self.top + y)[start..start + inner.stride()].copy_from_slice(inner.row(y));
        }
        boxed
    }

    /// Writes the letterboxed image to `planes`, `[3, height, width]` of [`Letterbox::outer`]. `image` need not have the
    /// original's size, only its aspect ratio.
    ///
    /// # Panics
    /// When `planes` is of another length.
    pub fn write(&self, image: &PlanarImage, planes: &mut [u8]) {
        let [width, height] = self.outer;
        assert_eq!(planes.len(), 3 * height * width, "three planes");
        let resized;
        let inner = if [image.width, image.height] == self.inner {
            image
        } else {
            resized = PlanarImage::from(&resize(&image.to_image(), self.inner[0], self.inner[1]));
            &resized
        };
        if self.inner != self.outer {
            planes.fill(GREY);
        }
        for (plane, out) in planes.chunks_exact_mut(height * width).enumerate() {
            for (y, row) in out.chunks_exact_mut(width).skip(self.top).take(inner.height).enumerate() {
                row[self.left..self.left + inner.width].copy_from_slice(inner.row(plane, y));
            }
        }
    }

    /// Maps a box from shares of the image to shares of the letterbox, both `[cx, cy, w, h]`.
    pub fn to_letterbox(&self, cxcywh: [f32; 4]) -> [f32; 4] {
        let [cx, cy, w, h] = cxcywh;
        let ([inner_w, inner_h], [outer_w, outer_h]) =
            (self.inner.map(|side| side as f32), self.outer.map(|side| side as f32));
        [
            (cx * inner_w + self.left as f32) / outer_w,
            (cy * inner_h + self.top as f32) / outer_h,
            w * inner_w / outer_w,
            h * inner_h / outer_h,
        ]
    }

    /// Maps a box from pixels of the letterbox to pixels of the original image, both `[x1, y1, x2, y2]`, and clips it.
    pub fn to_original(&self, xyxy: [f32; 4]) -> [f32; 4] {
        let mut mapped = [0.0; 4];
        for (index, value) in xyxy.into_iter().enumerate() {
            let axis = index % 2;
            let offset = if axis == 0 { self.left } else { self.top } as f32;
            let limit = self.original[axis] as f32;
            mapped[index] = ((value - offset) * limit / self.inner[axis] as f32).clamp(0.0, limit);
        }
        mapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_goes_into_the_letterbox_and_back() {
        let letterbox = Letterbox::fit([100, 75], [96, 64], Fit::ShrinkOnly);
        assert_eq!((letterbox.inner, letterbox.left, letterbox.top), ([85, 64], 5, 0));
        let [cx, cy, w, h] = letterbox.to_letterbox([0.5, 0.4, 0.2, 0.4]);
        let corners =
            [(cx - w / 2.0) * 96.0, (cy - h / 2.0) * 64.0, (cx + w / 2.0) * 96.0, (cy + h / 2.0) * 64.0];
        let back = letterbox.to_original(corners);
        for (value, expected) in back.into_iter().zip([40.0, 15.0, 60.0, 45.0]) {
            assert!((value - expected).abs() < 1e-3, "{back:?}");
        }
        assert_eq!(letterbox.to_original([-9.0, -9.0, 999.0, 999.0]), [0.0, 0.0, 100.0, 75.0]);
    }
}
