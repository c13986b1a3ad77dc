//! GPUs that have failed, kept in one small file: a restart of the agent does not make a GPU sound.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;
use trainyard_files::write_atomically;
use trainyard_types::{Gpu, GpuUuid, Time};

use super::xid::ReleaseCondition;

/// Why a GPU is in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineRecord {
    /// The GPU as it was: one that has fallen off the bus cannot be asked after a restart.
    pub gpu: Gpu,
    /// When it failed, or failed again.
    pub since: Time,
    /// The driver's error; `None` when the GPU vanished or counted memory errors.
    pub xid: Option<u64>,
    /// What was seen, a sentence for a person.
    #[serde(rename = "sentence")]
    pub reason: String,
    /// What ends its quarantine.
    #[serde(rename = "comeback")]
    pub release: ReleaseCondition,
    /// The boot of the machine in which it failed, see [`boot_id`].
    pub boot_id: String,
    /// Uncorrected memory errors at that time.
    pub ecc_uncorrected: Option<u64>,
}

/// The GPUs in quarantine, and the file that keeps them.
#[derive(Debug, Clone, Default)]
pub struct QuarantineStore {
    path: Option<PathBuf>,
    records: BTreeMap<GpuUuid, QuarantineRecord>,
}

impl QuarantineStore {
    /// Reads the file in `data_dir`; one that is missing counts as empty, one that is damaged too, which is said.
    pub fn load(data_dir: &Path) -> Self {
        let path = data_dir.join("quarantine.json");
        let read = fs::read_to_string(&path)
            .and_then(|text| serde_json::from_str::<Vec<QuarantineRecord>>(&text).map_err(io::Error::other));
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
    pub fn get(&self, uuid: &GpuUuid) -> Option<&QuarantineRecord> {
        self.records.get(uuid)
    }

    /// The record of every GPU that is in quarantine.
    pub fn records(&self) -> impl Iterator<Item = &QuarantineRecord> {
        self.records.values()
    }

    /// Puts a GPU into quarantine, or renews why it is there.
    pub fn add(&mut self, record: QuarantineRecord) {
        self.records.insert(record.gpu.uuid.clone(), record);
        self.save();
    }

    /// Ends the quarantine of a GPU; returns whether it was in quarantine.
    pub fn remove(&mut self, uuid: &GpuUuid) -> bool {
        let was_in = self.records.remove(uuid).is_some();
        if was_in {
            self.save();
        }
        was_in
    }

    fn save(&self) {
        let Some(path) = &self.path else { return };
        let records: Vec<&QuarantineRecord> = self.records.values().collect();
        let bytes = serde_json::to_vec_pretty(&records).map_err(io::Error::from);
        if let Err(error) = bytes.and_then(|bytes| write_atomically(path, &bytes)) {
            warn!(%error, path = %path.display(), "cannot keep which GPUs are quarantined: a restart forgets it");
        }
    }
}

/// Names this boot of the machine; empty where the kernel does not tell.
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
        let record = QuarantineRecord {
            gpu: gpu.clone(),
            since: Time(5),
            xid: Some(79),
            reason: "XID 79".into(),
            release: ReleaseCondition::Reboot,
            boot_id: "a".into(),
            ecc_uncorrected: None,
        };
        QuarantineStore::load(folder.path()).add(record.clone());
        let mut again = QuarantineStore::load(folder.path());
        assert_eq!(again.get(&gpu.uuid), Some(&record));
        assert!(again.remove(&gpu.uuid) && !again.remove(&gpu.uuid));
        assert_eq!(QuarantineStore::load(folder.path()).records().count(), 0);
    }

    #[test]
    fn a_damaged_file_counts_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("quarantine.json"), "[{").unwrap();
        assert_eq!(QuarantineStore::load(folder.path()).records().count(), 0);
    }
}
