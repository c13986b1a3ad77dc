//! The picture that the affine augmentation samples from: one image, or a mosaic of four, on grey.

use crate::data::image::Image;
use crate::data::labels::Label;
use crate::data::letterbox::{Fit, GREY, Letterbox};

/// An object while its image is augmented.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// Class id.
    pub class: u32,
    /// Corners in pixels, `[x1, y1, x2, y2]`.
    pub xyxy: [f32; 4],
}

impl Object {
    /// Width times height, square pixels.
    pub fn area(&self) -> f32 {
        let [x1, y1, x2, y2] = self.xyxy;
        (x2 - x1) * (y2 - y1)
    }

    /// The part inside `width` x `height` pixels.
    pub fn clipped(&self, width: f32, height: f32) -> Self {
        let [x1, y1, x2, y2] = self.xyxy;
        let xyxy = [x1.clamp(0.0, width), y1.clamp(0.0, height), x2.clamp(0.0, width), y2.clamp(0.0, height)];
        Self { class: self.class, xyxy }
    }
}

/// A square picture with a margin of one grey pixel on each side, so that whoever samples near the edge
/// blends into grey without asking where the edge is.
#[derive(Debug, Default)]
pub struct Canvas {
    side: usize,
    rgb: Vec<u8>,
    /// What is on it.
    pub objects: Vec<Object>,
}

impl Canvas {
    /// Pixels from edge to edge, without the margin.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Row `y` with its margins, `(side + 2) * 3` bytes. Rows -1 and `side` are margins: `y` is one more
    /// than the pixel's row.
    pub fn margin_row(&self, y: usize) -> &[u8] {
        let stride = (self.side + 2) * 3;
        &self.rgb[y * stride..(y + 1) * stride]
    }

    fn reset(&mut self, side: usize) {
        self.side = side;
        self.objects.clear();
        self.rgb.clear();
        self.rgb.resize((side + 2) * (side + 2) * 3, GREY);
    }

    /// Draws `image` with its top left corner at (`left`, `top`), which may be outside; what is outside
    /// is cropped, and so are `labels`. Labels without area left are dropped.
    fn paste(&mut self, image: &Image, left: isize, top: isize, labels: &[Label]) {
        let side = self.side.cast_signed();
        let (width, height) = (image.width.cast_signed(), image.height.cast_signed());
        let columns = left.clamp(0, side)..(left + width).clamp(0, side);
        if !columns.is_empty() {
            let stride = (self.side + 2) * 3;
            let bytes = columns.len() * 3;
            for y in top.clamp(0, side)..(top + height).clamp(0, side) {
                let source = (columns.start - left).cast_unsigned() * 3;
                let target = (y + 1).cast_unsigned() * stride + (columns.start + 1).cast_unsigned() * 3;
                self.rgb[target..target + bytes]
                    .copy_from_slice(&image.row((y - top).cast_unsigned())[source..source + bytes]);
            }
        }
        let (width, height) = (image.width as f32, image.height as f32);
        for label in labels {
            let [cx, cy, w, h] = label.cxcywh;
            let (x, y) = (cx * width + left as f32, cy * height + top as f32);
            let (half_w, half_h) = (w * width / 2.0, h * height / 2.0);
            let xyxy = [x - half_w, y - half_h, x + half_w, y + half_h];
            let object = Object { class: label.class, xyxy }.clipped(side as f32, side as f32);
            if object.area() > 0.0 {
                self.objects.push(object);
            }
        }
    }

    /// One image in the middle of `side` x `side` pixels.
    pub fn single(&mut self, side: usize, image: &Image, labels: &[Label]) {
        self.reset(side);
        let letterbox = Letterbox::fit([image.width, image.height], [side, side], Fit::Scale);
        let resized;
        let inner = if [image.width, image.height] == letterbox.inner {
            image
        } else {
            resized = crate::data::letterbox::resize(image, letterbox.inner[0], letterbox.inner[1]);
            &resized
        };
        self.paste(inner, letterbox.left.cast_signed(), letterbox.top.cast_signed(), labels);
    }

    /// Four images around `centre`, on a canvas of twice `side`: each touches the centre with one corner.
    pub fn mosaic(&mut self, side: usize, centre: [usize; 2], tiles: [(&Image, &[Label]); 4]) {
        self.reset(2 * side);
        let [x, y] = centre.map(usize::cast_signed);
        for (index, (image, labels)) in tiles.into_iter().enumerate() {
            let left = if index % 2 == 0 { x - image.width.cast_signed() } else { x };
            let top = if index < 2 { y - image.height.cast_signed() } else { y };
            self.paste(image, left, top, labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixel(canvas: &Canvas, x: usize, y: usize) -> u8 {
        canvas.margin_row(y + 1)[(x + 1) * 3]
    }

    const WHOLE: [Label; 1] = [Label { class: 1, cxcywh: [0.5, 0.5, 1.0, 1.0] }];

    #[test]
    fn mosaic_tiles_touch_the_centre_and_are_cropped_with_their_boxes() {
        let tiles: Vec<Image> = (1..=4).map(|value| Image::filled(8, 6, value * 10)).collect();
        let mut canvas = Canvas::default();
        let tile = |index: usize| (&tiles[index], &WHOLE[..]);
        canvas.mosaic(8, [5, 10], [tile(0), tile(1), tile(2), tile(3)]);
        assert_eq!(canvas.side(), 16);
        for (x, y, value) in [
            (4, 9, 10),
            (5, 9, 20),
            (4, 10, 30),
            (5, 10, 40),
            (0, 4, 10),
            (0, 3, GREY),
            (12, 10, 40),
            (13, 10, GREY),
            (4, 15, 30),
        ] {
            assert_eq!(pixel(&canvas, x, y), value, "{x} {y}");
        }
        let boxes: Vec<_> = canvas.objects.iter().map(|object| object.xyxy).collect();
        assert_eq!(
            boxes,
            [[0.0, 4.0, 5.0, 10.0], [5.0, 4.0, 13.0, 10.0], [0.0, 10.0, 5.0, 16.0], [5.0, 10.0, 13.0, 16.0]]
        );
    }

    #[test]
    fn a_box_that_a_crop_leaves_without_area_is_dropped() {
        let image = Image::filled(8, 8, 1);
        let corner = [Label { class: 0, cxcywh: [0.05, 0.05, 0.1, 0.1] }];
        let mut canvas = Canvas::default();
        let tile = (&image, &corner[..]);
        canvas.mosaic(8, [4, 4], [tile, tile, tile, tile]);
        // Only in the bottom right tile is the top left corner on the canvas.
        assert_eq!(canvas.objects.len(), 1);
    }

    #[test]
    fn a_single_image_lies_in_the_middle() {
        let mut canvas = Canvas::default();
        canvas.single(8, &Image::filled(8, 4, 9), &WHOLE);
        assert_eq!((pixel(&canvas, 0, 1), pixel(&canvas, 0, 2), pixel(&canvas, 7, 5)), (GREY, 9, 9));
        assert_eq!(canvas.objects[0].xyxy, [0.0, 2.0, 8.0, 6.0]);
    }
}
