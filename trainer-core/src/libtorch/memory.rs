//! libtorch's allocator of a GPU: how it takes memory, and what it says about it.

use std::ffi::{CStr, OsString, c_int};
use std::path::Path;

use tch::Device;

use super::TorchError;
use super::shim;

/// The variables that a user sets the allocator by.
const VARIABLES: [&str; 2] = ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"];
/// Pieces of memory that can grow. Without it pieces of many sizes, as changing shapes want them, leave gaps that nothing
/// fits in.
const EXPANDABLE: &CStr = c"expandable_segments:True";

/// Lets the allocator's pieces of memory grow, where the system can and the user has not set the allocator otherwise.
/// Must come before the first memory of a GPU is taken.
pub(super) fn expand_segments() {
    if is_left_to_us(|name| std::env::var_os(name)) && can_expand() {
        // It is libtorch's own setting, which this version is known to have.
        let set = set_allocator(EXPANDABLE);
        debug_assert_eq!(set, Ok(()));
    }
}

/// Whether the user has not set the allocator.
fn is_left_to_us(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    VARIABLES.iter().all(|name| variable(name).is_none())
}

/// Whether the system can: WSL2's driver refuses it (<https://github.com/pytorch/pytorch/issues/192330>), and without the
/// library of NVML, which a container may lack, libtorch 2.13 crashes as it asks that for the GPU's links.
fn can_expand() -> bool {
    !Path::new("/dev/dxg").exists() && has_nvml()
}

#[cfg(unix)]
fn has_nvml() -> bool {
    use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
    // SAFETY: the library's initialisers are the driver's own, which libtorch runs as it loads it in the same way.
    unsafe { Library::open(Some("libnvidia-ml.so.1"), RTLD_LAZY | RTLD_LOCAL) }.is_ok()
}

#[cfg(not(unix))]
const fn has_nvml() -> bool {
    false
}

fn set_allocator(settings: &CStr) -> Result<(), TorchError> {
    // SAFETY: takes a text that ends in a zero.
    unsafe { shim::check(shim::ty_set_allocator(settings.as_ptr())) }
}

/// The allocator's settings, written as in `PYTORCH_ALLOC_CONF`; empty where nobody has set any.
pub fn settings() -> Result<String, TorchError> {
    // SAFETY: `out` can be written.
    shim::text_from(|out| unsafe { shim::ty_allocator_settings(out) })
}

/// Memory of a GPU, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes in tensors now.
    pub allocated_bytes: u64,
    /// Bytes in tensors at most, since the start or since [`reset_peak`].
    pub peak_allocated_bytes: u64,
    /// Taken from the GPU by this process, tensors included.
    pub reserved_bytes: u64,
    /// The most of that, counted as the peak of tensors is.
    pub peak_reserved_bytes: u64,
    /// Free on the GPU, whoever uses the rest.
    pub free_bytes: u64,
    /// The GPU's.
    pub total_bytes: u64,
    /// How often memory ran out.
    pub out_of_memory: u64,
    /// How often the GPU had no more to give until all that was kept for reuse was given back to it: the device stands
    /// still for it.
    pub retries: u64,
}

/// What the allocator of `device` says; `None` for the CPU, and where there is no such GPU. Waits for
/// nothing that the GPU does.
pub fn memory_stats(device: Device) -> Option<MemoryStats> {
    let Device::Cuda(index) = device else { return None };
    let mut found = shim::Memory::default();
    // SAFETY: `found` can be written during the call.
    unsafe { shim::check(shim::ty_memory_stats(number(index), &raw mut found)) }.ok()?;
    let bytes = |count: i64| u64::try_from(count).unwrap_or(0);
    super::out_of_memory::note(bytes(found.out_of_memory));
    Some(MemoryStats {
        allocated_bytes: bytes(found.allocated),
        peak_allocated_bytes: bytes(found.allocated_peak),
        reserved_bytes: bytes(found.reserved),
        peak_reserved_bytes: bytes(found.reserved_peak),
        free_bytes: bytes(found.free),
        total_bytes: bytes(found.total),
        out_of_memory: bytes(found.out_of_memory),
        retries: bytes(found.retries),
    })
}

/// Counts peaks of `device` anew from now on; nothing for the CPU.
pub fn reset_peak(device: Device) -> Result<(), TorchError> {
    let Device::Cuda(index) = device else { return Ok(()) };
    // SAFETY: takes a number only.
    unsafe { shim::check(shim::ty_memory_reset_peak(number(index))) }
}

/// Gives memory that no tensor uses back to the GPU, for a try with smaller batches; nothing for the CPU.
pub fn release(device: Device) -> Result<(), TorchError> {
    let Device::Cuda(_) = device else { return Ok(()) };
    // SAFETY: takes nothing.
    unsafe { shim::check(shim::ty_memory_release()) }
}

/// Gives main memory that is not used back to the system. What is wanted again costs a page fault each 4 KiB.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: walks malloc's free lists, under its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn number(index: usize) -> c_int {
    c_int::try_from(index).unwrap_or(c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_has_no_such_numbers_and_needs_no_release() {
        assert_eq!(memory_stats(Device::Cpu), None);
        assert_eq!((reset_peak(Device::Cpu), release(Device::Cpu)), (Ok(()), Ok(())));
    }

    #[test]
    fn a_user_who_sets_the_allocator_is_left_alone() {
        let set = |wanted: &'static str| move |name: &str| (name == wanted).then(OsString::new);
        let found = [is_left_to_us(|_| None), is_left_to_us(set("PYTORCH_ALLOC_CONF"))];
        assert_eq!(found, [true, false]);
        assert!(!is_left_to_us(set("PYTORCH_CUDA_ALLOC_CONF")));
    }

    #[test]
    fn libtorch_takes_the_setting() {
        set_allocator(EXPANDABLE).unwrap();
        assert_eq!(settings().unwrap(), EXPANDABLE.to_str().unwrap());
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_and_no_crash() {
        assert_eq!(memory_stats(Device::Cuda(99)), None);
        assert!(reset_peak(Device::Cuda(99)).is_err());
    }
}
