//! The fields of the spec that change how a run goes, and odd data sets: real training on the CPU, in seconds.

use std::fs;
use std::path::Path;

use tch::{Device, Tensor};
use trainyard_trainer::libtorch::Precision;
use trainyard_trainer::train::error::TrainError;
use trainyard_trainer::train::monitoring::divergence::Cause;
use trainyard_trainer::train::session::RunEnd;
use trainyard_trainer::train::setup::Options;
use trainyard_trainer::weights;
use trainyard_types::trainer::{TrainerEvent, exit_code};
use trainyard_types::{ModelScale, Optimizer, TrainSpec};

use crate::runs::checkpoints::{self, newest, tensors};
use crate::runs::events::{epoch_numbers, epochs, finished, logs};
use crate::runs::{alone, options};

fn run(options: Options) -> (Result<RunEnd, TrainError>, Vec<TrainerEvent>) {
    crate::runs::run(options, false)
}

/// A run that must end well.
fn finish(options: Options) -> Vec<TrainerEvent> {
    let (end, events) = run(options);
    assert_eq!(end.unwrap(), RunEnd::Finished);
    events
}

/// Tensors of the newest checkpoints that differ in a bit.
fn differing(a: &Path, b: &Path) -> usize {
    checkpoints::differing(&newest(a), &newest(b), &["model", "ema"]).len()
}

#[test]
fn with_bn_group_every_gpu_gets_the_same_weights_and_without_it_not() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    // In the second epoch 12 images are left for a step: more than `bn_group`.
    let data = crate::shapes::write(&folder.path().join("data"), 20);
    let spec = TrainSpec { nbs: 16, mosaic: 0.5, warmup_epochs: 1.0, ..crate::shapes::spec(&data, 2) };
    let train = |name: &str, bn_group: u32, batch_size: u32| {
        let run_dir = folder.path().join(name);
        let spec = TrainSpec { bn_group, ..spec.clone() };
        finish(Options { batch_size: Some(batch_size), ..options(&spec, &run_dir) });
        run_dir
    };
    let small = train("small", 4, 4);
    assert_eq!(differing(&small, &train("large", 4, 12)), 0);
    // More than the nominal batch, which would be its own.
    assert_eq!(differing(&small, &train("huge", 4, 24)), 0);
    assert!(differing(&small, &train("without", 0, 12)) > 100);
}

#[test]
fn a_gpu_that_is_too_small_for_bn_group_is_told_so_by_name() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 2);
    let spec = TrainSpec { bn_group: 4, ..crate::shapes::spec(&data, 1) };
    let (end, _) = run(Options { batch_size: Some(2), ..options(&spec, &folder.path().join("run")) });
    let error = end.unwrap_err();
    assert!(error.to_string().starts_with("`bn_group` is 4, and only 2 images fit"), "{error}");
    assert_eq!(
        (error.exit_code(), error.failed().violations[0].field.as_str()),
        (exit_code::GPU_OOM, "bn_group")
    );
}

#[test]
fn time_ends_a_run_whose_epochs_would_take_days() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let spec = TrainSpec { time: 0.0005, ..crate::shapes::spec(&data, 100_000) };
    let events = finish(options(&spec, &folder.path().join("run")));
    let planned: Vec<u32> = epochs(&events).into_iter().map(|epoch| epoch.epochs).collect();
    assert!(!planned.is_empty() && planned.iter().all(|epochs| *epochs < 100_000), "{planned:?}");
    assert!(logs(&events).iter().any(|text| text.starts_with("`time` is 0.0005 hours")), "{events:?}");
}

