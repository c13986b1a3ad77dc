//! The memory that training was seen to need on this machine's devices: fit records, learned from what trainers tell and
//! kept in one small file. Losing it costs a measurement and steps down the ladder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trainyard_files::write_atomically;
use trainyard_types::batch_ladder::LADDER;
use trainyard_types::trainer::{MemoryMeasured, Started, TrainerEvent};
use trainyard_types::{AttemptId, FitKey, FitRecord, Slot, Time};

use super::batch_size::{DeviceMemory, Workload};
use super::need::MemoryNeed;

#[cfg(test)]
mod tests;

/// After so long a batch size that ran out of memory may be tried again: what nobody saw may have been to blame,
/// and drivers change. On a GPU that is too small that costs one step down the ladder.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// CUDA's own state on a GPU, in MiB. What is seen outside of that is another process's, which has come or gone between
/// two readings.
const CUDA_STATES_MIB: std::ops::RangeInclusive<u64> = 200..=2000;

/// The kind of device of a CPU slot.
pub const CPU: &str = "CPU";

/// A run that is about to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FitRun {
    /// The slot that the run is on.
    pub slot: Slot,
    /// The GPU's model, or [`CPU`].
    pub device: String,
    /// What is trained.
    pub workload: Workload,
    /// The device's memory before it starts.
    pub memory: DeviceMemory,
    /// Which trainer: another one may use another libtorch.
    pub trainer: String,
}

/// What a trainer computes with, as it told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TrainerSetup {
    device: String,
    amp: bool,
    trainer: String,
    precision: String,
    libtorch: String,
}

/// What CUDA was seen to take of a GPU beside what libtorch's allocator holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CudaState {
    device: String,
    libtorch: String,
    mib: u64,
}

/// When the batch size failed that a record calls too large.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FailedAt {
    key: FitKey,
    at: Time,
}

/// What the file holds; its names are read by other versions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct FitFile {
    records: Vec<FitRecord>,
    #[serde(rename = "learned")]
    setups: Vec<TrainerSetup>,
    cuda_states: Vec<CudaState>,
    /// Since when records have their `failed_batch_size`.
    failures: Vec<FailedAt>,
    /// From `batch-limits.json` of former versions: the largest batch size that fitted, by GPU and run. Each
    /// goes into a record as soon as a run tells precision and libtorch.
    #[serde(rename = "limits")]
    former_limits: BTreeMap<String, u32>,
}

/// The fit records, with the runs that add to them.
#[derive(Debug, Default)]
pub struct FitStore {
    path: PathBuf,
    file: FitFile,
    /// The newest run of each slot.
    runs: BTreeMap<AttemptId, ActiveRun>,
}

/// A run, as far as its trainer has told.
#[derive(Debug, Clone)]
struct ActiveRun {
    run: FitRun,
    key: Option<FitKey>,
    /// Images per forward pass; 0 before it is told.
    batch_size: u32,
}

impl FitStore {
    /// Reads the file in `data_dir`; one that is missing or damaged counts as empty.
    pub fn load(data_dir: &Path) -> Self {
        let path = data_dir.join("fit.json");
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let mut file: FitFile = serde_json::from_str(&read(&path)).unwrap_or_default();
        let former = data_dir.join("batch-limits.json");
        if !path.exists() {
            file.former_limits = serde_json::from_str(&read(&former)).unwrap_or_default();
        }
        Self { path, file, runs: BTreeMap::new() }
    }

    /// All records as they count now, for the scheduler.
    pub fn records(&self, now: Time) -> Vec<FitRecord> {
        self.file.records.iter().map(|record| self.as_of(record, now)).collect()
    }

    /// The record of runs like `run`; `None` too when its trainer has not told yet what it computes with.
    pub fn record(&self, run: &FitRun, now: Time) -> Option<FitRecord> {
        self.stored(run).map(|record| self.as_of(record, now))
    }

    fn stored(&self, run: &FitRun) -> Option<&FitRecord> {
        let setup = self.file.setups.iter().find(|setup| setup.is_of(run))?;
        self.get(&setup.key(run))
    }

    /// A record without what is too long ago. Former versions did not note when that was.
    fn as_of(&self, record: &FitRecord, now: Time) -> FitRecord {
        let failure = self.file.failures.iter().find(|failure| failure.key == record.key);
        let counts = failure.is_some_and(|failure| now.since(failure.at) < FORGOTTEN_AFTER);
        FitRecord { failed_batch_size: record.failed_batch_size.filter(|_| counts), ..record.clone() }
    }

    fn get(&self, key: &FitKey) -> Option<&FitRecord> {
        self.file.records.iter().find(|record| record.key == *key)
    }

