//! Whole trainings with the program.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use trainyard_trainer::weights;
use trainyard_types::trainer::{Phases, TrainerEvent, exit_code};
use trainyard_types::{Batch, TrainSpec};

use super::golden::alone;
use super::{epochs, event, gpu, shapes, sized, train, train_command};

/// A trainer that is asked to stop is killed by its agent after so long.
const TIME_TO_STOP: Duration = Duration::from_secs(20);

#[test]
fn a_run_in_16_bits_learns_and_its_weights_are_finite() {
    let _alone = alone();
    gpu();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), sized(64, 8));
    let run_dir = folder.path().join("run");
    let spec = TrainSpec { nbs: 4, warmup_epochs: 0.0, ..shapes::spec(&data, sized(12, 2)) };
    assert!(spec.amp);
    let (code, events) = train(&spec, &run_dir, &[]);
    assert_eq!(code, exit_code::DONE, "{events:?}");
    let given_up =
        |event: &TrainerEvent| matches!(event, TrainerEvent::Log(log) if log.message.contains("fp32"));
    assert!(!events.iter().any(given_up), "{events:?}");
    let losses: Vec<f64> = epochs(&events).iter().map(|epoch| epoch.metrics["train/box_loss"]).collect();
    println!("{losses:?}");
    // The first epochs of a fresh model go up and down; by the end it has learnt.
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(sized(last < first, last.is_finite()), "{losses:?}");
    let weights = weights::read(&run_dir.join("weights/last.safetensors")).unwrap().tensors;
    for (name, tensor) in &weights {
        assert_eq!(tensor.isfinite().all().int64_value(&[]), 1, "{name} is not finite");
    }
}

#[test]
fn phases_are_measured_on_some_batches_and_add_up_to_a_step() {
    let _alone = alone();
    gpu();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), sized(64, 16));
    let spec = shapes::spec(&data, 2);
    let (imgsz, amp) = sized((320, true), (64, false));
    let spec = TrainSpec { nbs: 8, imgsz, batch: Batch::Size(8), amp, ..spec };
    let (code, events) = train(&spec, &folder.path().join("run"), &[]);
    assert_eq!(code, exit_code::DONE);
    let measured: Vec<Phases> = epochs(&events).iter().filter_map(|epoch| epoch.phases).collect();
    assert!(!measured.is_empty(), "{events:?}");
    for Phases { wait, copy, forward, loss, backward, optimizer } in measured {
        let spent = [copy, forward, loss, backward, optimizer];
        assert!(spent.iter().all(|seconds| *seconds > 0.0) && wait >= 0.0, "{spent:?}");
    }
}

#[test]
fn a_run_that_is_asked_to_stop_leaves_a_checkpoint_in_time_and_goes_on_from_it() {
    let _alone = alone();
    gpu();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), sized(64, 16));
    let run_dir = folder.path().join("run");
    let (imgsz, amp) = sized((640, true), (64, false));
    let spec = TrainSpec { nbs: 4, imgsz, amp, ..shapes::spec(&data, 4) };
    let mut child = train_command(&spec, &run_dir, &["--resume"]).spawn().unwrap();
    let mut asked = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // As soon as it trains: in the first step, which takes longest.
        if matches!(event(&line.unwrap()), TrainerEvent::Started(_)) && asked.is_none() {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            asked = Some(Instant::now());
        }
    }
    let code = child.wait().unwrap().code();
    let took = asked.expect("it started").elapsed();
    println!("stopped after {took:?}");
    assert_eq!(code, Some(exit_code::STOPPED));
    assert!(took < TIME_TO_STOP, "{took:?}");
    let output = train_command(&spec, &run_dir, &["--resume"]).output().unwrap();
    assert_eq!(output.status.code(), Some(exit_code::DONE));
}

#[test]
fn two_deterministic_runs_end_with_the_same_bits() {
    let _alone = alone();
    gpu();
    let folder = tempfile::tempdir().unwrap();
    let data = shapes::write(&folder.path().join("data"), 16);
    let (imgsz, amp) = sized((320, true), (64, false));
    let spec = TrainSpec { deterministic: true, nbs: 4, imgsz, amp, ..shapes::spec(&data, 2) };
    let [first, second] = ["first", "second"].map(|name| {
        let run_dir = folder.path().join(name);
        let (code, events) = train(&spec, &run_dir, &[]);
        assert_eq!(code, exit_code::DONE, "{events:?}");
        weights::read(&run_dir.join("weights/last.safetensors")).unwrap().tensors
    });
    for (name, tensor) in &first {
        assert!(tensor.equal(&second[name]), "{name} differs");
    }
}
