//! Mosaics: one image, four or nine, on grey. The pixels of a mosaic are never put together; its layout only says which
//! image lies where, and the resampler reads from the images.

use std::ops::Range;

use crate::image::PlanarImage;
use crate::labels::{Label, Object};
use crate::resample::letterbox::{Fit, Letterbox};
use crate::resample::resize::resize;

/// An image and its labels, to be laid on a mosaic.
#[derive(Debug, Clone, Copy)]
pub struct LabelledImage<'a> {
    pub image: &'a PlanarImage,
    /// The objects, as shares of the image.
    pub labels: &'a [Label],
}

/// An image on a mosaic.
#[derive(Debug, Clone)]
pub struct Tile {
    /// The pixels of the image.
    pub planes: PlanarImage,
    /// Column of the mosaic at which its left edge lies; may be outside of the mosaic, which crops it.
    pub left: isize,
    /// Row of the mosaic at which its upper edge lies; may be outside, too.
    pub top: isize,
}

impl Tile {
    /// The columns that it covers on a mosaic of `side` pixels.
    pub fn columns(&self, side: usize) -> Range<usize> {
        visible(self.left, self.planes.width, side)
    }

    /// The rows that it covers on a mosaic of `side` pixels.
    pub fn rows(&self, side: usize) -> Range<usize> {
        visible(self.top, self.planes.height, side)
    }
}

/// What of `length` pixels from `start` on lies within 0 to `side`.
fn visible(start: isize, length: usize, side: usize) -> Range<usize> {
    let end = start + length.cast_signed();
    let inside = |position: isize| position.clamp(0, side.cast_signed()).cast_unsigned();
    inside(start)..inside(end)
}

/// A square mosaic on grey: its images, and where each lies.
#[derive(Debug, Clone, Default)]
pub struct MosaicLayout {
    /// Pixels from edge to edge.
    pub side: usize,
    /// The images on it; where two overlap, the later one is seen.
    pub tiles: Vec<Tile>,
    /// The objects on it, clipped to it.
    pub objects: Vec<Object>,
}

impl MosaicLayout {
    fn reset(&mut self, side: usize) {
        self.side = side;
        self.tiles.clear();
        self.objects.clear();
    }

    /// Lays an image with its top left corner at (`left`, `top`), which may be outside. What is outside is
    /// cropped, labels too; a label without area left is dropped.
    fn paste(&mut self, LabelledImage { image, labels }: LabelledImage<'_>, left: isize, top: isize) {
        let (width, height, side) = (image.width as f32, image.height as f32, self.side as f32);
        for label in labels {
            let [cx, cy, w, h] = label.cxcywh;
            let (x, y) = (cx * width + left as f32, cy * height + top as f32);
            let (half_w, half_h) = (w * width / 2.0, h * height / 2.0);
            let xyxy = [x - half_w, y - half_h, x + half_w, y + half_h];
            let object = Object { class: label.class, xyxy }.clipped(side, side);
            if object.area() > 0.0 {
                self.objects.push(object);
            }
        }
        self.tiles.push(Tile { planes: image.clone(), left, top });
    }

    /// One image in the middle of `side` x `side` pixels, letterboxed.
    pub fn single(&mut self, side: usize, LabelledImage { image, labels }: LabelledImage<'_>) {
        self.reset(side);
        let letterbox = Letterbox::fit([image.width, image.height], [side, side], Fit::Scale);
        let resized;
        let inner = if [image.width, image.height] == letterbox.inner {
            image
        } else {
            let [width, height] = letterbox.inner;
            resized = PlanarImage::from(&resize(&image.to_image(), width, height));
            &resized
        };
        let (left, top) = (letterbox.left.cast_signed(), letterbox.top.cast_signed());
        self.paste(LabelledImage { image: inner, labels }, left, top);
    }