#[test]
fn weights_of_other_classes_are_a_start_and_the_rest_is_told() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let first = folder.path().join("first");
    finish(options(&crate::shapes::spec(&data, 1), &first));
    let pretrained = first.join("weights/last.safetensors");

    let yaml = fs::read_to_string(&data).unwrap().replace("[wide, tall]", "[wide, tall, round]");
    fs::write(&data, yaml).unwrap();
    let spec = TrainSpec { pretrained: pretrained.clone(), lr0: 1e-12, ..crate::shapes::spec(&data, 1) };
    let second = folder.path().join("second");
    let events = finish(options(&spec, &second));
    let expected = "pretrained: 349 of 355 tensors are those of";
    assert!(logs(&events).iter().any(|text| text.starts_with(expected)), "{:?}", logs(&events));
    // With a learning rate of nothing, weights stay what they began as.
    let before = weights::read(&pretrained).unwrap().tensors;
    let after = tensors(&newest(&second), "model");
    assert!(before["model.4.cv1.conv.weight"].allclose(&after["model.4.cv1.conv.weight"], 1e-6, 1e-8, false));

    // What a checkpoint holds is what counts from then on.
    fs::remove_file(&pretrained).unwrap();
    finish(Options { resume: true, ..options(&spec, &second) });
}

#[test]
fn weights_that_cannot_be_used_are_refused_by_name_before_anything_is_trained() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 2);
    let model = |scale| trainyard_trainer::model::Model::new(scale, 2, 0, Device::Cpu);
    let write = |name: &str, scale: ModelScale, change: &dyn Fn(&str, &Tensor) -> Tensor| {
        let model = model(scale);
        let tensors: Vec<(&str, Tensor)> =
            model.weights().named().map(|(name, tensor)| (name, change(name, &tensor.detach()))).collect();
        let named = tensors.iter().map(|(name, tensor)| (*name, tensor));
        let path = folder.path().join(name);
        fs::write(&path, weights::encode(named, &weights::Metadata::new()).unwrap()).unwrap();
        path
    };
    let same = |_: &str, tensor: &Tensor| tensor.copy();
    let whole = write("whole.safetensors", ModelScale::N, &same);
    let truncated = folder.path().join("truncated.safetensors");
    fs::write(&truncated, &fs::read(&whole).unwrap()[..5_000_000]).unwrap();
    let nan = write("nan.safetensors", ModelScale::N, &|name, tensor| {
        if name == "model.9.cv2.conv.weight" { tensor * f64::NAN } else { tensor.copy() }
    });
    let other = write("other.safetensors", ModelScale::S, &same);
    let hostile = folder.path().join("hostile.pt");
    fs::write(&hostile, b"PK\x03\x04 nothing else").unwrap();
    for (path, expected) in [
        (truncated, "is not a whole safetensors file"),
        (nan, "`model.9.cv2.conv.weight` has values that are not numbers"),
        (other, "these are weights of yolov8s, the model is yolov8n"),
        (hostile, "is not a whole .pt file"),
        (folder.path().join("none.pt"), "No such file"),
    ] {
        let spec = TrainSpec { pretrained: path.clone(), ..crate::shapes::spec(&data, 1) };
        let (end, events) = run(options(&spec, &folder.path().join("run")));
        let error = end.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert_eq!((error.exit_code(), error.failed().violations[0].field.as_str()), (64, "pretrained"));
        assert!(!events.iter().any(|event| matches!(event, TrainerEvent::Started(_))));
    }
    let spec = TrainSpec { pretrained: whole, ..crate::shapes::spec(&data, 1) };
    let roots = vec![folder.path().join("data")];
    let (end, _) = run(Options { data_roots: roots, ..options(&spec, &folder.path().join("run")) });
    assert!(matches!(end, Err(TrainError::PretrainedOutside(_))), "{end:?}");
}

