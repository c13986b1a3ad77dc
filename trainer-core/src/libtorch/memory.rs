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

/// Lets the allocator's pieces of memory grow, unless the user has set it otherwise. Must come before the first memory
/// of a GPU is taken.
///
/// Not under WSL2, where the driver refuses what that needs (<https://github.com/pytorch/pytorch/issues/192330>).
pub(super) fn expand_segments() {
    if is_expandable(|name| std::env::var_os(name), Path::new("/dev/dxg").exists()) {
        // SAFETY: takes a text that ends in a zero.
        let set = unsafe { shim::check(shim::ty_set_allocator(EXPANDABLE.as_ptr())) };
        // It is libtorch's own setting, which this version is known to have.
        debug_assert_eq!(set, Ok(()));
    }
}

/// Whether segments are to be expandable, by the variables that are set, and on which system.
fn is_expandable(variable: impl Fn(&str) -> Option<OsString>, wsl: bool) -> bool {
    !wsl && VARIABLES.iter().all(|name| variable(name).is_none())
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
    fn segments_grow_unless_the_user_says_otherwise_or_the_system_cannot() {
        let set = |wanted: &'static str| move |name: &str| (name == wanted).then(OsString::new);
        let found = [
            is_expandable(|_| None, false),
            is_expandable(set("PYTORCH_ALLOC_CONF"), false),
            is_expandable(set("PYTORCH_CUDA_ALLOC_CONF"), false),
            is_expandable(|_| None, true),
        ];
        assert_eq!(found, [true, false, false, false]);
        let _ = crate::libtorch::load_cuda();
        let here = is_expandable(|name| std::env::var_os(name), Path::new("/dev/dxg").exists());
        assert_eq!(settings().unwrap() == EXPANDABLE.to_str().unwrap(), here);
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_and_no_crash() {
        assert_eq!(memory_stats(Device::Cuda(99)), None);
        assert!(reset_peak(Device::Cuda(99)).is_err());
    }
}
