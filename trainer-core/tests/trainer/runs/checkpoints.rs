//! The checkpoints that a run has left.

use std::path::Path;

use trainyard_trainer::checkpoint::{self, Loaded};
use trainyard_trainer::weights::{self, Tensors};

/// The newest whole checkpoint of a run.
pub fn newest(run_dir: &Path) -> Loaded {
    let found = checkpoint::newest(&run_dir.join("checkpoints")).unwrap();
    found.checkpoint.expect("a whole checkpoint")
}

/// The tensors of a checkpoint's file, such as `model`.
pub fn tensors(loaded: &Loaded, name: &str) -> Tensors {
    weights::parse(&loaded.files[&format!("{name}.safetensors")]).unwrap().tensors
}

/// Tensors of these files that differ in a bit between two checkpoints.
pub fn differing(a: &Loaded, b: &Loaded, files: &[&str]) -> Vec<String> {
    let of_file = |name: &&str| {
        let (a, b) = (tensors(a, name), tensors(b, name));
        a.into_iter().filter(move |(name, tensor)| !tensor.equal(&b[name])).map(|(name, _)| name)
    };
    files.iter().flat_map(of_file).collect()
}
