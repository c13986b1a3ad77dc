//! Tests of a training sample: what it depends on, and that the one pass equals its steps one after the other.

use super::*;
use crate::augment::reference;
use crate::cache::CacheMode;
use crate::dataset::Split;
use crate::image::Image;
use crate::resample::letterbox::Fit;
use crate::test_data::TestData;

fn builder(data: &TestData, augment: AugmentConfig) -> SampleBuilder {
    let store = Arc::new(ImageStore::new(data.open(Split::Train), 64, CacheMode::None));
    SampleBuilder { store, augment, imgsz: 64, seed: 3, epoch: 1, mosaic: true }
}

const ALL: AugmentConfig = AugmentConfig {
    hsv_h: 0.015,
    hsv_s: 0.7,
    hsv_v: 0.4,
    degrees: 20.0,
    translate: 0.1,
    scale: 0.5,
    shear: 5.0,
    perspective: 0.0005,
    flipud: 0.5,
    fliplr: 0.5,
    mosaic: 0.5,
    mixup: 0.5,
    tiles: MosaicTiles::Four,
};

/// A sample and its pixels.
fn made(builder: &SampleBuilder, index: usize, scratch: &mut Scratch) -> (Sample, Vec<u8>) {
    let mut planes = vec![0; 3 * 64 * 64];
    let sample = builder.build(index, scratch, &mut planes).unwrap();
    (sample, planes)
}

#[test]
fn without_augmentation_a_sample_is_the_letterboxed_image() {
    let data = TestData::new(3, 1);
    let builder = builder(&data, AugmentConfig::NONE);
    let (sample, planes) = made(&builder, 1, &mut Scratch::default());
    let loaded = builder.store.load(1).unwrap();
    let letterbox = Letterbox::fit([loaded.image.width, loaded.image.height], [64, 64], Fit::Scale);
    assert_eq!(Image::from_planes(&planes, 64, 64), letterbox.apply(&loaded.image.to_image()));
    let expected = letterbox.to_letterbox(loaded.labels()[0].cxcywh);
    for (found, expected) in sample.labels[0].cxcywh.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{:?}", sample.labels);
    }
}

#[test]
fn a_sample_depends_on_nothing_but_its_place() {
    let data = TestData::new(5, 1);
    let builder = builder(&data, ALL);
    let mut scratch = Scratch::default();
    let first: Vec<_> = (0..5).map(|index| made(&builder, index, &mut scratch)).collect();
    for index in [4, 2, 0, 3, 1] {
        assert_eq!(made(&builder, index, &mut Scratch::default()), first[index]);
    }
    let next = SampleBuilder { epoch: 2, ..builder.clone() };
    assert_ne!(made(&next, 0, &mut scratch), first[0]);
    let other = SampleBuilder { seed: 4, ..builder };
    assert_ne!(made(&other, 0, &mut scratch), first[0]);
}

#[test]
fn labels_stay_inside_whatever_is_done() {
    let data = TestData::new(6, 1);
    let (mut scratch, mut boxes) = (Scratch::default(), 0);
    for epoch in 0..40 {
        let builder = SampleBuilder { epoch, ..builder(&data, ALL) };
        for index in 0..6 {
            for label in made(&builder, index, &mut scratch).0.labels {
                let [cx, cy, w, h] = label.cxcywh;
                let inside = |c: f32, s: f32| c - s / 2.0 > -1e-5 && c + s / 2.0 < 1.0 + 1e-5 && s > 0.0;
                assert!(inside(cx, w) && inside(cy, h) && label.class < 2, "{label:?}");
                boxes += 1;
            }
        }
    }
    assert!(boxes > 200, "{boxes}");
}

#[test]
fn flips_turn_pixels_and_boxes_over() {
    let data = TestData::new(2, 1);
    let plain = made(&builder(&data, AugmentConfig::NONE), 1, &mut Scratch::default());
    for (flipud, fliplr) in [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
        let augment = AugmentConfig { flipud, fliplr, ..AugmentConfig::NONE };
        let (sample, planes) = made(&builder(&data, augment), 1, &mut Scratch::default());
        for (at, byte) in planes.iter().enumerate() {
            let (plane, y, x) = (at / 4096, at / 64 % 64, at % 64);
            let (y, x) = (if flipud > 0.0 { 63 - y } else { y }, if fliplr > 0.0 { 63 - x } else { x });
            assert_eq!(*byte, plain.1[(plane * 64 + y) * 64 + x], "{plane} {y} {x}");
        }
        let object = Object { class: 0, xyxy: [1.0, 2.0, 10.0, 30.0] };
        let flips = Flips { up_down: flipud > 0.0, left_right: fliplr > 0.0 };
        let cx = if flips.left_right { 58.5 } else { 5.5 } / 64.0;
        let cy = if flips.up_down { 48.0 } else { 16.0 } / 64.0;
        assert_eq!(label(&object, 64, flips).cxcywh, [cx, cy, 9.0 / 64.0, 28.0 / 64.0]);
        assert_eq!(sample.labels.len(), plain.0.labels.len());
    }
}