    /// The largest batch size that a former version of the agent found to fit.
    pub fn former_limit(&self, run: &FitRun) -> Option<u32> {
        self.file.former_limits.get(&former_key(run)).copied()
    }

    /// What CUDA itself takes of the run's GPU, as the newest run there told with the same libtorch.
    pub fn cuda_state_mib(&self, run: &FitRun) -> Option<u64> {
        let setup = self.file.setups.iter().find(|setup| setup.is_of(run))?;
        let is_of = |state: &&CudaState| (&state.device, &state.libtorch) == (&setup.device, &setup.libtorch);
        self.file.cuda_states.iter().find(is_of).map(|state| state.mib)
    }

    /// Whether a run should measure what it needs.
    pub fn wants_measurement(&self, run: &FitRun) -> bool {
        self.stored(run).is_none_or(|record| record.batch_size == 0)
    }

    /// An attempt is about to start; what its trainer tells is of `run`. Whatever ran on the slot before is over.
    pub fn begin(&mut self, attempt: AttemptId, run: FitRun) {
        self.runs.retain(|_, current| current.run.slot != run.slot);
        self.runs.insert(attempt, ActiveRun { run, key: None, batch_size: 0 });
    }

    /// The slot of an attempt.
    pub fn slot(&self, attempt: AttemptId) -> Option<Slot> {
        self.runs.get(&attempt).map(|current| current.run.slot.clone())
    }

    /// Takes what a trainer told; `others_mib` is what other processes hold on its device now, if the driver tells.
    /// Returns whether a record has changed.
    ///
    /// # Errors
    /// The disk's; what was told counts until the agent ends.
    pub fn observe(
        &mut self,
        now: Time,
        attempt: AttemptId,
        event: &TrainerEvent,
        others_mib: Option<u64>,
    ) -> io::Result<bool> {
        let Some(current) = self.runs.get(&attempt).cloned() else { return Ok(false) };
        let before = self.file.clone();
        let run = &current.run;
        match (event, current.key) {
            (TrainerEvent::Started(started), _) => self.on_started(now, attempt, run, started),
            (TrainerEvent::Memory(measured), Some(key)) => {
                self.on_cuda_state(&key, measured.beside_mib.zip(others_mib));
                self.on_memory(run, key, measured);
            }
            (TrainerEvent::BatchSize(changed), key) => {
                self.set_batch_size(attempt, changed.to);
                // Where the size stays, the trainer has saved memory otherwise.
                if let Some(key) = key.filter(|_| changed.to < changed.from) {
                    self.on_out_of_memory(now, run, key, changed.from, others_mib);
                }
            }
            (TrainerEvent::Epoch(_), Some(key)) => self.on_success(&key, current.batch_size),
            _ => {}
        }
        let changed = self.file != before;
        if changed {
            self.save()?;
        }
        Ok(changed)
    }

    fn set_batch_size(&mut self, attempt: AttemptId, batch_size: u32) {
        if let Some(current) = self.runs.get_mut(&attempt) {
            current.batch_size = batch_size;
        }
    }

    fn on_started(&mut self, now: Time, attempt: AttemptId, run: &FitRun, started: &Started) {
        self.set_batch_size(attempt, started.batch_size);
        if started.libtorch.is_empty() {
            return; // A trainer of a former version.
        }
        let setup = TrainerSetup {
            device: run.device.clone(),
            amp: run.workload.amp,
            trainer: run.trainer.clone(),
            precision: started.precision.clone(),
            libtorch: started.libtorch.clone(),
        };
        let key = setup.key(run);
        self.file.setups.retain(|other| (&other.device, other.amp) != (&run.device, run.workload.amp));
        self.file.setups.push(setup);
        if let Some(limit) = self.file.former_limits.remove(&former_key(run)) {
            let failed = LADDER.into_iter().rev().find(|step| *step > limit);
            self.on_failure(now, run, key.clone(), failed.unwrap_or(limit + 1));
        }
        self.forget_old(now);
        if let Some(current) = self.runs.get_mut(&attempt) {
            current.key = Some(key);
        }
    }

    /// Removes failed batch sizes that are too long ago.
    fn forget_old(&mut self, now: Time) {
        let old: Vec<FitKey> = self
            .file
            .records
            .iter()
            .filter(|record| record.failed_batch_size != self.as_of(record, now).failed_batch_size)
            .map(|record| record.key.clone())
            .collect();
        old.iter().for_each(|key| self.forget_failure(key));
    }

    fn forget_failure(&mut self, key: &FitKey) {
        self.file.failures.retain(|failure| failure.key != *key);
        if let Some(record) = self.file.records.iter_mut().find(|record| record.key == *key) {
            record.failed_batch_size = None;
        }
    }

