//! Real training on the CPU, in seconds: it learns, and it resumes bit by bit.

use std::path::Path;

use trainyard_trainer::checkpoint::Loaded;
use trainyard_trainer::train::session::RunEnd;
use trainyard_trainer::train::setup::Options;
use trainyard_trainer::weights;
use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{Batch, TrainSpec};

use crate::runs::checkpoints::{self, newest};
use crate::runs::events::finished;
use crate::runs::{alone, options};

fn run(spec: &TrainSpec, run_dir: &Path, resume: bool, stop: bool) -> (RunEnd, Vec<TrainerEvent>) {
    let (end, events) = crate::runs::run(Options { resume, ..options(spec, run_dir) }, stop);
    (end.unwrap(), events)
}

/// Tensors whose bits differ between two runs' last weights and averages.
fn differing(a: &Path, b: &Path) -> Vec<String> {
    let (a, b) = (newest(a), newest(b));
    let metrics =
        |loaded: &Loaded| loaded.progress.rows.iter().map(|row| row.metrics.clone()).collect::<Vec<_>>();
    assert_eq!(metrics(&a), metrics(&b));
    assert_eq!(a.progress.batches, b.progress.batches);
    checkpoints::differing(&a, &b, &["model", "ema", "optimizer"])
}

#[test]
fn a_few_images_are_learnt_in_seconds() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    // Few epochs of more images: each ends with a validation and a checkpoint, which teach nothing.
    let data = crate::shapes::write(&folder.path().join("data"), 48);
    // Whether a single run gets far in so few steps is a matter of luck; whether several do on average is not.
    let found = [0, 1, 2].map(|seed| {
        let spec =
            TrainSpec { nbs: 4, fliplr: 0.5, warmup_epochs: 0.3, seed, ..crate::shapes::spec(&data, 8) };
        let run_dir = folder.path().join(format!("seed {seed}"));
        let (end, events) = run(&spec, &run_dir, false, false);
        assert_eq!(end, RunEnd::Finished);
        finished(&events).metrics["metrics/mAP50(B)"]
    });
    let mean = found.iter().sum::<f64>() / 3.0;
    println!("mAP50 {found:?}, on average {mean}");
    assert!(mean > 0.4, "mAP50 is only {found:?}");
}

#[test]
fn a_run_leaves_what_it_says_it_does() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let run_dir = folder.path().join("run");
    let (_, events) = run(&TrainSpec { nbs: 4, ..crate::shapes::spec(&data, 3) }, &run_dir, false, false);
    assert!(matches!(&events[..], [.., TrainerEvent::Checkpoint(_), TrainerEvent::Finished(_)]));
    let finished = finished(&events);
    assert!(finished.metrics.contains_key("metrics/mAP50-95(B)/tall"));
    for artifact in &finished.artifacts {
        assert!(run_dir.join(artifact).is_file(), "{} is missing", artifact.display());
    }
    let names: Vec<_> = finished.artifacts.iter().map(|path| path.to_str().unwrap()).collect();
    for name in [
        "weights/best.safetensors",
        "weights/last.safetensors",
        "args.yaml",
        "results.csv",
        "results.png",
        "labels.png",
        "confusion_matrix.png",
        "PR_curve.png",
        "F1_curve.png",
        "train_batch0.jpg",
        "train_batch2.jpg",
        "val_batch0_labels.jpg",
        "val_batch0_pred.jpg",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let started: Vec<_> = events.iter().filter(|event| matches!(event, TrainerEvent::Started(_))).collect();
    assert_eq!(started.len(), 1);
    let text = std::fs::read_to_string(run_dir.join("results.csv")).unwrap();
    assert_eq!(text.lines().count(), 4);

    let best = weights::read(&run_dir.join("weights/best.safetensors")).unwrap();
    assert_eq!(best.metadata["names"], r#"["wide","tall"]"#);
    assert_eq!(best.tensors.len(), 355);
}

#[test]
fn batches_are_shown_at_the_start_and_when_mosaics_end_and_by_a_job_that_goes_on_elsewhere() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 33);
    // Three batches an epoch, and as many in a validation's pictures.
    let spec =
        TrainSpec { mosaic: 1.0, close_mosaic: 1, batch: Batch::Size(16), ..crate::shapes::spec(&data, 3) };
    let pictures = |events: &[TrainerEvent]| {
        let names = finished(events).artifacts.iter().map(|path| path.to_str().unwrap().to_owned());
        names.filter(|name| name.contains("_batch") || name.starts_with("labels")).collect::<Vec<_>>()
    };
    let expected = |numbers: [u32; 6]| {
        let val = (0..3).flat_map(|at| ["labels", "pred"].map(|kind| format!("val_batch{at}_{kind}.jpg")));
        let train = numbers.map(|at| format!("train_batch{at}.jpg"));
        ["labels.png".to_owned()].into_iter().chain(val).chain(train).collect::<Vec<_>>()
    };
    let here = folder.path().join("here");
    assert_eq!(run(&spec, &here, false, true).0, RunEnd::Stopped);

    // Only the checkpoint goes along.
    let there = folder.path().join("there");
    let saved = |run_dir: &Path| run_dir.join("checkpoints/step-00000001");
    std::fs::create_dir_all(saved(&there)).unwrap();
    for entry in std::fs::read_dir(saved(&here)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), saved(&there).join(entry.file_name())).unwrap();
    }
    let (_, events) = run(&spec, &here, true, false);
    assert_eq!(pictures(&events), expected([0, 1, 2, 6, 7, 8]));
    let (_, events) = run(&spec, &there, true, false);
    assert_eq!(pictures(&events), expected([1, 2, 3, 6, 7, 8]));
}

