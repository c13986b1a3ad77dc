//! One image is enough to train, and so is a batch of one whose deepest map is one pixel.

use std::path::Path;

use trainyard_trainer::train::session::RunEnd;
use trainyard_trainer::train::setup::Options;
use trainyard_trainer::weights;
use trainyard_types::trainer::Epoch;
use trainyard_types::{Batch, TrainSpec};

use crate::runs::events::epochs;
use crate::runs::{alone, options};

/// The losses of each epoch, after a training that must come to its end.
fn train(options: Options, faults: &str) -> Vec<f64> {
    let (end, events) = crate::runs::run_with(options, false, faults);
    assert_eq!(end.unwrap(), RunEnd::Finished, "{events:?}");
    let losses = |epoch: &Epoch| epoch.metrics["val/cls_loss"] + epoch.metrics["train/cls_loss"];
    epochs(&events).into_iter().map(losses).collect()
}

fn last(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("weights/last.safetensors")).unwrap()
}

#[test]
fn one_image_of_one_pixel_in_the_deepest_map_is_learnt_from() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 1);
    for (name, spec) in [
        ("batch 1", TrainSpec { batch: Batch::Size(1), imgsz: 32, ..crate::shapes::spec(&data, 6) }),
        ("batch 16", TrainSpec { batch: Batch::Size(16), imgsz: 32, ..crate::shapes::spec(&data, 3) }),
        (
            "sizes",
            TrainSpec {
                batch: Batch::Size(1),
                multi_scale: true,
                imgsz: 64,
                ..crate::shapes::spec(&data, 6)
            },
        ),
    ] {
        let spec = TrainSpec { nbs: 1, ..spec };
        let run = folder.path().join(name);
        let losses = train(options(&spec, &run), "");
        assert!(losses.iter().all(|loss| loss.is_finite()), "{name}: {losses:?}");
        for (tensor, value) in weights::parse(&last(&run)).unwrap().tensors {
            assert!(bool::try_from(value.isfinite().all()).unwrap(), "{name}: {tensor}");
        }
    }
}

#[test]
fn a_last_batch_of_one_resumes_bit_by_bit() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 5);
    // 4 + 1 images: an optimiser step each.
    let spec = TrainSpec { imgsz: 32, nbs: 4, warmup_epochs: 0.0, ..crate::shapes::spec(&data, 3) };
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    train(options(&spec, &whole), "");
    let mut stops = 0;
    while crate::runs::run(Options { resume: stops > 0, ..options(&spec, &parts) }, stops < 4).0.unwrap()
        == RunEnd::Stopped
    {
        stops += 1;
    }
    assert_eq!(stops, 4);
    assert!(last(&whole) == last(&parts));
}

#[test]
fn memory_for_one_image_alone_is_enough_for_small_ones() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 3);
    let spec = TrainSpec { imgsz: 32, nbs: 4, ..crate::shapes::spec(&data, 2) };
    let losses = train(options(&spec, &folder.path().join("run")), "2");
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
}
