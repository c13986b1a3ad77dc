//! The real binary as an agent starts it: events on a descriptor, signals, exit codes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use trainyard_trainer::weights;
use trainyard_types::TrainSpec;
use trainyard_types::trainer::{TrainerEvent, exit_code};

use crate::runs::checkpoints::newest;
use crate::runs::events::{batch_sizes, epoch_numbers, started};
use crate::runs::process::{self, alone, event, finish, trainer};

/// Starts training with its events on standard output.
fn start(spec: &TrainSpec, run_dir: &Path, extra: &[&str], environment: &[(&str, &str)]) -> Child {
    process::train(spec, run_dir).args(extra).envs(environment.iter().copied()).spawn().unwrap()
}

fn last_weights(run_dir: &Path) -> weights::Tensors {
    weights::read(&run_dir.join("weights/last.safetensors")).unwrap().tensors
}

#[test]
fn sigterm_ends_with_a_checkpoint_and_resuming_gives_the_same_weights() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 12);
    let spec = TrainSpec { nbs: 8, ..crate::shapes::spec(&data, 5) };
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    assert_eq!(finish(start(&spec, &whole, &[], &[])).0, exit_code::DONE);

    let mut child = start(&spec, &parts, &[], &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_epoch = |line: &String| matches!(event(line), TrainerEvent::Epoch(_));
    lines.by_ref().map(Result::unwrap).find(is_epoch).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let events = lines.map(|line| event(&line.unwrap()));
    let rest: Vec<TrainerEvent> = events.filter(|event| !matches!(event, TrainerEvent::Beat(_))).collect();
    assert_eq!(child.wait().unwrap().code(), Some(exit_code::STOPPED));
    let Some(TrainerEvent::Checkpoint(saved)) = rest.last() else { panic!("no checkpoint: {rest:?}") };
    assert!(parts.join(&saved.path).is_dir());
    let progress = newest(&parts).progress;
    assert_eq!((progress.batches, progress.epoch), (saved.step, saved.epoch));
    assert!(progress.epoch < spec.epochs, "it ran to the end before it was told to stop");
    // One sheet while it trains, and the others at its end.
    let seen = [0, 1].map(|sheet| parts.join(format!("val_batch{sheet}_pred.jpg")).is_file());
    assert_eq!(seen, [true, false]);

    let (code, events) = finish(start(&spec, &parts, &["--resume"], &[]));
    assert_eq!(code, exit_code::DONE);
    assert_eq!(started(&events).first_epoch, progress.epoch + 1);
    let (whole, parts) = (last_weights(&whole), last_weights(&parts));
    let differing: Vec<&String> = whole.keys().filter(|name| !whole[*name].equal(&parts[*name])).collect();
    assert_eq!(differing, Vec::<&String>::new());
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let run_dir = folder.path().join("run");
    let spec = TrainSpec { nbs: 4, ..crate::shapes::spec(&data, 2) };
    assert_eq!(finish(start(&spec, &run_dir, &[], &[])).0, exit_code::DONE);
    std::fs::write(newest(&run_dir).directory.join("ema.safetensors"), "torn").unwrap();

    let (code, events) = finish(start(&spec, &run_dir, &["--resume"], &[]));
    assert_eq!(code, exit_code::DONE);
    let warned =
        |event: &TrainerEvent| matches!(event, TrainerEvent::Log(log) if log.message.contains("is skipped"));
    assert!(events.iter().any(warned), "{events:?}");
    assert!(epoch_numbers(&events).contains(&2));
}

#[test]
fn a_gpu_too_small_for_the_batch_gets_a_smaller_one_and_the_job_goes_on() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 12);
    let spec = crate::shapes::spec(&data, 3);
    let too_small = [("TRAINYARD_TEST_OOM_AT_BATCH", "5@2")];
    let child = start(&spec, &folder.path().join("run"), &["--batch-size", "8"], &too_small);
    let (code, events) = finish(child);
    assert_eq!(code, exit_code::DONE);
    let changes: Vec<(u32, u32)> =
        batch_sizes(&events).into_iter().map(|change| (change.from, change.to)).collect();
    assert_eq!(changes, [(8, 6), (6, 4)]);
    // The first epoch, which fitted, is not done again.
    assert_eq!(epoch_numbers(&events), [1, 2, 3]);
}