    /// Four images around `centre`, `[x, y]`, on a mosaic of twice `side`: each touches the centre with one corner.
    pub fn mosaic_of_four(&mut self, side: usize, centre: [usize; 2], tiles: [LabelledImage<'_>; 4]) {
        self.reset(2 * side);
        let [x, y] = centre.map(usize::cast_signed);
        for (index, tile) in tiles.into_iter().enumerate() {
            let left = if index % 2 == 0 { x - tile.image.width.cast_signed() } else { x };
            let top = if index < 2 { y - tile.image.height.cast_signed() } else { y };
            self.paste(tile, left, top);
        }
    }

    /// Nine images on a mosaic of twice `side`: the first with its middle at `centre`, `[x, y]`, the others around it,
    /// clockwise from the one above. Each side neighbour shares an edge line with the first; each corner
    /// is filled by one that touches a side neighbour. Later ones cover earlier ones.
    pub fn mosaic_of_nine(&mut self, side: usize, centre: [usize; 2], tiles: [LabelledImage<'_>; 9]) {
        self.reset(2 * side);
        let size = tiles.map(|tile| [tile.image.width.cast_signed(), tile.image.height.cast_signed()]);
        let [x, y] = centre.map(usize::cast_signed);
        let (left, top) = (x - size[0][0] / 2, y - size[0][1] / 2);
        let (right, bottom) = (left + size[0][0], top + size[0][1]);
        let places = [
            [left, top],
            [left, top - size[1][1]],
            [left + size[1][0], top - size[2][1]],
            [right, top],
            [right, top + size[3][1]],
            [right - size[5][0], bottom],
            [right - size[5][0] - size[6][0], bottom],
            [left - size[7][0], bottom - size[7][1]],
            [left - size[8][0], bottom - size[7][1] - size[8][1]],
        ];
        for (tile, [left, top]) in tiles.into_iter().zip(places) {
            self.paste(tile, left, top);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::reference::MosaicPixels;
    use crate::image::Image;
    use crate::resample::GREY;

    fn pixel(mosaic: &MosaicPixels, x: usize, y: usize) -> u8 {
        mosaic.pixel(0, x.cast_signed(), y.cast_signed())
    }

    fn even(width: usize, height: usize, value: u8) -> PlanarImage {
        PlanarImage::from(&Image::filled(width, height, value))
    }

    const WHOLE: [Label; 1] = [Label { class: 1, cxcywh: [0.5, 0.5, 1.0, 1.0] }];

    #[test]
    fn mosaic_tiles_touch_the_centre_and_are_cropped_with_their_boxes() {
        let tiles: Vec<PlanarImage> = (1..=4).map(|value| even(8, 6, value * 10)).collect();
        let mut layout = MosaicLayout::default();
        layout.mosaic_of_four(
            8,
            [5, 10],
            std::array::from_fn(|index| LabelledImage { image: &tiles[index], labels: &WHOLE }),
        );
        assert_eq!(layout.side, 16);
        let mosaic = MosaicPixels::new(&layout);
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
            assert_eq!(pixel(&mosaic, x, y), value, "{x} {y}");
        }
        let boxes: Vec<_> = layout.objects.iter().map(|object| object.xyxy).collect();
        assert_eq!(
            boxes,
            [[0.0, 4.0, 5.0, 10.0], [5.0, 4.0, 13.0, 10.0], [0.0, 10.0, 5.0, 16.0], [5.0, 10.0, 13.0, 16.0]]
        );
    }

    #[test]
    fn nine_equal_tiles_lie_in_a_grid() {
        let tiles: Vec<PlanarImage> = (1..=9).map(|value| even(8, 6, value * 10)).collect();
        let mut layout = MosaicLayout::default();
        layout.mosaic_of_nine(
            16,
            [16, 15],
            std::array::from_fn(|index| LabelledImage { image: &tiles[index], labels: &WHOLE }),
        );
        let mosaic = MosaicPixels::new(&layout);
        for (x, y, value) in [
            (16, 15, 10),
            (16, 11, 20),
            (20, 11, 30),
            (20, 12, 40),
            (20, 18, 50),
            (19, 18, 60),
            (11, 18, 70),
            (11, 17, 80),
            (11, 11, 90),
            (4, 6, 90),
            (3, 6, GREY),
            (28, 6, GREY),
        ] {
            assert_eq!(pixel(&mosaic, x, y), value, "{x} {y}");
        }
        assert_eq!(layout.objects.len(), 9);
    }

    #[test]
    fn a_box_that_a_crop_leaves_without_area_is_dropped() {
        let image = even(8, 8, 1);
        let corner = [Label { class: 0, cxcywh: [0.05, 0.05, 0.1, 0.1] }];
        let mut layout = MosaicLayout::default();
        layout.mosaic_of_four(8, [4, 4], [LabelledImage { image: &image, labels: &corner }; 4]);
        // Only in the bottom right tile is the top left corner on the mosaic.
        assert_eq!(layout.objects.len(), 1);
    }

    #[test]
    fn a_single_image_lies_in_the_middle() {
        let mut layout = MosaicLayout::default();
        layout.single(8, LabelledImage { image: &even(8, 4, 9), labels: &WHOLE });
        let mosaic = MosaicPixels::new(&layout);
        assert_eq!((pixel(&mosaic, 0, 1), pixel(&mosaic, 0, 2), pixel(&mosaic, 7, 5)), (GREY, 9, 9));
        assert_eq!(layout.objects[0].xyxy, [0.0, 2.0, 8.0, 6.0]);
    }
}