#[test]
fn weights_that_explode_end_the_run_with_the_step_and_the_cause() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 8);
    // Each step makes weights nine times as large.
    let spec = TrainSpec {
        lr0: 10.0,
        weight_decay: 1.0,
        warmup_epochs: 0.0,
        nbs: 4,
        checkpoint_minutes: 1e-6,
        ..crate::shapes::spec(&data, 100)
    };
    let run_dir = folder.path().join("run");
    let (end, _) = run(options(&spec, &run_dir));
    let Err(TrainError::NotFinite { batch, epoch, cause }) = end else { panic!("{end:?}") };
    assert!(
        batch > 1 && epoch == u32::try_from((batch - 1) / 2 + 1).unwrap(),
        "batch {batch}, epoch {epoch}"
    );
    assert_eq!(cause, Cause::WeightDecay { weight_decay: 1.0 });
    // What is kept to resume from is from before; where a validation broke, from right before it.
    let kept = newest(&run_dir);
    assert!(kept.progress.batches <= batch, "{} and {batch}", kept.progress.batches);
    for tensor in tensors(&kept, "model").values() {
        assert!(bool::try_from(tensor.isfinite().all()).unwrap());
    }
}

#[test]
fn a_learning_rate_that_explodes_ends_the_run_by_its_name_and_is_no_success() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 8);
    for (lr0, optimizer) in [(10.0, Optimizer::Sgd), (1.0, Optimizer::Sgd), (1.0, Optimizer::AdamW)] {
        let spec = TrainSpec { lr0, optimizer, warmup_epochs: 0.0, nbs: 4, ..crate::shapes::spec(&data, 12) };
        let run_dir = folder.path().join(format!("{lr0} {}", optimizer.name()));
        let (end, events) = run(options(&spec, &run_dir));
        let error = end.expect_err("a success");
        println!("{error}");
        let (TrainError::Collapsed { batch, epoch, .. } | TrainError::NotFinite { batch, epoch, .. }) = error
        else {
            panic!("{error}")
        };
        assert!(batch > 0 && batch <= u64::from(epoch) * 2, "batch {batch}, epoch {epoch}");
        assert!(error.to_string().contains(&format!("lower `lr0` (it is {lr0}")), "{error}");
        assert_eq!((error.exit_code(), error.failed().violations[0].field.as_str()), (64, "lr0"));
        assert!(!events.iter().any(|event| matches!(event, TrainerEvent::Finished(_))), "{events:?}");
    }
}

#[test]
fn a_value_that_does_not_fit_in_16_bits_costs_a_run_its_precision_once_and_nothing_else() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 8);
    let run_dir = folder.path().join("run");
    let spec = TrainSpec { nbs: 4, ..crate::shapes::spec(&data, 3) };
    let options = |spec: &TrainSpec| Options { amp: Some(Precision::Bf16), ..options(spec, &run_dir) };
    let again = |events: &[TrainerEvent]| {
        logs(events).iter().filter(|text| text.contains("going on in fp32")).count()
    };
    let (end, events) = crate::runs::run_with(options(&spec), false, "overflow:4");
    assert_eq!(end.unwrap(), RunEnd::Finished);
    assert_eq!(again(&events), 1, "{:?}", logs(&events));
    assert_eq!(epoch_numbers(&events), [1, 2, 3], "the first epoch is kept");
    assert!(newest(&run_dir).progress.amp_off);

    // It is given up for good: a loss that is no number has another cause from then on.
    let exploding =
        TrainSpec { lr0: 10.0, weight_decay: 1.0, warmup_epochs: 0.0, ..TrainSpec { epochs: 100, ..spec } };
    let (end, events) = run(Options { resume: true, ..options(&exploding) });
    assert!(end.is_err(), "{end:?}");
    assert_eq!(again(&events), 0, "{:?}", logs(&events));
}

