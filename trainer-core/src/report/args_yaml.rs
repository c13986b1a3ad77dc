//! Writes args.yaml: every setting of a run, under the names that users type.

use std::io;
use std::path::Path;

use trainyard_types::train::TrainSpec;

/// Writes `spec`, with `batch` as it was really used, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, spec: &TrainSpec) -> io::Result<()> {
    let text = serde_norway::to_string(spec).map_err(io::Error::other)?;
    super::replace(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_types::model::ModelScale;

    #[test]
    fn every_setting_is_written_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("args.yaml");
        let spec = TrainSpec::new(ModelScale::N, "/data/bccd/data.yaml");
        write(&file, &spec).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        for line in ["model: yolov8n", "data: /data/bccd/data.yaml", "imgsz: 640", "box: 7.5", "batch: -1"] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(serde_norway::from_str::<TrainSpec>(&text).unwrap(), spec);
    }
}
