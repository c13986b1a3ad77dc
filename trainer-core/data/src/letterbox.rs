//! Fits images into rectangles as YOLO does: bilinear resize, then a grey border.
//!
//! The resize is OpenCV's `INTER_LINEAR` on 8-bit images, 11-bit weights included: models trained
//! elsewhere saw these pixels.

use crate::image::Image;
use crate::planes::Planes;

/// The grey of borders.
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
        let inner = size.map(|side| whole((side as f64 * ratio).round_ties_even()).max(1));
        let border = |axis: usize| {
            let border = outer[axis].saturating_sub(inner[axis]);
            let border = if let Fit::Tight(stride) = fit { border % stride } else { border };
            let half = border as f64 / 2.0;
            // An odd border has its extra line right or below.
            (whole((half - 0.1).round_ties_even()), whole((half + 0.1).round_ties_even()))
        };
        let ((left, right), (top, bottom)) = (border(0), border(1));
        let outer = [left + inner[0] + right, top + inner[1] + bottom];
        Self { original: size, inner, left, top, outer }
    }

    /// Makes the letterboxed image. `image` need not have the original's size, only its shape.
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

    /// Writes the letterboxed image as planes, `[3, height, width]` of the whole. `image` need not have the
    /// original's size, only its shape.
    ///
    /// # Panics
    /// When `planes` does not have that length.
    pub fn write(&self, image: &Planes, planes: &mut [u8]) {
        let [width, height] = self.outer;
        assert_eq!(planes.len(), 3 * height * width, "three planes");
        let resized;
        let inner = if [image.width, image.height] == self.inner {
            image
        } else {
            resized = Planes::from(&resize(&image.to_image(), self.inner[0], self.inner[1]));
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

    /// A box given as shares of the image, `[cx, cy, w, h]`, as shares of the letterbox.
    pub fn place(&self, cxcywh: [f32; 4]) -> [f32; 4] {
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

    /// A box in pixels of the letterbox, `[x1, y1, x2, y2]`, in pixels of the original image, clipped.
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

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sides of images, not negative")]
fn whole(side: f64) -> usize {
    side.max(0.0) as usize
}

/// The size at which the loader keeps an image: its long side becomes `long_side`.
/// `size` and the result are `[width, height]`.
pub fn loaded_size(size: [usize; 2], long_side: usize) -> [usize; 2] {
    let ratio = long_side as f64 / size[0].max(size[1]) as f64;
    size.map(|side| whole((side as f64 * ratio).ceil()).min(long_side))
}

/// Resizes so that the long side becomes `long_side`.
pub fn load_resize(image: Image, long_side: usize) -> Image {
    if image.width.max(image.height) == long_side {
        return image;
    }
    let [width, height] = loaded_size([image.width, image.height], long_side);
    resize(&image, width, height)
}

/// The weights of a bilinear sample are whole numbers of this many bits.
const WEIGHT_BITS: u32 = 11;

/// One output position along an axis: the two inputs around it, and the weight of each.
#[derive(Clone, Copy)]
struct Tap {
    first: usize,
    second: usize,
    weights: [i32; 2],
}

/// Beyond the outermost pixel centres both inputs are the same pixel. Its weight is then whole on a row,
/// but stays split between rows, which rounds differently: so does the reference.
fn taps(from: usize, to: usize, whole_at_edges: bool) -> Vec<Tap> {
    let scale = 1.0 / (to as f64 / from as f64);
    let weight = |share: f32| {
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^11")]
        let weight = (share * (1 << WEIGHT_BITS) as f32).round_ties_even() as i32;
        weight
    };
    (0..to)
        .map(|index| {
            #[expect(clippy::cast_possible_truncation, reason = "the reference is in single precision here")]
            let position = ((index as f64 + 0.5) * scale - 0.5) as f32;
            let floor = position.floor();
            let share = position - floor;
            let below = whole(f64::from(floor)).min(from - 1);
            let (first, second) = if floor < 0.0 { (0, 0) } else { (below, (below + 1).min(from - 1)) };
            let share = if first == second && whole_at_edges { 0.0 } else { share };
            Tap { first, second, weights: [weight(1.0 - share), weight(share)] }
        })
        .collect()
}

/// Resizes to `width` x `height`, bilinear, without smoothing when it shrinks.
///
/// # Panics
/// When either image has no pixels.
pub fn resize(image: &Image, width: usize, height: usize) -> Image {
    assert!(image.width > 0 && image.height > 0 && width > 0 && height > 0, "an image has pixels");
    let (columns, rows) = (taps(image.width, width, true), taps(image.height, height, false));
    let mut resized = Image::filled(width, height, 0);
    let mut above = Row::default();
    let mut below = Row::default();
    for (y, tap) in rows.iter().enumerate() {
        // Going down, the lower row of one output row is often the upper of the next.
        if above.of != Some(tap.first) && below.of == Some(tap.first) {
            std::mem::swap(&mut above, &mut below);
        }
        above.fill(image, tap.first, &columns);
        below.fill(image, tap.second, &columns);
        let [upper, lower] = tap.weights;
        for ((out, a), b) in resized.row_mut(y).iter_mut().zip(&above.values).zip(&below.values) {
            let sum = ((upper * (a >> 4)) >> 16) + ((lower * (b >> 4)) >> 16);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of bytes")]
            let byte = ((sum + 2) >> 2) as u8;
            *out = byte;
        }
    }
    resized
}

/// A source row at the output's width, times 2^11.
#[derive(Default)]
struct Row {
    of: Option<usize>,
    values: Vec<i32>,
}

impl Row {
    fn fill(&mut self, image: &Image, y: usize, columns: &[Tap]) {
        if self.of == Some(y) {
            return;
        }
        self.of = Some(y);
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

/// Which images go together when validating, and in what shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RectPlan {
    /// All images, by rising height/width.
    pub order: Vec<usize>,
    /// The shape of each batch of `batch_size` images of `order`, `[width, height]`.
    pub shapes: Vec<[usize; 2]>,
}

/// Sorts images of `sizes` (`[width, height]`) by aspect ratio and gives each batch the smallest shape
/// that holds its images at a long side of `imgsz`, rounded up to the stride with half a stride to spare.
///
/// # Panics
/// When `batch_size` is 0.
pub fn rect_plan(sizes: &[[usize; 2]], imgsz: usize, batch_size: usize) -> RectPlan {
    const STRIDE: f64 = 32.0;
    let ratio = |index: usize| sizes[index][1] as f64 / sizes[index][0] as f64;
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by(|left, right| ratio(*left).total_cmp(&ratio(*right)));
    let shapes = order
        .chunks(batch_size)
        .map(|batch| {
            let (lowest, highest) = (ratio(batch[0]), ratio(batch[batch.len() - 1]));
            let shape = if highest < 1.0 {
                [1.0, highest]
            } else if lowest > 1.0 {
                [1.0 / lowest, 1.0]
            } else {
                [1.0, 1.0]
            };
            shape.map(|side| whole((side * imgsz as f64 / STRIDE + 0.5).ceil()) * 32)
        })
        .collect();
    RectPlan { order, shapes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_goes_into_the_letterbox_and_back() {
        let letterbox = Letterbox::fit([100, 75], [96, 64], Fit::ShrinkOnly);
        assert_eq!((letterbox.inner, letterbox.left, letterbox.top), ([85, 64], 5, 0));
        let [cx, cy, w, h] = letterbox.place([0.5, 0.4, 0.2, 0.4]);
        let corners =
            [(cx - w / 2.0) * 96.0, (cy - h / 2.0) * 64.0, (cx + w / 2.0) * 96.0, (cy + h / 2.0) * 64.0];
        let back = letterbox.to_original(corners);
        for (value, expected) in back.into_iter().zip([40.0, 15.0, 60.0, 45.0]) {
            assert!((value - expected).abs() < 1e-3, "{back:?}");
        }
        assert_eq!(letterbox.to_original([-9.0, -9.0, 999.0, 999.0]), [0.0, 0.0, 100.0, 75.0]);
    }

    #[test]
    fn an_even_image_stays_even_at_every_size() {
        for (width, height) in [(1, 1), (3, 200), (64, 48), (65, 47)] {
            let resized = resize(&Image::filled(64, 48, 93), width, height);
            assert!(resized.rgb.iter().all(|byte| *byte == 93), "{width}x{height}");
        }
    }

    #[test]
    fn bccd_at_320_validates_at_256_by_352() {
        assert_eq!(rect_plan(&[[640, 480]; 3], 320, 2).shapes, [[352, 256]; 2]);
        assert_eq!(rect_plan(&[[480, 640]], 320, 2).shapes, [[256, 352]]);
        assert_eq!(rect_plan(&[[480, 640], [640, 480]], 320, 2).shapes, [[352, 352]]);
    }
}
