//! Tests of the affine step: boxes stay on their pixels, and what is left of them is kept or dropped.

use super::*;
use crate::augment::mosaic::{LabelledImage, MosaicLayout};
use crate::augment::resampler::{Flips, Resampler};
use crate::image::{Image, PlanarImage};
use crate::labels::Label;
use crate::resample::GREY;

/// A black mosaic with one bright rectangle, and the rectangle as its object.
fn layout(side: usize, left: usize, top: usize, right: usize, bottom: usize) -> MosaicLayout {
    let mut image = Image::filled(side, side, 0);
    for y in top..bottom {
        image.row_mut(y)[left * 3..right * 3].fill(255);
    }
    let share = |value: usize| value as f32 / side as f32;
    let cxcywh =
        [share(left + right) / 2.0, share(top + bottom) / 2.0, share(right - left), share(bottom - top)];
    let mut layout = MosaicLayout::default();
    let labels = [Label { class: 0, cxcywh }];
    layout.single(side, LabelledImage { image: &PlanarImage::from(&image), labels: &labels });
    layout
}

/// The box around all pixels above half brightness.
fn bright(image: &Image) -> [f32; 4] {
    let mut found = [f32::INFINITY, f32::INFINITY, 0.0, 0.0];
    for y in 0..image.height {
        for (x, pixel) in image.row(y).chunks_exact(3).enumerate() {
            if pixel[0] > 160 {
                let (x, y) = (x as f32, y as f32);
                found = [found[0].min(x), found[1].min(y), found[2].max(x + 1.0), found[3].max(y + 1.0)];
            }
        }
    }
    found
}

fn warped(layout: &MosaicLayout, params: &AffineParams, side: usize) -> (Image, Vec<Object>) {
    let matrix = Matrix::new(params, layout.side, side);
    let mut resampler = Resampler::default();
    resampler.prepare(layout, &matrix, side, Flips::default());
    let mut planes = vec![0; 3 * side * side];
    for y in 0..side {
        let row = |plane: usize| (plane * side + y) * side..(plane * side + y + 1) * side;
        resampler.row(layout, y, planes.get_disjoint_mut([row(0), row(1), row(2)]).unwrap());
    }
    (Image::from_planes(&planes, side, side), move_objects(&layout.objects, &matrix, params.scale, side))
}

#[test]
fn the_identity_changes_no_pixel_and_no_box() {
    let layout = layout(40, 10, 12, 25, 30);
    let (image, objects) = warped(&layout, &AffineParams::IDENTITY, 40);
    assert_eq!(image, layout.tiles[0].planes.to_image());
    assert_eq!(objects, layout.objects);
}

#[test]
fn boxes_stay_on_their_pixels_whatever_is_done() {
    let layout = layout(128, 40, 50, 80, 76);
    let plain = AffineParams::IDENTITY;
    for params in [
        AffineParams { scale: 1.5, ..plain },
        AffineParams { scale: 0.5, centre: [0.6, 0.4], ..plain },
        AffineParams { degrees: 90.0, ..plain },
        AffineParams { degrees: 30.0, scale: 0.8, ..plain },
        AffineParams { shear: [10.0, 0.0], ..plain },
        AffineParams { shear: [0.0, -15.0], centre: [0.45, 0.55], ..plain },
        AffineParams { perspective: [0.0005, -0.001], ..plain },
    ] {
        let (image, objects) = warped(&layout, &params, 128);
        let seen = bright(&image);
        for (side, expected) in seen.iter().zip(objects[0].xyxy) {
            // Pixels are whole, and the tip of a turned corner is faint.
            assert!((side - expected).abs() <= 2.0, "{params:?}: {seen:?} {objects:?}");
        }
    }
}

#[test]
fn outside_of_the_scene_is_grey() {
    let layout = layout(32, 0, 0, 32, 32);
    let params = AffineParams { scale: 0.5, ..AffineParams::IDENTITY };
    let (image, _) = warped(&layout, &params, 32);
    assert_eq!((image.row(0)[0], image.row(31)[95], image.row(16)[48]), (GREY, GREY, 255));
    let folded = AffineParams { scale: 0.0, ..params };
    assert!(warped(&layout, &folded, 32).0.rgb.iter().all(|byte| *byte == GREY));
}

#[test]
fn boxes_with_too_little_left_are_dropped() {
    let object = |xyxy| Object { class: 0, xyxy };
    let shift = AffineParams { centre: [0.0, 0.5], ..AffineParams::IDENTITY };
    let matrix = Matrix::new(&shift, 100, 100);
    let kept = |xyxy| !move_objects(&[object(xyxy)], &matrix, 1.0, 100).is_empty();
    // The shift takes 50 pixels off the left.
    assert!(kept([40.0, 10.0, 60.0, 30.0]));
    assert!(!kept([33.0, 10.0, 51.5, 30.0]), "less than a tenth is left");
    assert!(!kept([60.0, 10.0, 61.9, 30.0]), "two pixels or less");
    assert!(!kept([10.0, 10.0, 40.0, 30.0]), "outside");
    let (image, objects) = warped(&layout(64, 10, 10, 30, 30), &AffineParams { scale: 0.08, ..shift }, 64);
    assert!(objects.is_empty() && image.width == 64);
}
