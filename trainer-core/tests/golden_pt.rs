//! A checkpoint of the reference holds exactly the weights that the golden set has as safetensors.

use std::path::PathBuf;

use tch::Kind;
use trainyard_trainer::weights;

#[test]
fn a_checkpoint_of_the_reference_gives_exactly_its_weights() {
    let folder = std::env::var_os("TRAINYARD_GOLDEN_DIR").map(PathBuf::from);
    let entries = folder.as_deref().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten();
    let mut paths = entries.flatten().map(|entry| entry.path());
    let Some(path) = paths.find(|path| path.extension().is_some_and(|extension| extension == "pt")) else {
        eprintln!("TRAINYARD_GOLDEN_DIR has no .pt file: nothing to compare");
        return;
    };
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
