//! Tests of validation batches: shapes, letterboxes, and boxes that go back to the file.

use super::*;
use crate::cache::image_store::CacheMode;
use crate::dataset::Split;
use crate::loader::batch::Batch;
use crate::resample::letterbox::GREY;
use crate::test_data::TestData;

fn batches(data: &TestData, workers: usize, batch_size: usize) -> Vec<Batch> {
    let store = Arc::new(ImageStore::new(data.open(Split::Val), 64, CacheMode::None));
    let loader = ValLoader::new(store, ValConfig { imgsz: 64, batch_size, workers, prefetch: 1 });
    let batches: Vec<Batch> = loader.pass().map(Result::unwrap).collect();
    assert_eq!(batches.len(), loader.batches());
    batches
}

#[test]
fn every_image_is_validated_once_whatever_the_threads() {
    let data = TestData::new(1, 9);
    let expected = batches(&data, 0, 4);
    let mut indices: Vec<usize> = expected.iter().flat_map(|batch| batch.indices.clone()).collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..9).collect::<Vec<_>>());
    assert_eq!(expected.iter().map(|batch| batch.n).collect::<Vec<_>>(), [4, 4, 1]);
    for workers in [1, 3] {
        assert_eq!(batches(&data, workers, 4), expected);
    }
}

#[test]
fn truths_are_in_pixels_of_the_batch_and_map_back_to_the_file() {
    let data = TestData::new(1, 5);
    let dataset = data.open(Split::Val);
    for batch in batches(&data, 2, 2) {
        assert!(batch.height.is_multiple_of(32) && batch.width.is_multiple_of(32));
        for image in 0..batch.n {
            let item = dataset.images.get(batch.indices[image]);
            let placement = batch.placements[image];
            assert_eq!(placement.outer, [batch.width, batch.height]);
            assert_eq!(batch.image(image).row(0)[0] == GREY, placement.left > 0 || placement.top > 0);
            let truths = batch.truths(image);
            assert_eq!(truths.len(), 1);
            let back = placement.to_original(truths[0].xyxy);
            let [cx, cy, w, h] = item.labels[0].cxcywh;
            let (width, height) = (item.width as f32, item.height as f32);
            let expected = [
                (cx - w / 2.0) * width,
                (cy - h / 2.0) * height,
                (cx + w / 2.0) * width,
                (cy + h / 2.0) * height,
            ];
            for (back, expected) in back.iter().zip(expected) {
                assert!((back - expected).abs() < 0.01, "{back} {expected}");
            }
        }
    }
}
