//! A checkpoint of the reference holds exactly the weights that the golden set has as safetensors.

use std::path::{Path, PathBuf};

use tch::Kind;
use trainyard_trainer::weights;

/// The checkpoint in `folder`, if there is one.
fn checkpoint(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.find(|path| path.extension().is_some_and(|extension| extension == "pt"))
}

#[test]
fn a_checkpoint_of_the_reference_gives_exactly_its_weights() {
    // Another set may have none: then it is the repository's own, which `make` unpacks.
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/golden");
    let given = std::env::var_os("TRAINYARD_GOLDEN_DIR").map(PathBuf::from);
    let path = given.as_deref().and_then(checkpoint).or_else(|| checkpoint(&own));
    let hint = "no .pt file: unpack trainer-core/tests/golden/open.tar.xz into target/golden";
    let path = path.unwrap_or_else(|| panic!("{hint}"));
    let expected = weights::read(&path.with_file_name("weights.safetensors")).unwrap().tensors;
    let found = weights::read(&path).unwrap();
    assert_eq!(found.tensors.len(), expected.len());
    for (name, expected) in &expected {
        let found = &found.tensors[name];
        let kind = if expected.is_floating_point() { Kind::Float } else { expected.kind() };
        assert!(found.equal(&expected.to_kind(kind)), "{name}");
    }
    assert!(found.metadata.contains_key("names"), "{:?}", found.metadata);
}
