//! XID events: each entry of a GPU's `xids` is delivered once.

use std::ffi::{c_uint, c_ulonglong, c_void};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Device, INVALID_ARGUMENT, Return, SUCCESS, TIMEOUT, UNKNOWN, handle, put, state, with_gpu};

const XID_CRITICAL: u64 = 8;

/// How many XIDs of each GPU were delivered.
static DELIVERED: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// `nvmlEventData_t`.
#[repr(C)]
pub struct EventData {
    device: Device,
    event_type: u64,
    event_data: u64,
    gpu_instance_id: c_uint,
    compute_instance_id: c_uint,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(device: Device, types: *mut c_ulonglong) -> Return {
    // SAFETY: NVML's contract for `types`.
    with_gpu(device, |_, _| unsafe { put(types, XID_CRITICAL) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(set: *mut *mut c_void) -> Return {
    // SAFETY: NVML's contract for `set`.
    unsafe { put(set, handle(0)) } // There is one set, and it holds every GPU.
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(_set: *mut c_void) -> Return {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(device: Device, _types: c_ulonglong, _set: *mut c_void) -> Return {
    with_gpu(device, |_, _| SUCCESS)
}

fn next_event() -> Option<EventData> {
    let state = state::load()?;
    let mut delivered = DELIVERED.lock().unwrap_or_else(PoisonError::into_inner);
    let length = delivered.len().max(state.gpus.len());
    delivered.resize(length, 0);
    if state.unknown_error {
        return None;
    }
    for (gpu, delivered) in state.gpus.iter().zip(delivered.iter_mut()) {
        *delivered = gpu.xids.len().min(*delivered);
    }
    state.gpus.iter().enumerate().find_map(|(index, gpu)| {
        let xid = *gpu.xids.get(delivered[index])?;
        delivered[index] += 1;
        Some(EventData {
            device: handle(index),
            event_type: XID_CRITICAL,
            event_data: xid,
            gpu_instance_id: c_uint::MAX,
            compute_instance_id: c_uint::MAX,
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    _set: *mut c_void,
    data: *mut EventData,
    timeout_ms: c_uint,
) -> Return {
    if data.is_null() {
        return INVALID_ARGUMENT;
    }
    if state::load().is_some_and(|state| state.unknown_error) {
        return UNKNOWN;
    }
    let end = Instant::now() + Duration::from_millis(timeout_ms.into());
    loop {
        if let Some(event) = next_event() {
            // SAFETY: NVML's contract for `data`.
            return unsafe { put(data, event) };
        }
        if Instant::now() >= end {
            return TIMEOUT;
        }
        thread::sleep(Duration::from_millis(100));
    }
}
