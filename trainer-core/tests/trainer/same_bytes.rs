//! Whatever a run writes of its weights is the same bytes for the same content.

use std::path::Path;
use std::process::Command;

use trainyard_types::TrainSpec;

use crate::runs::checkpoints::newest;
use crate::runs::{alone, options};

fn export(weights: &Path, format: &str, ending: &str) -> Vec<u8> {
    let out = weights.with_extension(ending);
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-trainer"));
    command.args(["export", "--format", format, "--weights"]).arg(weights).arg("--out").arg(&out);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(out).unwrap()
}

#[test]
fn two_runs_of_the_same_job_leave_the_same_files() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let data = crate::shapes::write(&folder.path().join("data"), 4);
    let spec = TrainSpec { nbs: 4, ..crate::shapes::spec(&data, 2) };
    let files = ["one", "other"].map(|name| {
        let run = folder.path().join(name);
        crate::runs::run(options(&spec, &run), false).0.unwrap();
        let weights = run.join("weights/best.safetensors");
        let mut files: Vec<(String, Vec<u8>)> =
            [("onnx", "onnx"), ("pt", "pt"), ("state-dict", "pth"), ("safetensors", "copy.safetensors")]
                .map(|(format, ending)| (format.to_owned(), export(&weights, format, ending)))
                .into();
        for name in ["weights/best.safetensors", "weights/last.safetensors", "args.yaml"] {
            files.push((name.to_owned(), std::fs::read(run.join(name)).unwrap()));
        }
        files.extend(newest(&run).files.into_iter().filter(|(name, _)| name.ends_with(".safetensors")));
        files.sort();
        files
    });
    let [one, other] = &files;
    assert!(one.len() >= 11, "{:?}", one.iter().map(|(name, _)| name).collect::<Vec<_>>());
    for ((name, one), (other_name, other)) in one.iter().zip(other) {
        assert_eq!(name, other_name);
        assert!(one == other, "{name} differs");
    }
}
