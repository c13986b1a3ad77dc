//! NVIDIA's management library, loaded at run time: an agent on a machine without it has no GPUs.
//!
//! When it does not load, or no GPU can be asked any more, it is loaded again at the next call. Where an old driver lacks
//! the function for a value, it counts as refused.

mod events;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};
use trainyard_types::{Gpu, GpuUuid};

use super::reading::{
    GpuAnswer, GpuProcess, GpuReading, ProbeError, ReadError, RecoveryAction, throttle_reasons,
};
use super::{GpuProbe, XidEvent};

const MIB: u64 = 1 << 20;

/// NVML, loaded and, unless it has failed of late, initialised.
#[derive(Debug, Clone)]
pub struct NvmlGpus(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` before it was loaded, and after it has failed. Whoever clones the `Arc` drops it soon, so that the library
    /// is really unloaded.
    nvml: Option<Arc<Nvml>>,
    /// Counts how often it was loaded.
    generation: u64,
    /// GPUs by index as they were seen last: one that is lost cannot tell its own name.
    known: BTreeMap<u32, Known>,
}

/// The values of a GPU that do not change, and until when its processes were read.
#[derive(Debug, Clone)]
struct Known {
    uuid: GpuUuid,
    pci_bus_id: String,
    minor: Option<u32>,
    pcie_link_width_max: Option<u32>,
    /// Until when the use by processes was read, in the driver's microseconds.
    seen_us: u64,
}

fn load(path: Option<&Path>) -> Result<Nvml, NvmlError> {
    let mut builder = Nvml::builder();
    if let Some(path) = path {
        builder.lib_path(path.as_os_str());
    }
    builder.init()
}

impl NvmlGpus {
    /// The library at `path`, or the driver's own. It is not loaded yet.
    pub fn new(path: Option<&Path>) -> Self {
        let state = State { nvml: None, generation: 0, known: BTreeMap::new() };
        Self(Arc::new(Shared { path: path.map(Path::to_owned), state: Mutex::new(state) }))
    }

    /// Loads the library, if it is not.
    ///
    /// # Errors
    /// There is no library or no driver now.
    pub fn load(&self) -> Result<(), NvmlError> {
        self.0.nvml().map(|_| ())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The library and how often it was loaded; loads it if it is not loaded.
    fn nvml(&self) -> Result<(Arc<Nvml>, u64), NvmlError> {
        let mut state = self.state();
        if let Some(nvml) = &state.nvml {
            return Ok((Arc::clone(nvml), state.generation));
        }
        let nvml = Arc::new(load(self.path.as_deref())?);
        if state.generation > 0 {
            info!("NVML is loaded again");
        }
        state.nvml = Some(Arc::clone(&nvml));
        state.generation += 1;
        Ok((nvml, state.generation))
    }

    /// Unloads the library, unless it was loaded again since `generation`.
    fn unload(&self, generation: u64) {
        let mut state = self.state();
        if state.generation == generation {
            state.nvml = None;
        }
    }

    /// Whether there never was a library, and nobody said that there is one: most likely no NVIDIA GPU either.
    fn is_absent(&self, error: &NvmlError) -> bool {
        matches!(error, NvmlError::LibloadingError(_)) && self.path.is_none() && self.state().generation == 0
    }

    /// Calls `read` for every GPU that answers, in the driver's order.
    fn each<T>(&self, read: impl Fn(&Device<'_>) -> Result<T, NvmlError>) -> Vec<T> {
        let Ok((nvml, _)) = self.nvml() else { return Vec::new() };
        // A GPU that has fallen off the bus must not take the others with it.
        let reading = |index| {
            nvml.device_by_index(index)
                .and_then(|device| read(&device))
                .inspect_err(|error| warn!(index, %error, "a GPU does not answer"))
                .ok()
        };
        let count = nvml.device_count().inspect_err(|error| warn!(%error, "cannot count the GPUs"));
        (0..count.unwrap_or(0)).filter_map(reading).collect()
    }

    /// What does not change of the GPU at `index`; asks for it the first time.
    fn known(&self, index: u32, device: &Device<'_>) -> Result<Known, NvmlError> {
        if let Some(known) = self.state().known.get(&index) {
            return Ok(known.clone());
        }
        let known = Known {
            uuid: GpuUuid(device.uuid()?),
            pci_bus_id: device.pci_info().map(|pci| pci.bus_id).unwrap_or_default(),
            minor: device.minor_number().ok(),
            pcie_link_width_max: device.max_pcie_link_width().ok(),
            seen_us: 0,
        };
        self.state().known.insert(index, known.clone());
        Ok(known)
    }

    fn read_all(&self, nvml: &Nvml) -> Result<Vec<GpuAnswer>, NvmlError> {
        let mut answers = Vec::new();
        let mut unknown = None;
        for index in 0..nvml.device_count()? {
            let read = nvml.device_by_index(index).and_then(|device| self.read(index, &device));
            match read {
                Ok(answer) => answers.push(answer),
                Err(NvmlError::Uninitialized) => return Err(NvmlError::Uninitialized),
                Err(error) => {
                    debug!(index, %error, "a GPU does not answer");
                    if let Some(known) = self.state().known.get(&index) {
                        let reading = Err(read_error(&error));
                        answers.push(GpuAnswer { uuid: known.uuid.clone(), reading });
                    }
                    unknown = Some(error).filter(|error| matches!(error, NvmlError::Unknown)).or(unknown);
                }
            }
        }
        match unknown {
            // One GPU's is that GPU's trouble; all GPUs' is the library's or the container's.
            Some(error) if answers.iter().all(|answer| answer.reading.is_err()) => Err(error),
            _ => Ok(answers),
        }
    }

    fn read(&self, index: u32, device: &Device<'_>) -> Result<GpuAnswer, NvmlError> {
        let known = self.known(index, device)?;
        // Every GPU tells its memory; one that does not answers nothing.
        let memory = device.memory_info()?;
        let (processes, seen_us) = processes(device, known.seen_us);
        if let Some(known) = self.state().known.get_mut(&index) {
            known.seen_us = seen_us;
        }
        let reading = GpuReading {
            pci_bus_id: known.pci_bus_id,
            minor: known.minor,
            memory_total_mib: Some(memory.total / MIB),
            memory_used_mib: Some(memory.used / MIB),
            memory_free_mib: Some(memory.free / MIB),
            memory_reserved_mib: Some(memory.reserved / MIB),
            utilization_ratio: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
            temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok(),
            power_watts: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
            energy_joules: device.total_energy_consumption().ok().map(joules),
            clock_mhz: device.clock_info(Clock::SM).ok(),
            throttle_reasons: device
                .current_throttle_reasons()
                .map(|reasons| throttle_reasons(reasons.bits()))
                .unwrap_or_default(),
            pcie_link_width: device.current_pcie_link_width().ok(),
            pcie_link_width_max: known.pcie_link_width_max,
            ecc_uncorrected: device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).ok(),
            processes,
        };
        Ok(GpuAnswer { uuid: known.uuid, reading: Ok(reading) })
    }
}

fn read_error(error: &NvmlError) -> ReadError {
    match error {
        NvmlError::GpuLost => ReadError::Lost,
        other => ReadError::Failed(other.to_string()),
    }
}

fn joules(millijoules: u64) -> f64 {
    millijoules as f64 / 1000.0
}

/// The processes on a GPU, and until when their use is known. A process that computes and draws is there once.
fn processes(device: &Device<'_>, seen_us: u64) -> (Option<Vec<GpuProcess>>, u64) {
    let lists = [device.running_compute_processes(), device.running_graphics_processes()];
    if lists.iter().all(Result::is_err) {
        return (None, seen_us);
    }
    let mut found: BTreeMap<u32, GpuProcess> = BTreeMap::new();
    for process in lists.into_iter().flatten().flatten() {
        let memory_mib = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes / MIB),
            UsedGpuMemory::Unavailable => None,
        };
        let unknown = GpuProcess { pid: process.pid, memory_mib: None, utilization_percent: None };
        let entry = found.entry(process.pid).or_insert(unknown);
        entry.memory_mib = entry.memory_mib.max(memory_mib);
    }
    let samples = match device.process_utilization_stats(seen_us) {
        Err(NvmlError::NotFound) => Vec::new(), // No process has done anything.
        Err(_) => return (Some(found.into_values().collect()), seen_us),
        Ok(samples) => samples,
    };
    for process in found.values_mut() {
        process.utilization_percent = Some(0);
    }
    let newest = samples.iter().map(|sample| sample.timestamp).max().unwrap_or(seen_us);
    for sample in samples {
        if let Some(process) = found.get_mut(&sample.pid) {
            process.utilization_percent = process.utilization_percent.max(Some(sample.sm_util));
        }
    }
    (Some(found.into_values().collect()), newest)
}

impl GpuProbe for NvmlGpus {
    fn gpus(&self) -> Vec<Gpu> {
        self.0.each(|device| {
            let index = device.index()?;
            let capability = device.cuda_compute_capability().ok();
            Ok(Gpu {
                uuid: self.0.known(index, device)?.uuid,
                index,
                model: device.name()?,
                memory_total_mib: device.memory_info()?.total / MIB,
                compute_capability: capability.and_then(|version| {
                    Some((version.major.try_into().ok()?, version.minor.try_into().ok()?))
                }),
            })
        })
    }

    fn readings(&self) -> Result<Vec<GpuAnswer>, ProbeError> {
        let read = self.0.nvml().and_then(|(nvml, generation)| {
            let read = self.0.read_all(&nvml);
            if read.is_err() {
                self.0.unload(generation);
            }
            read
        });
        match read {
            Ok(answers) => Ok(answers),
            Err(error) if self.0.is_absent(&error) => Ok(Vec::new()),
            Err(NvmlError::Unknown) => Err(ProbeError::Unknown),
            Err(other) => Err(ProbeError::Failed(other.to_string())),
        }
    }

    fn driver_version(&self) -> String {
        let read = self.0.nvml().and_then(|(nvml, _)| nvml.sys_driver_version());
        read.unwrap_or_default()
    }

    fn cuda_version(&self) -> Option<(u32, u32)> {
        let (nvml, _) = self.0.nvml().ok()?;
        let version = u32::try_from(nvml.sys_cuda_driver_version().ok()?).ok()?;
        Some((version / 1000, version % 1000 / 10))
    }

    fn memory_free_mib(&self, uuid: &GpuUuid) -> Option<u64> {
        let (nvml, _) = self.0.nvml().ok()?;
        let device = nvml.device_by_uuid(uuid.0.as_str()).ok()?;
        Some(device.memory_info().ok()?.free / MIB)
    }

    fn recovery_action(&self, uuid: &GpuUuid) -> Option<RecoveryAction> {
        const GET_GPU_RECOVERY_ACTION: u32 = 230;
        let (nvml, _) = self.0.nvml().ok()?;
        let device = nvml.device_by_uuid(uuid.0.as_str()).ok()?;
        let values = device.field_values_for(&[FieldId(GET_GPU_RECOVERY_ACTION)]).ok()?;
        match values.into_iter().next()?.ok()?.value.ok()? {
            SampleValue::U32(number) => RecoveryAction::from_nvml(number.into()),
            SampleValue::U64(number) => RecoveryAction::from_nvml(number),
            SampleValue::F64(_) | SampleValue::I64(_) => None,
        }
    }

    fn watch_xids(&self, found: mpsc::Sender<XidEvent>) {
        events::start(Arc::clone(&self.0), found);
    }
}