#[test]
fn one_value_too_large_for_fp16_costs_a_step_and_three_batches_of_them_the_precision() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 8);
    // Two batches an epoch, each a step.
    let spec = TrainSpec { nbs: 4, warmup_epochs: 0.0, ..crate::shapes::spec(&data, 4) };
    let train = |name: &str, faults: &str| {
        let run_dir = folder.path().join(name);
        let options = Options { amp: Some(Precision::Fp16), ..options(&spec, &run_dir) };
        let (end, events) = crate::runs::run_with(options, false, faults);
        assert_eq!(end.unwrap(), RunEnd::Finished);
        assert_eq!(epoch_numbers(&events), [1, 2, 3, 4]);
        for epoch in epochs(&events) {
            assert!(epoch.metrics.values().all(|value| value.is_finite()), "{epoch:?}");
        }
        (newest(&run_dir).progress, logs(&events).into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let (progress, told) = train("once", "overflow:3,overflow:5,overflow:6");
    assert_eq!((progress.fp16_off, progress.amp_off), (false, false));
    assert_eq!(progress.scaler, Some((512.0, 2)), "4096, halved three times");
    let skipped = |epoch: u32, steps: u32| {
        let start = format!("epoch {epoch}: {steps} optimiser steps were skipped");
        told.iter().any(|text| text.starts_with(&start))
    };
    assert!(skipped(2, 1) && skipped(3, 2), "{told:?}");

    let (progress, told) = train("thrice", "overflow:3,overflow:4,overflow:5");
    assert_eq!((progress.fp16_off, progress.amp_off, progress.scaler), (true, false, None));
    let going_on: Vec<_> = told.iter().filter(|text| text.contains("going on in")).collect();
    assert!(going_on.len() == 1 && going_on[0].contains("since step 3"), "{told:?}");
    assert!(going_on[0].ends_with("going on in fp32 from the newest checkpoint"), "{told:?}");
}

#[test]
fn a_loss_scale_that_every_other_batch_halves_is_used_up_in_the_end() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 56);
    // 14 batches an epoch, each a step.
    let spec = TrainSpec { nbs: 4, warmup_epochs: 0.0, ..crate::shapes::spec(&data, 2) };
    let run_dir = folder.path().join("run");
    let faults: Vec<String> = (0..13).map(|at| format!("overflow:{}", 2 * at + 1)).collect();
    let options = Options { amp: Some(Precision::Fp16), ..options(&spec, &run_dir) };
    let (end, events) = crate::runs::run_with(options, false, &faults.join(","));
    assert_eq!(end.unwrap(), RunEnd::Finished);
    let told = logs(&events);
    assert!(told.iter().any(|text| text.contains("7 optimiser steps were skipped")), "{told:?}");
    // 4096 halved 13 times is a half.
    assert_eq!(told.iter().filter(|text| text.contains("going on in fp32")).count(), 1, "{told:?}");
    assert!(newest(&run_dir).progress.fp16_off);
}

