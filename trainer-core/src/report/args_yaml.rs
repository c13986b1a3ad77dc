//! Writes args.yaml: every setting of a run, under the names that users type.

use std::io;
use std::path::Path;

use trainyard_files::write_atomically;
use trainyard_types::train::TrainSpec;

/// Writes `used`, which is `spec` with what was chosen in its place, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, spec: &TrainSpec, used: &TrainSpec) -> io::Result<()> {
    let mut text = serde_norway::to_string(used).map_err(io::Error::other)?;
    if spec.optimizer != used.optimizer {
        let asked = spec.optimizer.name();
        text.insert_str(
            0,
            &format!("# optimizer, lr0, momentum, warmup_bias_lr: what `{asked}` has chosen\n"),
        );
    }
    write_atomically(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_types::Optimizer;
    use trainyard_types::model::ModelScale;

    #[test]
    fn every_setting_is_written_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("args.yaml");
        let spec = TrainSpec::new(ModelScale::N, "/data/bccd/data.yaml");
        write(&file, &spec, &spec).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        for line in ["model: yolov8n", "data: /data/bccd/data.yaml", "imgsz: 640", "box: 7.5", "batch: -1"] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(serde_norway::from_str::<TrainSpec>(&text).unwrap(), spec);

        let asked = TrainSpec { optimizer: Optimizer::Auto, ..spec };
        let used = crate::optim::auto::resolve(&asked, 100, 3);
        write(&file, &asked, &used).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("# ") && text.contains("`auto` has chosen"), "{text}");
        assert!(text.contains("\noptimizer: AdamW\n") && text.contains("\nlr0: 0.001429\n"), "{text}");
        assert_eq!(serde_norway::from_str::<TrainSpec>(&text).unwrap(), used);
    }
}
