//! Compiles the shim over libtorch, and tells the linker where libtorch is, so that binaries and
//! tests find it when they start.

use std::path::{Path, PathBuf};

const SHIM: &str = "shim/torch.cpp";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={SHIM}");
    for name in ["DEP_TCH_LIBTORCH_LIB", "LIBTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_CXX11_ABI"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    // torch-sys says so to its direct dependants. Without it (a libtorch in a system folder) nothing is needed.
    let libraries = std::env::var("DEP_TCH_LIBTORCH_LIB").ok();
    if let Some(folder) = &libraries {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").file(SHIM).warnings(true);
    // As torch-sys compiles its own: a string of one kind is not one of the other.
    let abi = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    build.define("_GLIBCXX_USE_CXX11_ABI", abi.as_str());
    // libtorch's parallel loops are templates: without it they are compiled here as loops of one thread.
    build.flag("-fopenmp");
    if let Some(root) = root(libraries.as_deref()) {
        for folder in ["include", "include/torch/csrc/api/include"] {
            // As system headers, whose warnings are not ours to mend.
            build.flag("-isystem").flag(root.join(folder));
        }
    }
    build.compile("trainyard_shim");
}

/// Where libtorch's `include` is, found as torch-sys does.
fn root(libraries: Option<&str>) -> Option<PathBuf> {
    let told = ["LIBTORCH_INCLUDE", "LIBTORCH"].into_iter().find_map(std::env::var_os);
    let beside = libraries.and_then(|folder| Path::new(folder).parent().map(Path::to_owned));
    told.map(PathBuf::from).or(beside)
}
