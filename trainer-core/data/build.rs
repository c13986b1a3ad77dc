//! Compiles the shim over libjpeg-turbo.

const SHIM: &str = "shim/jpeg.c";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={SHIM}");
    let mut build = cc::Build::new();
    build.file(SHIM).std("c11").opt_level(2).warnings(true);
    // turbojpeg-sys says so to its direct dependants: folders with a comma between them.
    if let Ok(folders) = std::env::var("DEP_TURBOJPEG_INCLUDE") {
        build.includes(folders.split(','));
    }
    build.compile("trainyard_jpeg");
}