    /// An epoch, with validation, went well with `size` images.
    fn on_success(&mut self, key: &FitKey, size: u32) {
        let failed = self.get(key).and_then(|record| record.failed_batch_size);
        if failed.is_some_and(|failed| failed <= size) {
            self.forget_failure(key);
        }
    }

    fn on_memory(&mut self, run: &FitRun, key: FitKey, measured: &MemoryMeasured) {
        if measured.batch_size == 0 {
            return;
        }
        let above = measured.step_peak_mib.saturating_sub(measured.fixed_mib);
        let per_image_mib = above as f64 / f64::from(measured.batch_size);
        let record = self.entry(run, key);
        record.fixed_mib = measured.fixed_mib;
        record.per_image_mib = per_image_mib;
        record.validation_mib = measured.validation_peak_mib;
        record.batch_size = measured.batch_size;
    }

    /// Memory of the GPU is in use beside the allocator's, and others hold some of it.
    fn on_cuda_state(&mut self, key: &FitKey, seen: Option<(u64, u64)>) {
        let mib = seen.map(|(beside, others)| beside.saturating_sub(others));
        let Some(mib) = mib.filter(|mib| CUDA_STATES_MIB.contains(mib)) else { return };
        let (device, libtorch) = (key.device.clone(), key.libtorch.clone());
        self.file.cuda_states.retain(|state| (&state.device, &state.libtorch) != (&device, &libtorch));
        self.file.cuda_states.push(CudaState { device, libtorch, mib });
    }

    /// Memory ran out with batches of `size`. Where the run had the whole device, that size is too large for it. Where
    /// other processes held memory, only the estimate per image rises. It counts what they hold now, not what they held
    /// when the run began.
    fn on_out_of_memory(&mut self, now: Time, run: &FitRun, key: FitKey, size: u32, others_mib: Option<u64>) {
        let memory = run.memory.with_others(others_mib);
        if memory.is_undivided() {
            self.on_failure(now, run, key, size);
            return;
        }
        let free_mib = memory.free_mib();
        if free_mib + memory.desktop_mib() < run.memory.free_mib() {
            return; // They have come since the run began, and nobody knows how much they held at that moment.
        }
        let record = self.entry(run, key);
        let room = free_mib.saturating_sub(record.fixed_mib) as f64;
        record.per_image_mib = record.per_image_mib.max(room / f64::from(size.max(1)));
    }

    fn on_failure(&mut self, now: Time, run: &FitRun, key: FitKey, size: u32) {
        let record = self.entry(run, key.clone());
        record.failed_batch_size = Some(record.failed_batch_size.map_or(size, |failed| failed.min(size)));
        self.file.failures.retain(|failure| failure.key != key);
        self.file.failures.push(FailedAt { key, at: now });
    }

    /// The record of `key`; a new one holds estimates, and says so by a measured batch of 0.
    fn entry(&mut self, run: &FitRun, key: FitKey) -> &mut FitRecord {
        let records = &mut self.file.records;
        let at = records.iter().position(|record| record.key == key).unwrap_or_else(|| {
            let need = MemoryNeed::of(run.memory, run.workload, None, None);
            records.push(FitRecord {
                key,
                fixed_mib: need.fixed_mib,
                per_image_mib: need.per_image_mib,
                validation_mib: 0,
                batch_size: 0,
                failed_batch_size: None,
            });
            records.len() - 1
        });
        &mut records[at]
    }

    fn save(&self) -> io::Result<()> {
        write_atomically(&self.path, &serde_json::to_vec_pretty(&self.file)?)
    }
}

impl TrainerSetup {
    fn is_of(&self, run: &FitRun) -> bool {
        (&self.device, self.amp, &self.trainer) == (&run.device, run.workload.amp, &run.trainer)
    }

    fn key(&self, run: &FitRun) -> FitKey {
        FitKey {
            model: run.workload.model,
            imgsz: run.workload.imgsz,
            multi_scale: run.workload.multi_scale,
            precision: self.precision.clone(),
            device: self.device.clone(),
            libtorch: self.libtorch.clone(),
        }
    }
}

/// The key under which former versions kept the batch size that fits.
fn former_key(run: &FitRun) -> String {
    let device = match &run.slot {
        Slot::Gpu(uuid) => uuid.to_string(),
        Slot::Cpu(_) => "cpu".into(),
    };
    let workload = run.workload;
    let precision = if workload.amp { "amp" } else { "full" };
    let scale = if workload.multi_scale { "multi-scale" } else { "one-scale" };
    format!("{device} {} {} {scale} {precision}", workload.model, workload.imgsz)
}

/// Tells the trainer at `path` from another one, which may compute with another libtorch; empty where there is none.
pub fn trainer_identity(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path)
        .map(|data| format!("{}-{}-{}", data.len(), data.mtime(), data.mtime_nsec()))
        .unwrap_or_default()
}
