//! The fake NVML library, loaded by the agent's own binary through the real wrapper.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The library that cargo built for this test, beside it.
fn library() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("libfake_nvml.so")
}

fn agent(state: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainyard-agent"))
        .args(arguments)
        .env_clear()
        .env("FAKE_NVML_STATE", state)
        .output()
        .unwrap()
}

fn table(state: &Path) -> String {
    let library = library();
    let output = agent(state, &["batch-table", "--nvml-library", library.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_batch_table_of_the_three_gpus_is_the_promised_one() {
    let state = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fake-nvml/gpus.json");
    let wanted = "\
GPU                                  size      free   320  416  512  640 1024 1280
NVIDIA GeForce RTX 4090           24.0 GB 24200 MiB    64   64   32   32   16   10
NVIDIA GeForce RTX 5070           12.0 GB 12000 MiB    48   48   24   24   12    7
NVIDIA GeForce RTX 4060            8.0 GB  8000 MiB    32   32   16   16    8    5
";
    assert_eq!(table(&state), wanted);
}

#[test]
fn a_gpu_that_fell_off_the_bus_does_not_hide_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("gpus.json");
    let gpus = r#"{"gpus":[
        {"name":"Lost","uuid":"GPU-0","memory_total_mib":8188,"lost":true},
        {"name":"There","uuid":"GPU-1","memory_total_mib":8188,"temperature_celsius":null}]}"#;
    fs::write(&state, gpus).unwrap();
    let table = table(&state);
    assert!(table.contains("There") && !table.contains("Lost"), "{table}");
}

#[test]
fn a_library_that_does_not_load_means_no_gpus() {
    let output = agent(Path::new("/nowhere"), &["batch-table", "--nvml-library", "/nowhere/libnvml.so"]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().last(), Some("no GPUs"));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("nvml_library") && log.contains("/nowhere/libnvml.so"), "{log}");
}

#[test]
fn an_unknown_key_stops_the_agent_and_names_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    fs::write(&file, "data_root = ['/data']\n").unwrap();
    let output = agent(Path::new("/nowhere"), &["--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("unknown key `data_root`") && error.contains("`data_roots`?"), "{error}");
}
