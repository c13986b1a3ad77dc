//! A stand-in for NVIDIA's management library: exports the NVML symbols that the agent uses and answers
//! them from the JSON file that `FAKE_NVML_STATE` names, so that tests and demonstrations have GPUs.
//!
//! Must not know: the agent. It is loaded by path, exactly as `libnvidia-ml.so.1` is.
//!
//! Layouts and codes are those of `nvml.h`. A device handle is its index plus one.

#![expect(clippy::missing_safety_doc, reason = "the contract is NVML's own")]

mod events;
mod readings;
mod simulated;
mod state;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

pub use state::{Gpu, Process, State, Use, VARIABLE};

/// An `nvmlReturn_t`.
pub type Return = c_uint;
/// An `nvmlDevice_t`.
pub type Device = *mut c_void;

const SUCCESS: Return = 0;
const INVALID_ARGUMENT: Return = 2;
const NOT_SUPPORTED: Return = 3;
const NOT_FOUND: Return = 6;
const INSUFFICIENT_SIZE: Return = 7;
const DRIVER_NOT_LOADED: Return = 9;
const TIMEOUT: Return = 10;
const GPU_IS_LOST: Return = 15;
const UNKNOWN: Return = 999;
const MIB: u64 = 1 << 20;

/// Writes `value` through a pointer that the caller gave.
///
/// # Safety
/// `target` is null or valid for a write, as NVML demands of its callers.
unsafe fn put<T>(target: *mut T, value: T) -> Return {
    if target.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, and valid by this function's contract.
    unsafe { target.write(value) };
    SUCCESS
}

