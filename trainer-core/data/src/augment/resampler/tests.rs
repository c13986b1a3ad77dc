//! Tests of the fast code for pixels against the plain definition, with random mosaics and transforms.

use super::*;
use crate::augment::affine::AffineParams;
use crate::augment::mosaic::LabelledImage;
use crate::augment::{hsv, mixup, reference};
use crate::image::{Image, PlanarImage};
use crate::random::{SampleRng, Stream};

/// Any pixels, as unlike their neighbours as can be.
fn noise(width: usize, height: usize, rng: &mut SampleRng) -> PlanarImage {
    let mut image = Image::filled(width, height, 0);
    image.rgb.iter_mut().for_each(|byte| *byte = u8::try_from(rng.below(256)).unwrap());
    PlanarImage::from(&image)
}

fn random_layout(rng: &mut SampleRng, kind: usize) -> MosaicLayout {
    let side = 40 + rng.below(30);
    let tiles: Vec<PlanarImage> = (0..9)
        .map(|_| {
            let (width, height) = (side - rng.below(25), side - rng.below(25));
            noise(width, height, rng)
        })
        .collect();
    let centre = [side / 2 + rng.below(side + 1), side / 2 + rng.below(side + 1)];
    let image = |index: usize| LabelledImage { image: &tiles[index], labels: &[] };
    let mut layout = MosaicLayout::default();
    match kind {
        0 => layout.single(side, image(0)),
        1 => layout.mosaic_of_four(side, centre, std::array::from_fn(image)),
        _ => layout.mosaic_of_nine(side, centre, std::array::from_fn(image)),
    }
    layout
}

fn rendered(layout: &MosaicLayout, matrix: &Matrix, side: usize, flips: Flips) -> Vec<u8> {
    let mut resampler = Resampler::default();
    resampler.prepare(layout, matrix, side, flips);
    let mut planes = vec![0; 3 * side * side];
    let (red, rest) = planes.split_at_mut(side * side);
    let (green, blue) = rest.split_at_mut(side * side);
    for y in 0..side {
        let row = y * side..(y + 1) * side;
        resampler.row(layout, y, [&mut red[row.clone()], &mut green[row.clone()], &mut blue[row]]);
    }
    planes
}

fn check(seed: u64, params: impl Fn(&mut SampleRng) -> AffineParams) {
    for round in 0..90 {
        let mut rng = SampleRng::new(seed, 0, round, Stream::Affine);
        let layout = random_layout(&mut rng, round % 3);
        let side = 32 + rng.below(60);
        let matrix = Matrix::new(&params(&mut rng), layout.side, side);
        let flips = Flips { up_down: rng.chance(0.5), left_right: rng.chance(0.5) };
        let found = rendered(&layout, &matrix, side, flips);
        let expected = reference::render(&layout, &matrix, side, flips);
        let worst = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(1), "seed {seed}, round {round}: off by {worst:?}");
    }
}

#[test]
fn axis_aligned_transforms_agree_with_the_reference() {
    // From far out, where a shuffle cannot reach, to far in.
    check(101, |rng| AffineParams {
        scale: 0.05 + rng.unit() * rng.unit() * 4.0,
        centre: [0.2 + 0.6 * rng.unit(), 0.2 + 0.6 * rng.unit()],
        ..AffineParams::IDENTITY
    });
}

#[test]
fn any_transform_agrees_with_the_reference() {
    check(102, |rng| {
        let mut either_way = |amount: f64| rng.between(-amount, amount);
        AffineParams {
            degrees: either_way(180.0),
            scale: 1.05 + either_way(1.0),
            shear: [either_way(30.0), either_way(30.0)],
            perspective: [either_way(0.003), either_way(0.003)],
            centre: [0.5 + either_way(0.3), 0.5 + either_way(0.3)],
        }
    });
}

#[test]
fn a_mirrored_mosaic_and_a_folded_one_are_no_surprise() {
    check(103, |rng| AffineParams { scale: -0.5 - rng.unit(), ..AffineParams::IDENTITY });
    check(104, |_| AffineParams { scale: 0.0, ..AffineParams::IDENTITY });
}

#[test]
fn a_resampler_that_is_used_again_remembers_nothing() {
    let mut rng = SampleRng::new(105, 0, 0, Stream::Affine);
    let (first, second) = (random_layout(&mut rng, 1), random_layout(&mut rng, 0));
    let matrix = Matrix::new(&AffineParams::IDENTITY, first.side, 50);
    let turned = Matrix::new(&AffineParams { degrees: 9.0, ..AffineParams::IDENTITY }, second.side, 40);
    let mut resampler = Resampler::default();
    for (layout, matrix, side) in [(&first, &matrix, 50), (&second, &turned, 40), (&first, &matrix, 50)] {
        resampler.prepare(layout, matrix, side, Flips::default());
        let expected = rendered(layout, matrix, side, Flips::default());
        let mut row = vec![0; 3 * side];
        for y in [0, side - 1, side / 2] {
            let [r, g, b] = row.get_disjoint_mut([0..side, side..2 * side, 2 * side..3 * side]).unwrap();
            resampler.row(layout, y, [r, g, b]);
            let at = |plane: usize| (plane * side + y) * side;
            for plane in 0..3 {
                assert_eq!(row[plane * side..][..side], expected[at(plane)..][..side], "row {y}");
            }
        }
    }
}

#[test]
fn colours_agree_with_the_tables() {
    for round in 0..60 {
        let mut rng = SampleRng::new(106, 0, round, Stream::Colour);
        let mut planes: Vec<u8> = (0..3 * 4000).map(|_| u8::try_from(rng.below(256)).unwrap()).collect();
        // Greys and near greys, where hue and saturation are delicate.
        for index in 0..1500 {
            let grey = rng.below(250);
            for plane in 0..3 {
                planes[plane * 4000 + index] = u8::try_from(grey + rng.below(1 + index % 6)).unwrap();
            }
        }
        let gains = [0.5, 1.0, 1.0].map(|most: f64| rng.between(-most, most));
        let mut expected = planes.clone();
        reference::shift_hsv(&reference::Jitter::new(gains[0], gains[1], gains[2]), &mut expected);
        let [r, g, b] = planes.get_disjoint_mut([0..4000, 4000..8000, 8000..12000]).unwrap();
        let shift = hsv::HsvShift::new(gains[0], gains[1], gains[2]);
        hsv::shift_hsv(r, g, b, shift);
        let worst = planes.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(2), "seed 106, round {round}: off by {worst:?}");
    }
}

#[test]
fn two_pictures_blend_as_in_the_reference() {
    let mut rng = SampleRng::new(107, 0, 0, Stream::Mixup);
    let mut bytes =
        |count: usize| -> Vec<u8> { (0..count).map(|_| rng.below(256).to_le_bytes()[0]).collect() };
    let (mut here, there) = (bytes(5000), bytes(5000));
    let mut expected = here.clone();
    reference::blend(&mut expected, &there, 77.0 / 256.0);
    mixup::mixup_row(&mut here, &there, 77);
    assert!(here.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= 1));
}
