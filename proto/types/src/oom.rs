//! A device's memory that runs out: how it is told, and which batch comes next. Agents and trainers go by the same.

/// The sizes that a batch steps down to, largest first.
pub const LADDER: [u32; 12] = [64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1];

/// What libtorch and the libraries below it say when a GPU's memory is used up. In lower case.
const WORDS: [&str; 6] = [
    "cuda out of memory",
    "cuda error: out of memory",
    "cuda error: memory allocation",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_device_allocation_failed",
];

/// The batch size after `size`, in images; `None` below 1.
pub fn next_smaller(size: u32) -> Option<u32> {
    LADDER.into_iter().find(|&step| step < size)
}

/// Whether an error's text says that a GPU's memory ran out.
pub fn is_told_by(text: &str) -> bool {
    let text = text.to_lowercase();
    WORDS.iter().any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_steps_down_until_one() {
        assert_eq!([65, 64, 20, 2, 1].map(next_smaller), [Some(64), Some(48), Some(16), Some(1), None]);
    }

    #[test]
    fn a_gpus_memory_is_told_from_a_hosts() {
        assert!(is_told_by("CUDA out of memory. Tried to allocate 20.00 MiB"));
        assert!(is_told_by("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"));
        assert!(!is_told_by("DefaultCPUAllocator: can't allocate memory"));
    }
}
