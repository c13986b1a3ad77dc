//! Compiles the protos without `protoc`, and keeps the descriptors for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let root = "..";
    let files = ["access", "agents", "artifacts", "cluster", "datasets", "jobs", "notifications", "train"]
        .map(|name| format!("{root}/trainyard/v1/{name}.proto"));
    let descriptors = protox::compile(&files, [root])?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin"), descriptors.encode_to_vec())?;
    println!("cargo:rerun-if-changed={root}/trainyard");
    // Without the clients' own `connect`, which an agent's method of that name would collide with.
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
