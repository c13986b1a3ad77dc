//! What the affine augmentation samples from: one image, or a mosaic of four or nine, on grey. The picture
//! is never put together; a scene only says which image lies where.

use crate::labels::Label;
use crate::letterbox::{Fit, Letterbox};
use crate::planes::Planes;

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

/// An image and its labels, to be laid on a scene.
pub type Pasted<'a> = (&'a Planes, &'a [Label]);

/// An image on a scene.
#[derive(Debug, Clone)]
pub struct Tile {
    /// Its pixels.
    pub planes: Planes,
    /// Where its left edge lies; may be outside of the scene, which crops it.
    pub left: isize,
    /// Where its upper edge lies; may be outside, too.
    pub top: isize,
}

impl Tile {
    /// The columns of the scene that it covers.
    pub fn columns(&self, side: usize) -> std::ops::Range<usize> {
        visible(self.left, self.planes.width, side)
    }

    /// The rows of the scene that it covers.
    pub fn rows(&self, side: usize) -> std::ops::Range<usize> {
        visible(self.top, self.planes.height, side)
    }
}

fn visible(start: isize, length: usize, side: usize) -> std::ops::Range<usize> {
    let end = start + length.cast_signed();
    let inside = |position: isize| position.clamp(0, side.cast_signed()).cast_unsigned();
    inside(start)..inside(end)
}

/// A square picture on grey, described.
#[derive(Debug, Clone, Default)]
pub struct Scene {
    /// Pixels from edge to edge.
    pub side: usize,
    /// What lies on it; where two overlap, the later one is seen.
    pub tiles: Vec<Tile>,
    /// What is on it, clipped.
    pub objects: Vec<Object>,
}

impl Scene {
    fn reset(&mut self, side: usize) {
        self.side = side;
        self.tiles.clear();
        self.objects.clear();
    }

    /// Lays an image with its top left corner at (`left`, `top`), which may be outside; what is outside is
    /// cropped, labels too. Labels without area left are dropped.
    fn paste(&mut self, (planes, labels): Pasted<'_>, left: isize, top: isize) {
        let (width, height, side) = (planes.width as f32, planes.height as f32, self.side as f32);
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
        self.tiles.push(Tile { planes: planes.clone(), left, top });
    }

    /// One image in the middle of `side` x `side` pixels.
    pub fn single(&mut self, side: usize, (planes, labels): Pasted<'_>) {
        self.reset(side);
        let letterbox = Letterbox::fit([planes.width, planes.height], [side, side], Fit::Scale);
        let resized;
        let inner = if [planes.width, planes.height] == letterbox.inner {
            planes
        } else {
            let [width, height] = letterbox.inner;
            resized = Planes::from(&crate::letterbox::resize(&planes.to_image(), width, height));
            &resized
        };
        self.paste((inner, labels), letterbox.left.cast_signed(), letterbox.top.cast_signed());
    }

    /// Four images around `centre`, on a scene of twice `side`: each touches the centre with one corner.
    pub fn mosaic(&mut self, side: usize, centre: [usize; 2], tiles: [Pasted<'_>; 4]) {
        self.reset(2 * side);
        let [x, y] = centre.map(usize::cast_signed);
        for (index, tile) in tiles.into_iter().enumerate() {
            let left = if index % 2 == 0 { x - tile.0.width.cast_signed() } else { x };
            let top = if index < 2 { y - tile.0.height.cast_signed() } else { y };
            self.paste(tile, left, top);
        }
    }

    /// Nine images on a scene of twice `side`: the first with its middle at `centre`, the others around it,
    /// clockwise from the one above. Each side neighbour shares an edge line with the first; each corner
    /// is filled by one that touches a side neighbour. Later ones cover earlier ones.
    pub fn mosaic9(&mut self, side: usize, centre: [usize; 2], tiles: [Pasted<'_>; 9]) {
        self.reset(2 * side);
        let size = tiles.map(|tile| [tile.0.width.cast_signed(), tile.0.height.cast_signed()]);
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
    use crate::image::Image;
    use crate::letterbox::GREY;
    use crate::reference::Canvas;

    fn pixel(canvas: &Canvas, x: usize, y: usize) -> u8 {
        canvas.pixel(0, x.cast_signed(), y.cast_signed())
    }

    fn even(width: usize, height: usize, value: u8) -> Planes {
        Planes::from(&Image::filled(width, height, value))
    }

    const WHOLE: [Label; 1] = [Label { class: 1, cxcywh: [0.5, 0.5, 1.0, 1.0] }];

    #[test]
    fn mosaic_tiles_touch_the_centre_and_are_cropped_with_their_boxes() {
        let tiles: Vec<Planes> = (1..=4).map(|value| even(8, 6, value * 10)).collect();
        let mut scene = Scene::default();
        scene.mosaic(8, [5, 10], std::array::from_fn(|index| (&tiles[index], &WHOLE[..])));
        assert_eq!(scene.side, 16);
        let canvas = Canvas::new(&scene);
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
        let boxes: Vec<_> = scene.objects.iter().map(|object| object.xyxy).collect();
        assert_eq!(
            boxes,
            [[0.0, 4.0, 5.0, 10.0], [5.0, 4.0, 13.0, 10.0], [0.0, 10.0, 5.0, 16.0], [5.0, 10.0, 13.0, 16.0]]
        );
    }

    #[test]
    fn nine_equal_tiles_lie_in_a_grid() {
        let tiles: Vec<Planes> = (1..=9).map(|value| even(8, 6, value * 10)).collect();
        let mut scene = Scene::default();
        scene.mosaic9(16, [16, 15], std::array::from_fn(|index| (&tiles[index], &WHOLE[..])));
        let canvas = Canvas::new(&scene);
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
            assert_eq!(pixel(&canvas, x, y), value, "{x} {y}");
        }
        assert_eq!(scene.objects.len(), 9);
    }

    #[test]
    fn a_box_that_a_crop_leaves_without_area_is_dropped() {
        let image = even(8, 8, 1);
        let corner = [Label { class: 0, cxcywh: [0.05, 0.05, 0.1, 0.1] }];
        let mut scene = Scene::default();
        scene.mosaic(8, [4, 4], [(&image, &corner[..]); 4]);
        // Only in the bottom right tile is the top left corner on the scene.
        assert_eq!(scene.objects.len(), 1);
    }

    #[test]
    fn a_single_image_lies_in_the_middle() {
        let mut scene = Scene::default();
        scene.single(8, (&even(8, 4, 9), &WHOLE));
        let canvas = Canvas::new(&scene);
        assert_eq!((pixel(&canvas, 0, 1), pixel(&canvas, 0, 2), pixel(&canvas, 7, 5)), (GREY, 9, 9));
        assert_eq!(scene.objects[0].xyxy, [0.0, 2.0, 8.0, 6.0]);
    }
}