#[test]
fn a_resume_with_another_model_or_data_set_is_refused_by_name() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let run_dir = folder.path().join("run");
    let spec = crate::shapes::spec(&data, 1);
    finish(options(&spec, &run_dir));
    let refused = |spec: &TrainSpec| {
        let (end, _) = run(Options { resume: true, ..options(spec, &run_dir) });
        let Err(error @ TrainError::Foreign { .. }) = end else { panic!("{end:?}") };
        assert_eq!(error.exit_code(), exit_code::BAD_SPEC);
        error.to_string()
    };
    let text = refused(&TrainSpec { model: ModelScale::S, ..spec.clone() });
    assert!(text.contains("its model is yolov8n, not yolov8s"), "{text}");
    let text = refused(&TrainSpec { seed: 3, ..spec.clone() });
    assert!(text.contains("its `seed` is 0, not 3"), "{text}");
    let text = refused(&TrainSpec { single_cls: true, ..spec.clone() });
    assert!(text.contains("its classes are wide, tall, not object"), "{text}");
    let more = crate::shapes::write(&folder.path().join("more"), 6);
    let text = refused(&TrainSpec { data: more, ..spec.clone() });
    assert!(text.contains("it has 4 training images, not 6"), "{text}");
    let other = crate::shapes::write(&folder.path().join("other"), 4);
    for folder in ["images/003.jpg", "labels/003.txt"] {
        let from = other.with_file_name(folder);
        fs::rename(&from, from.to_str().unwrap().replace("003", "004")).unwrap();
    }
    let text = refused(&TrainSpec { data: other, ..spec.clone() });
    assert!(text.contains("its training images have other names or sizes"), "{text}");

    let text = refused(&TrainSpec { imgsz: 96, ..spec.clone() });
    assert!(text.contains("its `imgsz` is 64, not 96"), "{text}");
    let text = refused(&TrainSpec { nbs: 8, ..spec.clone() });
    assert!(text.contains("its `nbs` is 64, not 8"), "{text}");
    // Which is what `auto` stands for in so short a run.
    for optimizer in [Optimizer::AdamW, Optimizer::Auto] {
        let text = refused(&TrainSpec { optimizer, ..spec.clone() });
        assert!(text.contains("its `optimizer` is SGD, not AdamW"), "{text}");
    }
    let yaml = fs::read_to_string(&data).unwrap();
    let other_val = data.with_file_name("other_val.yaml");
    fs::write(&other_val, yaml.replace("val: images", "val: ../more/images")).unwrap();
    let text = refused(&TrainSpec { data: other_val, ..spec.clone() });
    assert!(text.contains("its validation images are others"), "{text}");

    // The same images elsewhere are fine; corrected labels are told.
    let moved = crate::shapes::write(&folder.path().join("moved"), 4);
    fs::write(moved.with_file_name("labels/000.txt"), "0 0.5 0.5 0.2 0.2\n").unwrap();
    let spec = TrainSpec { data: moved, ..spec };
    let events = finish(Options { resume: true, ..options(&spec, &run_dir) });
    assert!(
        logs(&events)
            .iter()
            .any(|text| text.contains("labels of the training and validation images have changed"))
    );
}

#[test]
fn odd_data_sets_train_to_the_end_with_numbers() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, data: &Path, single_cls: bool| {
        let run_dir = folder.path().join(name);
        let spec = TrainSpec { mosaic: 1.0, nbs: 4, single_cls, ..crate::shapes::spec(data, 2) };
        let events = finish(options(&spec, &run_dir));
        let csv = fs::read_to_string(run_dir.join("results.csv")).unwrap();
        assert_eq!(csv.lines().count(), 3);
        assert!(!csv.contains("nan") && !csv.contains("inf"), "{name}: {csv}");
        let metrics = finished(&events).metrics.clone();
        assert!(metrics.values().all(|value| value.is_finite()), "{name}: {metrics:?}");
        (metrics, logs(&events).into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let one = crate::shapes::write(&folder.path().join("one"), 1);
    check("one image", &one, false);

    let empty = crate::shapes::write(&folder.path().join("empty"), 3);
    for at in 0..3 {
        fs::write(empty.with_file_name(format!("labels/00{at}.txt")), "").unwrap();
    }
    let (metrics, told) = check("no objects", &empty, false);
    assert_eq!(metrics["metrics/mAP50-95(B)"], 0.0);
    assert!(told.iter().any(|text| text.contains("have no objects at all")), "{told:?}");

    let absent = crate::shapes::write(&folder.path().join("absent"), 4);
    let yaml = fs::read_to_string(&absent).unwrap().replace("[wide, tall]", "[wide, ghost, tall]");
    fs::write(&absent, yaml).unwrap();
    for at in [1, 3] {
        let label = absent.with_file_name(format!("labels/00{at}.txt"));
        let text = fs::read_to_string(&label).unwrap();
        fs::write(&label, text.replacen('1', "2", 1)).unwrap();
    }
    let (metrics, told) = check("a class is absent", &absent, false);
    assert!(told.iter().any(|text| text.contains("no object of class `ghost`")), "{told:?}");
    assert!(metrics.contains_key("metrics/mAP50(B)/tall") && !metrics.contains_key("metrics/mAP50(B)/ghost"));
    let (metrics, _) = check("all classes are one", &absent, true);
    assert!(metrics.contains_key("metrics/mAP50(B)/object"), "{metrics:?}");
}
