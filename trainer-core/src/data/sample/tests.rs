use super::*;
use crate::data::cache::CacheMode;
use crate::data::dataset::Split;
use crate::data::test_data::TestData;

fn recipe(data: &TestData, augment: AugmentConfig) -> Recipe {
    let store = Arc::new(ImageStore::new(data.open(Split::Train), 64, CacheMode::None));
    Recipe { store, augment, imgsz: 64, seed: 3, epoch: 1, mosaic: true }
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
};

#[test]
fn without_augmentation_a_sample_is_the_letterboxed_image() {
    let data = TestData::new(3, 1);
    let recipe = recipe(&data, AugmentConfig::NONE);
    let sample = recipe.make(1, &mut Scratch::default()).unwrap();
    let loaded = recipe.store.load(1).unwrap();
    let letterbox = Letterbox::fit(
        [loaded.image.width, loaded.image.height],
        [64, 64],
        crate::data::letterbox::Fit::Scale,
    );
    assert_eq!(Image::from_planes(&sample.planes, 64, 64), letterbox.apply(&loaded.image));
    let expected = letterbox.place(loaded.tile().1[0].cxcywh);
    for (found, expected) in sample.labels[0].cxcywh.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{:?}", sample.labels);
    }
}

#[test]
fn a_sample_depends_on_nothing_but_its_place() {
    let data = TestData::new(5, 1);
    let recipe = recipe(&data, ALL);
    let mut scratch = Scratch::default();
    let first: Vec<Sample> = (0..5).map(|index| recipe.make(index, &mut scratch).unwrap()).collect();
    for index in [4, 2, 0, 3, 1] {
        assert_eq!(recipe.make(index, &mut Scratch::default()).unwrap(), first[index]);
    }
    let next = Recipe { epoch: 2, ..recipe.clone() };
    assert_ne!(next.make(0, &mut scratch).unwrap(), first[0]);
    let other = Recipe { seed: 4, ..recipe };
    assert_ne!(other.make(0, &mut scratch).unwrap(), first[0]);
}

#[test]
fn labels_stay_inside_whatever_is_done() {
    let data = TestData::new(6, 1);
    let (mut scratch, mut boxes) = (Scratch::default(), 0);
    for epoch in 0..40 {
        let recipe = Recipe { epoch, ..recipe(&data, ALL) };
        for index in 0..6 {
            for label in recipe.make(index, &mut scratch).unwrap().labels {
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
fn two_flips_are_none_and_boxes_go_along() {
    let data = TestData::new(2, 1);
    let recipe = recipe(&data, AugmentConfig::NONE);
    let whole = recipe.picture(1, 1, &mut Scratch::default()).unwrap();
    for (up_down, left_right) in [(true, false), (false, true), (true, true)] {
        let mut flipped = recipe.picture(1, 1, &mut Scratch::default()).unwrap();
        flipped.objects[0].xyxy = [1.0, 2.0, 10.0, 30.0];
        flipped.flip(up_down, left_right);
        let [x1, x2] = if left_right { [54.0, 63.0] } else { [1.0, 10.0] };
        let [y1, y2] = if up_down { [34.0, 62.0] } else { [2.0, 30.0] };
        assert_eq!(flipped.objects[0].xyxy, [x1, y1, x2, y2]);
        let (x, y) = (if left_right { 63 - 20 } else { 20 }, if up_down { 63 - 40 } else { 40 });
        assert_eq!(flipped.image.row(y)[x * 3..x * 3 + 3], whole.image.row(40)[60..63]);
        flipped.flip(up_down, left_right);
        assert_eq!(flipped.image, whole.image);
    }
}

#[test]
fn closing_the_mosaic_leaves_one_image_per_sample() {
    let data = TestData::new(8, 1);
    let augment = AugmentConfig { mosaic: 1.0, mixup: 1.0, ..AugmentConfig::NONE };
    let open = recipe(&data, augment);
    let closed = Recipe { mosaic: false, ..open.clone() };
    let labels = |recipe: &Recipe| -> usize {
        (0..8).map(|index| recipe.make(index, &mut Scratch::default()).unwrap().labels.len()).sum()
    };
    assert_eq!(labels(&closed), 8);
    assert!(labels(&open) > 16, "{}", labels(&open));
}
