//! `val`, `predict` and `export` on a GPU say and write what they do on the CPU, to the byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use simulated_gpu::Machine;
use trainyard_types::trainer::exit_code;

use super::programs::{Bench, finish, trainer};

/// Runs the program in `folder`, on a machine with a GPU or on one without.
fn run(machine: Option<&Machine>, folder: &Path, arguments: &[&str]) -> Output {
    let mut command = trainer();
    command.args(arguments).current_dir(folder);
    if let Some(machine) = machine {
        machine.preload(&mut command);
    }
    let output = finish(&mut command);
    assert_eq!(output.status.code(), Some(exit_code::DONE), "{arguments:?}: {output:?}");
    output
}

/// Every file of a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let name = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries.map(|entry| (name(&entry), std::fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn val_predict_and_export_on_the_gpu_say_and_write_what_they_do_on_the_cpu() {
    let bench = Bench::new(6);
    let machine = Machine::with_memory(2048);
    let ended = bench.train(&machine);
    assert_eq!(ended.code, Some(exit_code::DONE), "{ended:?}");
    let (folder, data) = (bench.path(""), bench.spec.data.to_str().unwrap().to_owned());
    let weights = "run/weights/last.safetensors";
    let images = bench.spec.data.with_file_name("images");
    let (cpu, gpu) = (["--device", "cpu"], ["--device", "cuda:0"]);

    // Unsure boxes, as after two epochs there are no others.
    let table = |machine, device: [&str; 2]| {
        let output =
            run(machine, &folder, &[&["val", "--weights", weights, "--data", &data], &device[..]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        // The line with speeds is another one each time.
        text.lines().filter(|line| !line.contains(" ms")).map(str::to_owned).collect::<Vec<_>>()
    };
    let expected = table(None, cpu);
    assert!(expected.len() > 2, "{expected:?}");
    assert_eq!(table(Some(&machine), gpu), expected);

    let drawn = |machine, device: [&str; 2], out: &str| {
        let source = images.to_str().unwrap();
        let what = ["predict", "--weights", weights, "--source", source, "--conf", "0.001", "--save-json"];
        run(machine, &folder, &[&what[..], &["--out", out], &device].concat());
        files(&folder.join(out))
    };
    let expected = drawn(None, cpu, "on-cpu");
    assert!(expected.len() > 6 && expected["predictions.json"].len() > 1000);
    assert!(drawn(Some(&machine), gpu, "on-gpu") == expected);

    let exported = |machine, out: &str| {
        run(machine, &folder, &["export", "--weights", weights, "--format", "onnx", "--out", out]);
        std::fs::read(folder.join(out)).unwrap()
    };
    assert!(exported(None, "cpu.onnx") == exported(Some(&machine), "gpu.onnx"));
}
