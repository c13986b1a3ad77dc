//! Compiles the simulated GPU into a library of its own, which calls itself libtorch_cuda.so.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles all of `cpp/`, and links it against libtorch and its real `libc10_cuda.so`.
fn main() {
    println!("cargo:rerun-if-changed=cpp");
    let told = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is");
    let libraries = PathBuf::from(told).canonicalize().expect("libtorch is there");
    let include = libraries.join("../include");
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").files(sources()).warnings(true).cargo_metadata(false);
    // Registrations take long to compile, and libtorch's kernels do the work.
    build.opt_level(1).debug(false).pic(true).define("_GLIBCXX_USE_CXX11_ABI", "1");
    build.include("cpp/cuda");
    for folder in [include.clone(), include.join("torch/csrc/api/include"), cuda_headers(&libraries)] {
        build.flag("-isystem").flag(folder);
    }
    let objects = build.compile_intermediates();
    let library = out.join("libsimulated_gpu.so");
    let mut link = Command::new(build.get_compiler().path());
    link.args(["-shared", "-Wl,-soname,libtorch_cuda.so", "-o"]).arg(&library).args(objects);
    link.arg("-L").arg(&libraries).args(["-ltorch_cpu", "-lc10_cuda", "-lc10"]);
    link.arg(format!("-Wl,-rpath,{}", libraries.display()));
    assert!(link.status().expect("the linker starts").success(), "the simulated GPU does not link");
    // Where programs of this build are, for tests that do not link against libtorch.
    let beside =
        out.ancestors().nth(3).expect("target/PROFILE/build/PACKAGE/out").join("libsimulated_gpu.so");
    let _ = std::fs::remove_file(&beside);
    std::fs::copy(&library, &beside).expect("the target folder can be written");
    build_driver(&out, &cuda_headers(&libraries));
    println!("cargo:rustc-link-arg-tests=-Wl,-rpath,{}", libraries.display());
    println!("cargo:rustc-env=SIMULATED_GPU_LIBRARY={}", library.display());
}

/// Compiles what stands for the driver's library into a folder of its own.
fn build_driver(out: &Path, headers: &Path) {
    let folder = out.join("driver");
    std::fs::create_dir_all(&folder).expect("cargo's folder can be written");
    let compiler = cc::Build::new().cpp(true).get_compiler();
    let mut build = Command::new(compiler.path());
    build
        .args(["-std=c++20", "-O1", "-fPIC", "-shared", "-Wl,-soname,libcuda.so.1", "-isystem"])
        .arg(headers);
    build.args(["cpp/driver/libcuda.cpp", "cpp/settings.cpp", "-o"]).arg(folder.join("libcuda.so.1"));
    assert!(build.status().expect("the compiler starts").success(), "the driver's stand-in does not compile");
    println!("cargo:rustc-env=SIMULATED_DRIVER_FOLDER={}", folder.display());
}

fn sources() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("cpp").expect("it is part of the crate");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "cpp"));
    files.sort();
    files
}

/// CUDA's headers, which come with libtorch's wheel beside it; what they lack is in `cpp/cuda`.
fn cuda_headers(libraries: &Path) -> PathBuf {
    let site = libraries.parent().and_then(Path::parent).expect("libtorch lies in site-packages/torch/lib");
    site.join("nvidia/cu13/include")
}
