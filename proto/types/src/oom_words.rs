//! What libtorch and the libraries below it say when a GPU's memory is used up, and what they say then and at other
//! times, too. Agents and trainers go by the same.

use crate::faults;

/// Whether a text says that a GPU's memory ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomVerdict {
    /// It does.
    Yes,
    /// It is said for want of memory and for other reasons. Numbers decide: see [`is_nearly_full`].
    Perhaps,
    /// It does not.
    No,
}

/// Said only when memory has run out. In lower case, as all texts here.
const CERTAIN: [&str; 9] = [
    "cuda out of memory",
    "cuda error: out of memory",
    "cuda driver error: out of memory",
    "cuda error: memory allocation",
    // libtorch's allocator over cudaMallocAsync.
    "would exceed allowed memory. (out of memory)",
    "not enough memory for workspace",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_device_allocation_failed",
];

/// Said when memory has run out inside of cuDNN or cuBLAS, which hide it, and when something else is wrong there.
///
/// libtorch catches what its allocator throws for a plan of cuDNN, tries the next plan, and only says at the end that
/// none is left. cuBLAS and cuDNN take memory for their handles from the driver themselves.
const AMBIGUOUS: [&str; 9] = [
    "unable to find an engine to execute this computation",
    "unable to find a valid cudnn algorithm",
    "no valid convolution algorithms available in cudnn",
    "cudnn_status_internal_error",
    "cudnn_status_execution_failed",
    "cudnn_status_not_initialized",
    "cublas_status_not_initialized",
    "cublas_status_internal_error",
    "cublas_status_execution_failed",
];

/// It begins as an ambiguous one and is about main memory.
const OF_THE_HOST: &str = "cudnn_status_internal_error_host_allocation_failed";

/// What `text` says of a GPU's memory. Where an error has also broken the GPU's context, memory is not why.
pub fn verdict(text: &str) -> OomVerdict {
    let text = text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    if faults::is_sticky(&text) {
        OomVerdict::No
    } else if says(&CERTAIN) {
        OomVerdict::Yes
    } else if says(&AMBIGUOUS) && !text.contains(OF_THE_HOST) {
        OomVerdict::Perhaps
    } else {
        OomVerdict::No
    }
}

/// On a GPU with less free memory an ambiguous error is taken for want of memory, in MiB.
///
/// What fails then is asked for beside libtorch's allocator: a handle of cuBLAS or cuDNN, a kernel's code and its
/// stack, a workspace. Each takes tens to some hundreds of MiB.
const LITTLE_MIB: u64 = 512;
/// The same as a part of the GPU: workspaces grow with it.
const LITTLE_PART: u64 = 50;

/// Whether so little of a GPU's memory is free that an ambiguous error is most likely for want of it.
pub const fn is_nearly_full(free_mib: u64, total_mib: u64) -> bool {
    free_mib < LITTLE_MIB || free_mib < total_mib / LITTLE_PART
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_said_when_memory_ran_out_is_certain_in_any_case_of_letters() {
        for text in [
            "CUDA out of memory. Tried to allocate 20.00 MiB",
            "CUDA error: out of memory",
            "CUDA driver error: out of memory",
            "Allocation on device 0 would exceed allowed memory. (out of memory)",
            "Not enough memory for workspace!",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        ] {
            assert_eq!(verdict(text), OomVerdict::Yes, "{text}");
            assert_eq!(verdict(&text.to_uppercase()), OomVerdict::Yes, "{text}");
        }
    }

    #[test]
    fn what_cudnn_and_cublas_say_then_and_at_other_times_is_for_numbers_to_decide() {
        for text in [
            "FIND was unable to find an engine to execute this computation",
            "GET was unable to find an engine to execute this computation",
            "Unable to find a valid cuDNN algorithm to run convolution",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
            "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
            "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED_CUDART",
            "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
            "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate(handle)`",
            "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, …`",
        ] {
            assert_eq!(verdict(text), OomVerdict::Perhaps, "{text}");
        }
    }

    #[test]
    fn main_memory_a_broken_context_and_other_errors_are_no_want_of_a_gpus_memory() {
        for text in [
            "DefaultCPUAllocator: can't allocate memory",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
            "cuDNN error: CUDNN_STATUS_BAD_PARAM",
            "CUDA error: no kernel image is available for execution on the device",
            "CUDA error: an illegal memory access was encountered; CUDA out of memory.",
            "CUDA error: unspecified launch failure (cuDNN error: CUDNN_STATUS_EXECUTION_FAILED)",
            "The size of tensor a must match",
        ] {
            assert_eq!(verdict(text), OomVerdict::No, "{text}");
        }
    }

    #[test]
    fn a_gpu_is_nearly_full_below_512_mib_or_a_fiftieth() {
        assert!(is_nearly_full(511, 8_188) && !is_nearly_full(512, 24_564));
        assert!(is_nearly_full(1_600, 81_559) && !is_nearly_full(1_700, 81_559));
    }
}
