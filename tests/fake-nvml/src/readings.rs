//! What a GPU does beyond its plain numbers: processes, clocks and what holds them down, its link, its errors.

use std::ffi::{c_int, c_longlong, c_uint, c_ulonglong};

use crate::{
    Device, Gpu, INSUFFICIENT_SIZE, INVALID_ARGUMENT, MIB, NOT_FOUND, NOT_SUPPORTED, Process, Return,
    SUCCESS, put_reading, with_gpu,
};

/// `nvmlProcessInfo_t`, version 2 and later.
#[repr(C)]
pub struct ProcessInfo {
    pid: c_uint,
    used_gpu_memory: u64,
    gpu_instance_id: c_uint,
    compute_instance_id: c_uint,
}

/// Writes a list as NVML does: with too little room only its length is told.
///
/// # Safety
/// `count` is null or holds the size of `target`, in items.
unsafe fn put_list<T>(items: Vec<T>, count: *mut c_uint, target: *mut T) -> Return {
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    let length = c_uint::try_from(items.len()).unwrap_or(c_uint::MAX);
    // SAFETY: `count` is not null and valid by this function's contract.
    let room = unsafe { count.replace(length) };
    if length > room {
        return INSUFFICIENT_SIZE;
    }
    for (at, item) in items.into_iter().enumerate() {
        // SAFETY: `at` is below `room`, which is the size of `target`.
        unsafe { target.add(at).write(item) };
    }
    SUCCESS
}

fn infos(processes: &[Process]) -> Vec<ProcessInfo> {
    let info = |process: &Process| ProcessInfo {
        pid: process.pid,
        used_gpu_memory: process.memory_mib * MIB,
        gpu_instance_id: c_uint::MAX,
        compute_instance_id: c_uint::MAX,
    };
    processes.iter().map(info).collect()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: Device,
    count: *mut c_uint,
    target: *mut ProcessInfo,
) -> Return {
    // SAFETY: NVML's contract for `count` and `target`.
    with_gpu(device, |_, gpu| unsafe { put_list(infos(&gpu.processes), count, target) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: Device,
    count: *mut c_uint,
    target: *mut ProcessInfo,
) -> Return {
    // SAFETY: NVML's contract for `count` and `target`.
    with_gpu(device, |_, gpu| unsafe { put_list(infos(&gpu.graphics_processes), count, target) })
}

/// `nvmlProcessUtilizationSample_t`.
#[repr(C)]
pub struct UtilizationSample {
    pid: c_uint,
    time_us: c_ulonglong,
    sm: c_uint,
    memory: c_uint,
    encoder: c_uint,
    decoder: c_uint,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    device: Device,
    target: *mut UtilizationSample,
    count: *mut c_uint,
    since_us: c_ulonglong,
) -> Return {
    with_gpu(device, |_, gpu| {
        let Some(uses) = &gpu.process_utilization else { return NOT_SUPPORTED };
        if uses.is_empty() {
            return NOT_FOUND;
        }
        let sample = |used: &crate::Use| UtilizationSample {
            pid: used.pid,
            time_us: since_us + 1,
            sm: used.percent,
            memory: 0,
            encoder: 0,
            decoder: 0,
        };
        // SAFETY: NVML's contract for `count` and `target`.
        unsafe { put_list(uses.iter().map(sample).collect(), count, target) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(
    device: Device,
    millijoules: *mut c_ulonglong,
) -> Return {
    // SAFETY: NVML's contract for `millijoules`.
    unsafe { put_reading(device, millijoules, |gpu| gpu.energy_millijoules) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClockInfo(device: Device, _clock: c_uint, mhz: *mut c_uint) -> Return {
    // SAFETY: NVML's contract for `mhz`.
    unsafe { put_reading(device, mhz, |gpu| gpu.clock_mhz) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    device: Device,
    reasons: *mut c_ulonglong,
) -> Return {
    // SAFETY: NVML's contract for `reasons`.
    unsafe { put_reading(device, reasons, |gpu| gpu.throttle_reasons) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrPcieLinkWidth(device: Device, lanes: *mut c_uint) -> Return {
    // SAFETY: NVML's contract for `lanes`.
    unsafe { put_reading(device, lanes, |gpu| gpu.pcie_link_width) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxPcieLinkWidth(device: Device, lanes: *mut c_uint) -> Return {
    // SAFETY: NVML's contract for `lanes`.
    unsafe { put_reading(device, lanes, |gpu| gpu.pcie_link_width_max) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: Device,
    kind: c_uint,
    _counter: c_uint,
    count: *mut c_ulonglong,
) -> Return {
    const UNCORRECTED: c_uint = 1;
    let read = |gpu: &Gpu| gpu.ecc_uncorrected.map(|errors| if kind == UNCORRECTED { errors } else { 0 });
    // SAFETY: NVML's contract for `count`.
    unsafe { put_reading(device, count, read) }
}

/// `nvmlFieldValue_t`.
#[repr(C)]
pub struct FieldValue {
    field: c_uint,
    scope: c_uint,
    time_us: c_longlong,
    latency_us: c_longlong,
    kind: c_uint,
    result: Return,
    value: u64,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: Device,
    count: c_int,
    values: *mut FieldValue,
) -> Return {
    const RECOVERY_ACTION: c_uint = 230;
    const UNSIGNED_INT: c_uint = 1;
    with_gpu(device, |_, gpu| {
        for at in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: NVML demands `count` values behind `values`.
            let value = unsafe { &mut *values.add(at) };
            (value.kind, value.result) = (UNSIGNED_INT, NOT_SUPPORTED);
            if let (RECOVERY_ACTION, Some(action)) = (value.field, gpu.recovery_action) {
                (value.result, value.value) = (SUCCESS, action.into());
            }
        }
        SUCCESS
    })
}