#[test]
fn the_one_pass_is_the_steps_one_after_the_other() {
    let data = TestData::new(7, 1);
    let mut scratch = Scratch::default();
    for epoch in 0..12 {
        for tiles in [MosaicTiles::Four, MosaicTiles::Nine] {
            // Every second one is all axis-aligned.
            let augment = AugmentConfig { tiles, mosaic: 0.8, ..ALL };
            let augment = match epoch % 2 {
                0 => augment,
                _ => AugmentConfig { degrees: 0.0, shear: 0.0, perspective: 0.0, ..augment },
            };
            let builder = SampleBuilder { epoch, ..builder(&data, augment) };
            let grey = AugmentConfig { hsv_h: 0.0, hsv_s: 0.0, hsv_v: 0.0, ..augment };
            let (_, uncoloured) = made(&SampleBuilder { augment: grey, ..builder.clone() }, 3, &mut scratch);
            let mut expected = step_by_step(&builder, 3);
            let worst = |left: &[u8], right: &[u8]| left.iter().zip(right).map(|(a, b)| a.abs_diff(*b)).max();
            let off = worst(&uncoloured, &expected);
            assert!(off <= Some(1), "epoch {epoch}, {tiles:?}: off by {off:?}");
            // Colours magnify a difference, so they start from the same pixels here.
            let (_, found) = made(&builder, 3, &mut scratch);
            expected = uncoloured;
            reference::shift_hsv(&jitter(&builder, 3), &mut expected);
            let off = worst(&found, &expected);
            assert!(off <= Some(2), "epoch {epoch}, {tiles:?}: colours off by {off:?}");
        }
    }
}

fn jitter(builder: &SampleBuilder, index: usize) -> reference::Jitter {
    let (augment, mut rng) = (&builder.augment, builder.rng(index, Stream::Colour));
    let gains = [augment.hsv_h, augment.hsv_s, augment.hsv_v].map(|most| rng.between(-most, most));
    reference::Jitter::new(gains[0], gains[1], gains[2])
}

/// The definition without colours, each step on a whole picture.
fn step_by_step(builder: &SampleBuilder, index: usize) -> Vec<u8> {
    let layer = |index: usize, sample: usize| {
        let mut layout = MosaicLayout::default();
        builder.lay_out(index, sample, &mut layout).unwrap();
        let params = builder.augment.affine(&mut builder.rng(sample, Stream::Affine));
        reference::render(&layout, &Matrix::new(&params, layout.side, 64), 64, Flips::default())
    };
    let mut planes = layer(index, index);
    let mut rng = builder.rng(index, Stream::Mixup);
    if rng.chance(builder.augment.mixup) {
        let partner = rng.below(builder.store.len());
        let share = rng.beta(32);
        reference::blend(&mut planes, &layer(partner, builder.store.len() + index), share);
    }
    let mut rng = builder.rng(index, Stream::Flip);
    let (up_down, left_right) = (rng.chance(builder.augment.flipud), rng.chance(builder.augment.fliplr));
    let flip = |at: usize, flipped: bool| if flipped { 63 - at } else { at };
    let from = |at: usize| (at / 4096 * 64 + flip(at / 64 % 64, up_down)) * 64 + flip(at % 64, left_right);
    (0..planes.len()).map(|at| planes[from(at)]).collect()
}

#[test]
fn closing_the_mosaic_leaves_one_image_per_sample() {
    let data = TestData::new(8, 1);
    let augment = AugmentConfig { mosaic: 1.0, mixup: 1.0, ..AugmentConfig::NONE };
    let open = builder(&data, augment);
    let closed = SampleBuilder { mosaic: false, ..open.clone() };
    let labels = |builder: &SampleBuilder| -> usize {
        (0..8).map(|index| made(builder, index, &mut Scratch::default()).0.labels.len()).sum()
    };
    assert_eq!(labels(&closed), 8);
    assert!(labels(&open) > 16, "{}", labels(&open));
}