#[test]
fn an_agent_changes_the_number_of_workers_while_a_training_runs() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 8);
    let run_dir = folder.path().join("run");
    // It runs until it has answered.
    let spec = TrainSpec { workers: 2, ..crate::shapes::spec(&data, 100_000) };
    let mut command = process::train(&spec, &run_dir);
    let mut child = command.args(["--control-fd", "0"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| event(&line.unwrap()));
    let mut control = child.stdin.take().unwrap();
    let Some(TrainerEvent::Started(started)) =
        lines.by_ref().find(|event| matches!(event, TrainerEvent::Started(_)))
    else {
        panic!("never started")
    };
    control.write_all(b"{\"type\":\"worker\"}\n{\"type\":\"workers\",\"workers\":1}\n").unwrap();
    let is_answer = |event: &TrainerEvent| match event {
        TrainerEvent::Workers(_) => true,
        TrainerEvent::Log(log) => log.message.contains("control descriptor"),
        _ => false,
    };
    let answers: Vec<TrainerEvent> = lines.by_ref().filter(is_answer).take(2).collect();
    let TrainerEvent::Workers(change) = &answers[1] else { panic!("{answers:?}") };
    assert_eq!((change.from, change.to), (started.workers, 1));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(exit_code::STOPPED));
}

#[test]
fn a_gpu_too_small_for_one_image_ends_with_its_own_exit_code() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let too_small = [("TRAINYARD_TEST_OOM_AT_BATCH", "1")];
    let child = start(&crate::shapes::spec(&data, 1), &folder.path().join("run"), &[], &too_small);
    let (code, events) = finish(child);
    assert_eq!(code, exit_code::GPU_OOM);
    let Some(TrainerEvent::Failed(failed)) = events.last() else { panic!("{events:?}") };
    assert!(failed.message.contains("CUDA out of memory"), "{}", failed.message);
}

#[test]
fn what_a_gpu_that_failed_or_cudnn_says_is_told_and_no_smaller_batch_is_tried() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    // On a CPU no numbers say that cuDNN has run out of memory.
    for (name, words, advice) in [
        ("broken", "CUDA error: an illegal memory access was encountered", "--resume goes on"),
        ("both", "CUDA out of memory. CUDA error: unspecified launch failure", "--resume goes on"),
        ("cudnn", "GET was unable to find an engine to execute this computation", ""),
    ] {
        let faults = [("TRAINYARD_TEST_OOM_AT_BATCH", "1@backward"), ("TRAINYARD_TEST_OOM_WORDS", words)];
        let child = start(&crate::shapes::spec(&data, 1), &folder.path().join(name), &[], &faults);
        let (code, events) = finish(child);
        assert_eq!(code, exit_code::INTERNAL);
        let failed = |event: &&TrainerEvent| matches!(event, TrainerEvent::Failed(_));
        assert_eq!(events.iter().filter(failed).count(), 1, "{events:?}");
        let Some(TrainerEvent::Failed(failed)) = events.last() else { panic!("{events:?}") };
        assert!(failed.message.contains(words) && failed.message.contains(advice), "{}", failed.message);
        assert!(!events.iter().any(|event| matches!(event, TrainerEvent::BatchSize(_))), "{events:?}");
    }
}

#[test]
fn wrong_specs_and_data_end_with_64_and_name_what_is_wrong() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 2);
    let run_dir = folder.path().join("run");
    let fields = |spec: &TrainSpec| {
        let (code, events) = finish(start(spec, &run_dir, &[], &[]));
        assert_eq!(code, exit_code::BAD_SPEC);
        let Some(TrainerEvent::Failed(failed)) = events.last() else { panic!("{events:?}") };
        assert!(!failed.message.is_empty());
        failed.violations.iter().map(|violation| violation.field.clone()).collect::<Vec<_>>()
    };
    let good = crate::shapes::spec(&data, 1);
    assert_eq!(fields(&TrainSpec { epochs: 0, imgsz: 100, ..good.clone() }), ["epochs", "imgsz"]);
    assert_eq!(fields(&crate::shapes::spec(&folder.path().join("none.yaml"), 1)), ["data"]);
    std::fs::write(folder.path().join("data/labels/001.txt"), "7 0.5 0.5 0.1 0.1\n").unwrap();
    assert_eq!(fields(&good), ["data"]);
    assert!(!run_dir.exists(), "a wrong spec leaves nothing behind");
}

#[test]
fn a_run_directory_in_use_is_not_overwritten() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 2);
    let (spec, run_dir) = (crate::shapes::spec(&data, 1), folder.path().join("run"));
    assert_eq!(finish(start(&spec, &run_dir, &[], &[])).0, exit_code::DONE);
    let (code, events) = finish(start(&spec, &run_dir, &[], &[]));
    assert_eq!(code, exit_code::BAD_SPEC);
    assert!(
        matches!(events.last(), Some(TrainerEvent::Failed(failed)) if failed.message.contains("--resume"))
    );
}