#[test]
fn stopping_and_going_on_changes_no_bit() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 14);
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    // In warm-up, with mosaics and sizes that vary; the last epoch is without mosaics.
    let varied =
        TrainSpec { multi_scale: true, mosaic: 0.5, close_mosaic: 1, ..crate::shapes::spec(&data, 3) };
    let spec = TrainSpec { nbs: 16, warmup_epochs: 1.0, ..varied };
    assert_eq!(run(&spec, &whole, false, false).0, RunEnd::Finished);

    let mut stops = 0;
    for _ in 0..3 {
        // Asked to stop from the start: one batch, then a checkpoint.
        let (end, events) = run(&spec, &parts, true, true);
        assert_eq!(end, RunEnd::Stopped);
        assert!(events.iter().any(|event| matches!(event, TrainerEvent::Checkpoint(_))));
        stops += 1;
    }
    assert_eq!(stops, 3);
    assert_eq!(run(&spec, &parts, true, false).0, RunEnd::Finished);
    assert_eq!(differing(&whole, &parts), Vec::<String>::new());
}

#[test]
fn gradients_that_wait_for_a_step_survive_a_stop() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 12);
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    // No warm-up: the very first batches accumulate, three an epoch, five a step.
    let spec = TrainSpec { nbs: 20, warmup_epochs: 0.0, ..crate::shapes::spec(&data, 2) };
    assert_eq!(run(&spec, &whole, false, false).0, RunEnd::Finished);
    for _ in 0..2 {
        assert_eq!(run(&spec, &parts, true, true).0, RunEnd::Stopped);
        assert!(newest(&parts).files.contains_key("gradients.safetensors"));
    }
    assert_eq!(run(&spec, &parts, true, false).0, RunEnd::Finished);
    assert_eq!(differing(&whole, &parts), Vec::<String>::new());
}

#[test]
fn a_finished_run_that_is_resumed_only_says_so_again() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let run_dir = folder.path().join("run");
    let spec = crate::shapes::spec(&data, 1);
    let first = run(&spec, &run_dir, true, false).1;
    let second = run(&spec, &run_dir, true, false).1;
    assert_eq!(first.last(), second.last());
    assert!(!second.iter().any(|event| matches!(event, TrainerEvent::Epoch(_))));
}

#[test]
fn a_stop_in_the_last_validation_is_no_success_without_pictures() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let run_dir = folder.path().join("run");
    let spec = crate::shapes::spec(&data, 1);
    let (_, whole) = run(&spec, &run_dir, true, false);
    // All epochs are done: only that validation is left.
    std::fs::remove_file(run_dir.join("PR_curve.png")).unwrap();
    let (end, events) = run(&spec, &run_dir, true, true);
    assert_eq!(end, RunEnd::Stopped);
    assert!(!events.iter().any(|event| matches!(event, TrainerEvent::Finished(_))), "{events:?}");
    let (end, again) = run(&spec, &run_dir, true, false);
    assert_eq!((end, again.last()), (RunEnd::Finished, whole.last()));
}

#[test]
fn frozen_layers_keep_their_weights_and_statistics() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let after = |epochs: u32| {
        let run_dir = folder.path().join(format!("run{epochs}"));
        let spec = TrainSpec { freeze: 5, warmup_epochs: 0.0, nbs: 4, ..crate::shapes::spec(&data, epochs) };
        run(&spec, &run_dir, false, false);
        weights::read(&run_dir.join("weights/last.safetensors")).unwrap().tensors
    };
    let (one, two) = (after(1), after(2));
    for (name, tensor) in &one {
        let layer: usize = name.split('.').nth(1).unwrap().parse().unwrap();
        if layer < 5 || name.contains("dfl") {
            assert!(tensor.equal(&two[name]), "{name} moved");
        } else if layer < 22 && name.ends_with(".conv.weight") {
            assert!(!tensor.equal(&two[name]), "{name} did not move");
        }
    }
}
