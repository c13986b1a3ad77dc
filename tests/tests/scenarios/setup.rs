//! Which libtorch `deploy/setup.sh` installs on which machine, and what it says about a driver that is too old.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/setup.sh");
const MODULE: &str = "sys/module/nvidia/version";
const WSL: [(&str, &str); 2] = [("dev/dxg", ""), ("usr/lib/wsl/lib/libcuda.so.1", "")];

/// What the script would install on a machine with these files, and what it says.
fn flavour(files: &[(&str, &str)], index: Option<&str>) -> (String, String) {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        if path.ends_with("nvidia-smi") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let mut script = Command::new("bash");
    script.args([SCRIPT, "flavour"]).env("TRAINYARD_SETUP_ROOT", root.path());
    match index {
        Some(index) => script.env("TRAINYARD_TORCH_INDEX", index),
        None => script.env_remove("TRAINYARD_TORCH_INDEX"),
    };
    let output = script.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (told, said) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success() && Path::new(SCRIPT).is_file(), "{said}");
    (told.trim().to_owned(), said)
}

#[test]
fn a_machine_gets_the_libtorch_that_its_driver_runs() {
    let proc = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version:  gcc \
                version 12.2.0 (Debian 12.2.0-14)\n";
    for (files, expected) in [
        (&[][..], "cpu"),
        (&[(MODULE, "580.95.05\n")], "cuda"),
        (&[("proc/driver/nvidia/version", proc)], "cuda"),
        (&[(MODULE, "535.183.01\n")], "cpu"),
        (&WSL, "cuda"),
        (&WSL[..1], "cpu"),
    ] {
        assert_eq!(flavour(files, None).0, expected, "{files:?}");
    }
    let [device, library] = WSL;
    let old = [device, library, ("usr/lib/wsl/lib/nvidia-smi", "#!/bin/sh\necho 560.94\n")];
    assert_eq!(flavour(&old, None).0, "cpu");
}

#[test]
fn an_old_driver_is_named_with_the_ways_out_and_one_of_them_is_a_libtorch_for_cuda_12() {
    let (_, said) = flavour(&[(MODULE, "535.183.01\n")], None);
    for part in ["535.183.01", "580 or newer", "nvidia-driver-580", "TRAINYARD_TORCH_INDEX=URL make setup"] {
        assert!(said.contains(part), "no {part} in: {said}");
    }
    let with_index = |version| flavour(&[(MODULE, version)], Some("https://example.org/cu126"));
    assert_eq!(with_index("535.183.01\n"), ("cuda".to_owned(), String::new()));
    let (told, said) = with_index("470.256.02\n");
    assert_eq!(told, "cpu");
    assert!(said.contains("needs 525 or newer") && !said.contains("make setup\n"), "{said}");
    assert_eq!(flavour(&[(MODULE, "580.95.05\n")], None).1, "");
}
