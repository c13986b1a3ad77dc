//! What earlier runs on a device were seen to need: the batch size at which memory sufficed after a larger
//! one had failed. Kept in one small file; losing it costs a step down the ladder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use trainyard_types::Slot;

use crate::batch::Load;

/// Largest known-good batch sizes by device and load.
#[derive(Debug, Clone, Default)]
pub struct Remembered {
    path: PathBuf,
    limits: BTreeMap<String, u32>,
}

fn key(slot: &Slot, load: Load) -> String {
    let device = match slot {
        Slot::Gpu(uuid) => uuid.to_string(),
        Slot::Cpu(_) => "cpu".into(),
    };
    let precision = if load.amp { "amp" } else { "full" };
    let scale = if load.multi_scale { "multi-scale" } else { "one-scale" };
    format!("{device} {} {} {scale} {precision}", load.model, load.imgsz)
}

impl Remembered {
    /// Reads the file in `data_dir`; one that is missing or damaged counts as empty.
    pub fn load(data_dir: &Path) -> Self {
        let path = data_dir.join("batch-limits.json");
        let text = fs::read_to_string(&path).unwrap_or_default();
        Self { limits: serde_json::from_str(&text).unwrap_or_default(), path }
    }

    /// The largest batch size that `slot` is known to hold for `load`, if a larger one failed.
    pub fn limit(&self, slot: &Slot, load: Load) -> Option<u32> {
        self.limits.get(&key(slot, load)).copied()
    }

    /// Keeps the smallest that is told.
    ///
    /// # Errors
    /// The disk's; what was told counts until the agent ends.
    pub fn remember(&mut self, slot: &Slot, load: Load, batch_size: u32) -> io::Result<()> {
        let limit = self.limits.entry(key(slot, load)).or_insert(batch_size);
        *limit = batch_size.min(*limit);
        let temporary = self.path.with_extension("new");
        fs::write(&temporary, serde_json::to_vec_pretty(&self.limits)?)?;
        fs::rename(&temporary, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use trainyard_types::{GpuUuid, ModelScale};

    use super::*;

    #[test]
    fn the_smallest_size_is_kept_for_that_device_and_load_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let slot = Slot::Gpu(GpuUuid("GPU-1".into()));
        let load = Load { model: ModelScale::N, imgsz: 640, multi_scale: false, amp: true };
        let mut remembered = Remembered::load(folder.path());
        assert_eq!(remembered.limit(&slot, load), None);
        remembered.remember(&slot, load, 16).unwrap();
        remembered.remember(&slot, load, 24).unwrap();
        let again = Remembered::load(folder.path());
        assert_eq!(again.limit(&slot, load), Some(16));
        assert_eq!(again.limit(&slot, Load { imgsz: 320, ..load }), None);
        assert_eq!(again.limit(&Slot::Cpu(0), load), None);
    }
}