/// Copies `text` and a final zero into a buffer of `size` bytes.
///
/// # Safety
/// `target` is null or valid for `size` writes.
unsafe fn put_text(text: &str, target: *mut c_char, size: usize) -> Return {
    if target.is_null() {
        return INVALID_ARGUMENT;
    }
    if text.len() + 1 > size {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: the text and its zero fit, as just checked.
    unsafe {
        target.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        target.add(text.len()).write(0);
    }
    SUCCESS
}

fn index_of(device: Device) -> Option<usize> {
    (device as usize).checked_sub(1)
}

fn handle(index: usize) -> Device {
    (index + 1) as Device
}

/// The GPUs, unless no call works.
fn working() -> Result<Arc<State>, Return> {
    match state::load() {
        None => Err(DRIVER_NOT_LOADED),
        Some(state) if state.unknown_error => Err(UNKNOWN),
        Some(state) => Ok(state),
    }
}

/// Calls `answer` with the GPU behind a handle.
fn with_gpu(device: Device, answer: impl FnOnce(usize, &Gpu) -> Return) -> Return {
    let state = match working() {
        Ok(state) => state,
        Err(error) => return error,
    };
    let Some(index) = index_of(device) else { return INVALID_ARGUMENT };
    match state.gpus.get(index) {
        None => INVALID_ARGUMENT,
        Some(gpu) if gpu.lost => GPU_IS_LOST,
        Some(gpu) => answer(index, gpu),
    }
}

/// Answers with a reading, or that the GPU refuses it.
///
/// # Safety
/// As [`put`].
unsafe fn put_reading<T>(device: Device, target: *mut T, read: impl FnOnce(&Gpu) -> Option<T>) -> Return {
    with_gpu(device, |_, gpu| match read(gpu) {
        // SAFETY: this function's own contract.
        Some(value) => unsafe { put(target, value) },
        None => NOT_SUPPORTED,
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Return {
    working().err().unwrap_or(SUCCESS)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> Return {
    nvmlInit_v2()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Return {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(code: Return) -> *const c_char {
    let text: &CStr = match code {
        SUCCESS => c"Success",
        INVALID_ARGUMENT => c"Invalid Argument",
        NOT_SUPPORTED => c"Not Supported",
        NOT_FOUND => c"Not Found",
        INSUFFICIENT_SIZE => c"Insufficient Size",
        DRIVER_NOT_LOADED => c"Driver Not Loaded",
        TIMEOUT => c"Timeout",
        GPU_IS_LOST => c"GPU is lost",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(text: *mut c_char, length: c_uint) -> Return {
    let state = match working() {
        Ok(state) => state,
        Err(error) => return error,
    };
    // SAFETY: NVML's contract for `text` and `length`.
    unsafe { put_text(&state.driver, text, length as usize) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(text: *mut c_char, length: c_uint) -> Return {
    let state = match working() {
        Ok(state) => state,
        Err(error) => return error,
    };
    // SAFETY: NVML's contract for `text` and `length`.
    unsafe { put_text(&format!("13.{}", state.driver), text, length as usize) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion(version: *mut c_int) -> Return {
    match working() {
        // SAFETY: NVML's contract for `version`.
        Ok(state) => unsafe { put(version, state.cuda) },
        Err(error) => error,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> Return {
    match working() {
        // SAFETY: NVML's contract for `version`.
        Ok(state) => unsafe { put(version, state.cuda) },
        Err(error) => error,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Return {
    let state = match working() {
        Ok(state) => state,
        Err(error) => return error,
    };
    // SAFETY: NVML's contract for `count`.
    unsafe { put(count, c_uint::try_from(state.gpus.len()).unwrap_or(c_uint::MAX)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut Device) -> Return {
    let state = match working() {
        Ok(state) => state,
        Err(error) => return error,
    };
    match state.gpus.get(index as usize) {
        None => INVALID_ARGUMENT,
        Some(gpu) if gpu.lost => GPU_IS_LOST,
        // SAFETY: NVML's contract for `device`.
        Some(_) => unsafe { put(device, handle(index as usize)) },
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut Device) -> Return {
    if uuid.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null; NVML demands a C string.
    let uuid = unsafe { CStr::from_ptr(uuid) }.to_string_lossy();
    let state = match working() {
        Ok(state) => state,
        Err(error) => return error,
    };
    match state.gpus.iter().position(|gpu| gpu.uuid == uuid) {
        None => NOT_FOUND,
        // SAFETY: NVML's contract for `device`.
        Some(index) => unsafe { put(device, handle(index)) },
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: Device, index: *mut c_uint) -> Return {
    // SAFETY: NVML's contract for `index`.
    with_gpu(device, |at, _| unsafe { put(index, c_uint::try_from(at).unwrap_or(c_uint::MAX)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMinorNumber(device: Device, minor: *mut c_uint) -> Return {
    // SAFETY: NVML's contract for `minor`.
    unsafe { nvmlDeviceGetIndex(device, minor) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: Device, name: *mut c_char, length: c_uint) -> Return {
    // SAFETY: NVML's contract for `name` and `length`.
    with_gpu(device, |_, gpu| unsafe { put_text(&gpu.name, name, length as usize) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: Device, uuid: *mut c_char, length: c_uint) -> Return {
    // SAFETY: NVML's contract for `uuid` and `length`.
    with_gpu(device, |_, gpu| unsafe { put_text(&gpu.uuid, uuid, length as usize) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetBrand(device: Device, brand: *mut c_uint) -> Return {
    const GEFORCE: c_uint = 5;
    // SAFETY: NVML's contract for `brand`.
    unsafe { put_reading(device, brand, |_| Some(GEFORCE)) }
}

/// `nvmlMemory_t`.
#[repr(C)]
pub struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(device: Device, memory: *mut Memory) -> Return {
    let read = |gpu: &Gpu| {
        let used = gpu.memory_used_mib.min(gpu.memory_total_mib);
        let free = gpu.memory_total_mib - used;
        Some(Memory { total: gpu.memory_total_mib * MIB, free: free * MIB, used: used * MIB })
    };
    // SAFETY: NVML's contract for `memory`.
    unsafe { put_reading(device, memory, read) }
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
pub struct MemoryV2 {
    version: c_uint,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Device, memory: *mut MemoryV2) -> Return {
    let Ok(version) = c_uint::try_from(size_of::<MemoryV2>() | 2 << 24) else { return INVALID_ARGUMENT };
    // SAFETY: NVML demands a struct whose version is set.
    if memory.is_null() || unsafe { (*memory).version } != version {
        return INVALID_ARGUMENT;
    }
    let read = |gpu: &Gpu| {
        let used = gpu.memory_used_mib.min(gpu.memory_total_mib);
        let free = (gpu.memory_total_mib - used).saturating_sub(gpu.memory_reserved_mib);
        let (total, reserved) = (gpu.memory_total_mib * MIB, gpu.memory_reserved_mib * MIB);
        Some(MemoryV2 { version, total, reserved, free: free * MIB, used: used * MIB })
    };
    // SAFETY: NVML's contract for `memory`.
    unsafe { put_reading(device, memory, read) }
}

/// `nvmlUtilization_t`.
#[repr(C)]
pub struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: Device, rates: *mut Utilization) -> Return {
    let read = |gpu: &Gpu| gpu.utilization_percent.map(|gpu| Utilization { gpu, memory: gpu / 2 });
    // SAFETY: NVML's contract for `rates`.
    unsafe { put_reading(device, rates, read) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: Device,
    _sensor: c_uint,
    celsius: *mut c_uint,
) -> Return {
    // SAFETY: NVML's contract for `celsius`.
    unsafe { put_reading(device, celsius, |gpu| gpu.temperature_celsius) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: Device, milliwatts: *mut c_uint) -> Return {
    // SAFETY: NVML's contract for `milliwatts`.
    unsafe { put_reading(device, milliwatts, |gpu| gpu.power_milliwatts) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetEnforcedPowerLimit(device: Device, milliwatts: *mut c_uint) -> Return {
    // SAFETY: NVML's contract for `milliwatts`.
    unsafe { put_reading(device, milliwatts, |_| Some(450_000)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: Device,
    major: *mut c_int,
    minor: *mut c_int,
) -> Return {
    with_gpu(device, |_, gpu| match gpu.compute_capability {
        None => NOT_SUPPORTED,
        // SAFETY: NVML's contract for `major` and `minor`.
        Some(capability) => unsafe { put(major, capability.0).max(put(minor, capability.1)) },
    })
}

/// `nvmlPciInfo_t`.
#[repr(C)]
pub struct PciInfo {
    bus_id_legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pci_device_id: c_uint,
    pci_sub_system_id: c_uint,
    bus_id: [c_char; 32],
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: Device, info: *mut PciInfo) -> Return {
    with_gpu(device, |index, _| {
        let bus = c_uint::try_from(index + 1).unwrap_or(0);
        let mut pci = PciInfo {
            bus_id_legacy: [0; 16],
            domain: 0,
            bus,
            device: 0,
            pci_device_id: 0x2684_10de,
            pci_sub_system_id: 0,
            bus_id: [0; 32],
        };
        // SAFETY: both arrays are as long as their lengths; `info` by NVML's contract.
        unsafe {
            put_text(&format!("0000:{bus:02X}:00.0"), pci.bus_id_legacy.as_mut_ptr(), 16);
            put_text(&format!("00000000:{bus:02X}:00.0"), pci.bus_id.as_mut_ptr(), 32);
            put(info, pci)
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetEccMode(
    _device: Device,
    _current: *mut c_uint,
    _pending: *mut c_uint,
) -> Return {
    NOT_SUPPORTED // As on every GeForce.
}
