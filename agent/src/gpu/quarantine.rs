//! GPUs that have failed, kept in one small file: a restart of the agent does not make a GPU sound.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;
use trainyard_types::{Gpu, GpuUuid, Time};

use super::xid::Comeback;
use crate::disk;

/// Why a GPU takes no job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The GPU as it was: one that has fallen off the bus cannot be asked after a restart.
    pub gpu: Gpu,
    /// When it failed, or failed again.
    pub since: Time,
    /// The driver's error; `None` when the GPU went silent or told errors of its memory.
    pub xid: Option<u64>,
    /// What was seen, for a person.
    pub sentence: String,
    /// How it comes back.
    pub comeback: Comeback,
    /// Of the machine's run in which it failed.
    pub boot_id: String,
    /// Uncorrected memory errors at that time.
    pub ecc_uncorrected: Option<u64>,
}

/// The file.
#[derive(Debug, Clone, Default)]
pub struct Ward {
    path: Option<PathBuf>,
    records: BTreeMap<GpuUuid, Record>,
}

impl Ward {
    /// Reads the file in `data_dir`; one that is missing counts as empty, one that is damaged too, which is said.
    pub fn load(data_dir: &Path) -> Self {
        let path = data_dir.join("quarantine.json");
        let read = fs::read_to_string(&path)
            .and_then(|text| serde_json::from_str::<Vec<Record>>(&text).map_err(io::Error::other));
        let records = read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(%error, path = %path.display(), "cannot read which GPUs are quarantined: none is");
            }
            Vec::new()
        });
        let records = records.into_iter().map(|record| (record.gpu.uuid.clone(), record)).collect();
        Self { path: Some(path), records }
    }

    /// The record of a GPU that is in quarantine.
    pub fn get(&self, uuid: &GpuUuid) -> Option<&Record> {
        self.records.get(uuid)
    }

    /// Every GPU that is in.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Takes a GPU in, or renews why it is.
    pub fn admit(&mut self, record: Record) {
        self.records.insert(record.gpu.uuid.clone(), record);
        self.save();
    }

    /// Lets a GPU go; says whether it was in.
    pub fn release(&mut self, uuid: &GpuUuid) -> bool {
        let was_in = self.records.remove(uuid).is_some();
        if was_in {
            self.save();
        }
        was_in
    }

    fn save(&self) {
        let Some(path) = &self.path else { return };
        let records: Vec<&Record> = self.records.values().collect();
        let bytes = serde_json::to_vec_pretty(&records).map_err(io::Error::from);
        if let Err(error) = bytes.and_then(|bytes| disk::replace(path, &bytes)) {
            warn!(%error, path = %path.display(), "cannot keep which GPUs are quarantined: a restart forgets it");
        }
    }
}

/// Names this run of the machine; empty where the kernel does not tell.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_a_restart_and_a_release_does_too() {
        let folder = tempfile::tempdir().unwrap();
        let gpu = Gpu {
            uuid: GpuUuid("GPU-1".into()),
            index: 0,
            model: "RTX".into(),
            memory_total_mib: 8188,
            compute_capability: None,
        };
        let record = Record {
            gpu: gpu.clone(),
            since: Time(5),
            xid: Some(79),
            sentence: "XID 79".into(),
            comeback: Comeback::Reboot,
            boot_id: "a".into(),
            ecc_uncorrected: None,
        };
        Ward::load(folder.path()).admit(record.clone());
        let mut again = Ward::load(folder.path());
        assert_eq!(again.get(&gpu.uuid), Some(&record));
        assert!(again.release(&gpu.uuid) && !again.release(&gpu.uuid));
        assert_eq!(Ward::load(folder.path()).records().count(), 0);
    }

    #[test]
    fn a_damaged_file_counts_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("quarantine.json"), "[{").unwrap();
        assert_eq!(Ward::load(folder.path()).records().count(), 0);
    }
}
