//! What `export` writes. With TRAINYARD_EXPORT_DIR the files stay there, and tests/check_export.py compares
//! them with ONNX Runtime and PyTorch.

use std::path::{Path, PathBuf};
use std::process::Command;

use tch::{Device, Kind, Tensor};
use trainyard_trainer::model::{Layout, Model};
use trainyard_trainer::weights::{self, Metadata, Role};
use trainyard_types::ModelScale;

use crate::runs::alone;

/// A model whose batch normalisations do something, as a weights file.
fn make_weights(path: &Path) -> Model {
    tch::manual_seed(11);
    let model = Model::new(ModelScale::N, 3, 0, Device::Cpu);
    let _no_grad = tch::no_grad_guard();
    for entry in model.weights().iter().filter(|entry| entry.role == Role::Norm) {
        let _ = entry.tensor.shallow_clone().uniform_(0.8, 1.4);
    }
    // Statistics that fit, so that values neither vanish nor overflow 16 bits.
    for _ in 0..60 {
        model.forward(&Tensor::rand([2, 3, 96, 96], (Kind::Float, Device::Cpu)), true);
    }
    let tensors = model.weights().iter().map(|entry| (entry.name.as_str(), &entry.tensor));
    let names = r#"["red cell","it's","猫"]"#.to_owned();
    let metadata = Metadata::from([("names".to_owned(), names), ("imgsz".to_owned(), "96".to_owned())]);
    std::fs::write(path, weights::encode(tensors, &metadata).unwrap()).unwrap();
    model
}

fn export(weights: &Path, arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_trainyard-trainer"))
        .arg("export")
        .arg("--weights")
        .arg(weights)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_format_is_written_and_what_can_be_read_reads_back_equal() {
    let _alone = alone();
    let temporary = tempfile::tempdir().unwrap();
    let folder =
        std::env::var_os("TRAINYARD_EXPORT_DIR").map_or_else(|| temporary.path().into(), PathBuf::from);
    std::fs::create_dir_all(&folder).unwrap();
    let weights = folder.join("model.safetensors");
    let model = make_weights(&weights);
    let out = |name: &str| folder.join(name).to_str().unwrap().to_owned();

    export(&weights, &["--format", "onnx"]);
    export(&weights, &["--format", "onnx", "--dynamic", "--imgsz", "128,160", "--out", &out("dynamic.onnx")]);
    export(&weights, &["--format", "onnx", "--half", "--out", &out("half.onnx")]);
    let nms = ["--format", "onnx", "--nms", "--conf", "0.002", "--max-det", "50", "--dynamic"];
    export(&weights, &[&nms[..], &["--imgsz", "128,160", "--out", &out("nms.onnx")]].concat());
    export(&weights, &["--format", "pt"]);
    export(&weights, &["--format", "state-dict"]);
    export(&weights, &["--format", "pt", "--half", "--out", &out("half.pt")]);
    export(Path::new(&out("model.pt")), &["--format", "safetensors", "--out", &out("back.safetensors")]);
    assert!(std::fs::metadata(folder.join("model.onnx")).unwrap().len() > 4 * model.weights().parameters());

    for (name, kind) in [
        ("model.pt", Kind::Float),
        ("model.pth", Kind::Float),
        ("half.pt", Kind::Half),
        ("back.safetensors", Kind::Float),
    ] {
        let read = weights::read(&folder.join(name)).unwrap();
        if name != "model.pth" {
            assert_eq!(read.metadata["names"], r#"["red cell","it's","猫"]"#, "{name}");
        }
        let found = read.tensors;
        assert_eq!(found.len(), model.weights().len(), "{name}");
        for entry in model.weights().iter() {
            let expected = if entry.role == Role::Counter {
                entry.tensor.shallow_clone()
            } else {
                entry.tensor.to_kind(kind).to_kind(Kind::Float)
            };
            assert!(found[&entry.name].equal(&expected), "{name}: {}", entry.name);
        }
    }
    // What libtorch says, for the script that asks ONNX Runtime.
    let model =
        Model::from_tensors(&weights::read(&weights).unwrap().tensors, Layout::default(), Device::Cpu);
    let model = model.unwrap();
    for (name, batch, [height, width]) in [("model", 1, [96, 96]), ("dynamic", 3, [128, 160])] {
        let input = Tensor::rand([batch, 3, height, width], (Kind::Float, Device::Cpu));
        let output = model.detect(&input);
        let tensors = [("input", &input), ("output", &output)];
        std::fs::write(
            folder.join(format!("{name}.expected")),
            weights::encode(tensors, &Metadata::new()).unwrap(),
        )
        .unwrap();
    }
}

#[test]
fn weights_do_not_overwrite_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("w.safetensors");
    make_weights(&weights);
    let output = Command::new(env!("CARGO_BIN_EXE_trainyard-trainer"))
        .args(["export", "--format", "safetensors", "--weights"])
        .arg(&weights)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--out"));
}
