//! Nobody reads what the trainer prints any more: it does its work, and is quiet.

use std::io::PipeWriter;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tch::Device;
use trainyard_trainer::model::Model;
use trainyard_trainer::weights::{self, Metadata};
use trainyard_types::{ModelScale, TrainSpec};

use crate::runs::{alone, process};

/// The writing end of a pipe that nobody reads.
fn unread() -> PipeWriter {
    std::io::pipe().unwrap().1
}

fn trainer(words: &[&str]) -> Command {
    let mut command = process::trainer();
    command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn make_weights(path: &Path) {
    let _turn = alone();
    tch::manual_seed(11);
    let model = Model::new(ModelScale::N, 2, 0, Device::Cpu);
    let metadata = Metadata::from([("imgsz".to_owned(), "64".to_owned())]);
    std::fs::write(path, weights::encode(model.weights().named(), &metadata).unwrap()).unwrap();
}

#[test]
fn no_command_panics_and_each_does_its_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let data = crate::shapes::write(&folder.path().join("data"), 5);
    let (data, images, weights) = (data.to_str().unwrap(), path("data/images"), path("w.safetensors"));
    make_weights(weights.as_ref());
    let (seen, onnx, plots, cache) = (path("seen"), path("w.onnx"), path("plots"), path("cache"));
    let cpu = ["--device", "cpu"];
    let commands: Vec<Vec<&str>> = vec![
        vec!["info", "--model", "yolov8n"],
        vec!["info", "--weights", &weights],
        vec!["info", "--libtorch"],
        vec!["check", data],
        vec!["check", "--json", data],
        vec!["cache", "--cache-dir", &cache, "ls"],
        vec!["cache", "--cache-dir", &cache, "rm", "--all"],
        vec!["cache", "--cache-dir", &cache, "verify"],
        vec!["export", "--weights", &weights, "--format", "onnx", "--out", &onnx],
        [&["val", "--weights", &weights, "--data", data, "--plots", &plots], &cpu[..]].concat(),
        [&["predict", "--weights", &weights, "--source", &images, "--out", &seen], &cpu[..]].concat(),
        vec!["--help"],
        vec!["train", "--help"],
        vec!["--version"],
        vec!["nonsense"],
        vec!["train", "--model", "nonsense"],
    ];
    for words in commands {
        let run = |change: &dyn Fn(&mut Command)| -> Output {
            let mut command = trainer(&words);
            change(&mut command);
            let child = command.spawn().unwrap();
            drop(command);
            child.wait_with_output().unwrap()
        };
        let listened = run(&|command| {
            command.stdout(Stdio::null());
        });
        let output = run(&|command| {
            command.stdout(unread());
        });
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(!said.contains("panicked") && !said.contains("broken pipe"), "{words:?}: {said}");
        assert_eq!(output.status.code(), listened.status.code(), "{words:?}: {said}");
        let deaf = run(&|command| {
            command.stdout(unread()).stderr(unread());
        });
        assert_eq!(deaf.status.code(), listened.status.code(), "{words:?}");
    }
    let files = |name: &str| std::fs::read_dir(folder.path().join(name)).unwrap().count();
    assert_eq!(files("seen"), 5, "every picture is drawn");
    assert!(files("plots") > 0 && Path::new(&onnx).is_file());
}

#[test]
fn pictures_are_drawn_though_the_reader_of_the_list_and_of_warnings_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    crate::shapes::write(&folder.path().join("data"), 3);
    std::fs::write(path("data/images/broken.jpg"), "no picture").unwrap();
    let (weights, images, seen) = (path("w.safetensors"), path("data/images"), path("seen"));
    make_weights(weights.as_ref());
    let mut command = trainer(&["predict", "--device", "cpu", "--weights", &weights, "--source", &images]);
    command.args(["--out", &seen]).stdout(unread()).stderr(unread());
    let code = command.status().unwrap().code().unwrap();
    assert_ne!(code, 101);
    assert_eq!(std::fs::read_dir(&seen).unwrap().count(), 3);
}

#[test]
fn a_training_goes_on_when_nobody_listens_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let spec = TrainSpec { nbs: 4, ..crate::shapes::spec(&data, 2) };
    let file = folder.path().join("spec.json");
    std::fs::write(&file, serde_json::to_vec(&spec).unwrap()).unwrap();
    let run = folder.path().join("run");
    // Its events go to a pipe that nobody reads, too.
    let mut command = trainer(&["train", "--device", "cpu", "--events-fd", "1", "--spec"]);
    command.arg(&file).arg("--run-dir").arg(&run).stdout(unread()).stderr(unread());
    assert_eq!(command.status().unwrap().code(), Some(0));
    assert!(run.join("weights/best.safetensors").is_file());
}
