use super::*;
use crate::affine::AffineParams;
use crate::image::Image;
use crate::planes::Planes;
use crate::random::{Draw, Purpose};
use crate::reference;

/// Any pixels, as unlike their neighbours as can be.
fn noise(width: usize, height: usize, draw: &mut Draw) -> Planes {
    let mut image = Image::filled(width, height, 0);
    image.rgb.iter_mut().for_each(|byte| *byte = u8::try_from(draw.below(256)).unwrap());
    Planes::from(&image)
}

fn random_scene(draw: &mut Draw, kind: usize) -> Scene {
    let side = 40 + draw.below(30);
    let tiles: Vec<Planes> = (0..9)
        .map(|_| {
            let (width, height) = (side - draw.below(25), side - draw.below(25));
            noise(width, height, draw)
        })
        .collect();
    let centre = [side / 2 + draw.below(side + 1), side / 2 + draw.below(side + 1)];
    let mut scene = Scene::default();
    match kind {
        0 => scene.single(side, (&tiles[0], &[])),
        1 => scene.mosaic(side, centre, std::array::from_fn(|index| (&tiles[index], &[][..]))),
        _ => scene.mosaic9(side, centre, std::array::from_fn(|index| (&tiles[index], &[][..]))),
    }
    scene
}

fn rendered(scene: &Scene, matrix: &Matrix, side: usize, flips: Flips) -> Vec<u8> {
    let mut sampler = Sampler::default();
    sampler.prepare(scene, matrix, side, flips);
    let mut planes = vec![0; 3 * side * side];
    let (red, rest) = planes.split_at_mut(side * side);
    let (green, blue) = rest.split_at_mut(side * side);
    for y in 0..side {
        let row = y * side..(y + 1) * side;
        sampler.row(scene, y, [&mut red[row.clone()], &mut green[row.clone()], &mut blue[row]]);
    }
    planes
}

fn check(seed: u64, params: impl Fn(&mut Draw) -> AffineParams) {
    for round in 0..90 {
        let mut draw = Draw::new(seed, 0, round, Purpose::Affine);
        let scene = random_scene(&mut draw, round % 3);
        let side = 32 + draw.below(60);
        let matrix = Matrix::new(&params(&mut draw), scene.side, side);
        let flips = Flips { up_down: draw.chance(0.5), left_right: draw.chance(0.5) };
        let found = rendered(&scene, &matrix, side, flips);
        let expected = reference::render(&scene, &matrix, side, flips);
        let worst = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(1), "seed {seed}, round {round}: off by {worst:?}");
    }
}

#[test]
fn axis_aligned_transforms_agree_with_the_reference() {
    // From far out, where a shuffle cannot reach, to far in.
    check(101, |draw| AffineParams {
        scale: 0.05 + draw.unit() * draw.unit() * 4.0,
        centre: [0.2 + 0.6 * draw.unit(), 0.2 + 0.6 * draw.unit()],
        ..AffineParams::IDENTITY
    });
}

#[test]
fn any_transform_agrees_with_the_reference() {
    check(102, |draw| {
        let mut either_way = |amount: f64| draw.between(-amount, amount);
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
fn a_mirrored_scene_and_a_folded_one_are_no_surprise() {
    check(103, |draw| AffineParams { scale: -0.5 - draw.unit(), ..AffineParams::IDENTITY });
    check(104, |_| AffineParams { scale: 0.0, ..AffineParams::IDENTITY });
}

#[test]
fn a_sampler_that_is_used_again_remembers_nothing() {
    let mut draw = Draw::new(105, 0, 0, Purpose::Affine);
    let (first, second) = (random_scene(&mut draw, 1), random_scene(&mut draw, 0));
    let matrix = Matrix::new(&AffineParams::IDENTITY, first.side, 50);
    let turned = Matrix::new(&AffineParams { degrees: 9.0, ..AffineParams::IDENTITY }, second.side, 40);
    let mut sampler = Sampler::default();
    for (scene, matrix, side) in [(&first, &matrix, 50), (&second, &turned, 40), (&first, &matrix, 50)] {
        sampler.prepare(scene, matrix, side, Flips::default());
        let expected = rendered(scene, matrix, side, Flips::default());
        let mut row = vec![0; 3 * side];
        for y in [0, side - 1, side / 2] {
            let [r, g, b] = row.get_disjoint_mut([0..side, side..2 * side, 2 * side..3 * side]).unwrap();
            sampler.row(scene, y, [r, g, b]);
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
        let mut draw = Draw::new(106, 0, round, Purpose::Colour);
        let mut planes: Vec<u8> = (0..3 * 4000).map(|_| u8::try_from(draw.below(256)).unwrap()).collect();
        // Greys and near greys, where hue and saturation are delicate.
        for index in 0..1500 {
            let grey = draw.below(250);
            for plane in 0..3 {
                planes[plane * 4000 + index] = u8::try_from(grey + draw.below(1 + index % 6)).unwrap();
            }
        }
        let gains = [0.5, 1.0, 1.0].map(|most: f64| draw.between(-most, most));
        let mut expected = planes.clone();
        reference::change_colours(&reference::Jitter::new(gains[0], gains[1], gains[2]), &mut expected);
        let [r, g, b] = planes.get_disjoint_mut([0..4000, 4000..8000, 8000..12000]).unwrap();
        let change = crate::kernels::ColourChange::new(gains[0], gains[1], gains[2]);
        crate::kernels::change_colours(r, g, b, change);
        let worst = planes.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(2), "seed 106, round {round}: off by {worst:?}");
    }
}

#[test]
fn two_pictures_blend_as_in_the_reference() {
    let mut draw = Draw::new(107, 0, 0, Purpose::Mixup);
    let mut bytes =
        |count: usize| -> Vec<u8> { (0..count).map(|_| draw.below(256).to_le_bytes()[0]).collect() };
    let (mut here, there) = (bytes(5000), bytes(5000));
    let mut expected = here.clone();
    reference::blend(&mut expected, &there, 77.0 / 256.0);
    crate::kernels::blend_pictures(&mut here, &there, 77);
    assert!(here.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= 1));
}