#[test]
fn trained_weights_validate_and_predict() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 2);
    let run_dir = folder.path().join("run");
    assert_eq!(finish(start(&crate::shapes::spec(&data, 1), &run_dir, &[], &[])).0, exit_code::DONE);
    let best = run_dir.join("weights/best.safetensors");

    let output =
        trainer().args(["val", "--device", "cpu", "--weights"]).arg(&best).arg("--data").arg(&data).output();
    let output = output.unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("mAP50-95") && text.contains("wide") && text.contains("tall"), "{text}");

    let (images, out) = (folder.path().join("images"), folder.path().join("out"));
    std::fs::create_dir(&images).unwrap();
    let copy = |from: &str, to: &str| {
        std::fs::copy(folder.path().join("data/images").join(from), images.join(to)).unwrap();
    };
    for (from, to) in [("000.jpg", "a.rf.1.jpg"), ("001.jpg", "a.rf.2.jpg"), ("000.jpg", "b.jpg")] {
        copy(from, to);
    }
    let predict = |out: &Path| {
        let mut command = trainer();
        command.args(["predict", "--device", "cpu", "--save-txt", "--save-json", "--conf", "0", "--weights"]);
        command.arg(&best).arg("--source").arg(&images).arg("--out").arg(out).stderr(Stdio::piped());
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = predict(&out);
    assert_eq!(code, exit_code::DONE, "{told}");
    let json = || -> Vec<serde_json::Value> {
        serde_json::from_slice(&std::fs::read(out.join("predictions.json")).unwrap()).unwrap()
    };
    for (at, stem) in ["a.rf.1", "a.rf.2", "b"].into_iter().enumerate() {
        assert!(out.join(format!("{stem}.png")).is_file(), "{stem}");
        let lines = std::fs::read_to_string(out.join(format!("{stem}.txt"))).unwrap().lines().count();
        let seen = &json()[at];
        assert_eq!((&seen["image"], &seen["width"]), (&format!("{stem}.jpg").into(), &64.into()));
        let objects = seen["objects"].as_array().unwrap();
        assert_eq!((objects.len(), lines > 0), (lines, true));
        let first = &objects[0];
        assert!(first["name"] == "wide" || first["name"] == "tall", "{first}");
        assert_eq!(first["xyxy"].as_array().unwrap().len(), 4);
    }

    // One that cannot be read, or is of a kind that is not read, costs no other one its picture, and is counted. Folders
    // inside are looked at, hidden files are not.
    std::fs::remove_dir_all(&out).unwrap();
    std::fs::write(images.join("aa.jpg"), "no picture").unwrap();
    std::fs::write(images.join("phone.HEIC"), "no picture").unwrap();
    std::fs::write(images.join("._a.jpg"), "no picture").unwrap();
    std::fs::create_dir(images.join("in")).unwrap();
    copy("000.jpg", "in/b.jpg");
    let (code, told) = predict(&out);
    assert_eq!(code, exit_code::BAD_SPEC);
    assert!(told.contains("aa.jpg") && told.contains("2 of 6 images could not be read"), "{told}");
    assert!(told.contains("phone.HEIC: HEIC images are not read; convert it"), "{told}");
    assert!(out.join("in/b.png").is_file());
    assert!(out.join("b.png").is_file());
    assert!(json().iter().any(|seen| seen["image"] == "aa.jpg" && seen["error"].is_string()));
    assert!(json().iter().any(|seen| seen["image"] == "in/b.jpg" && seen["objects"].is_array()));

    // Sources are never written over.
    let before = std::fs::read(images.join("b.jpg")).unwrap();
    let (code, told) = predict(&images);
    assert_eq!(code, exit_code::BAD_SPEC);
    assert!(told.contains("is where the images are"), "{told}");
    assert_eq!(std::fs::read(images.join("b.jpg")).unwrap(), before);
    assert_eq!(std::fs::read_dir(&images).unwrap().count(), 7);
}

#[test]
fn a_share_of_memory_is_an_agents_to_turn_into_a_batch_size() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let spec = TrainSpec { batch: trainyard_types::Batch::Share(0.7), ..crate::shapes::spec(&data, 1) };
    let (code, events) = finish(start(&spec, &folder.path().join("run"), &[], &[]));
    assert_eq!(code, exit_code::BAD_SPEC);
    let Some(TrainerEvent::Failed(failed)) = events.last() else { panic!("{events:?}") };
    assert_eq!(failed.violations[0].field, "batch");
    assert!(failed.message.contains("0.7") && failed.message.contains("--batch-size"), "{failed:?}");
}
