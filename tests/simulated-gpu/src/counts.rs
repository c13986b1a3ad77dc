//! What was counted.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What a program did to its simulated GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Counts {
    /// Operators that would start kernels: ATen's, each of which is one kernel or a few on a real GPU.
    pub operators: i64,
    /// Times the host waited for the GPU.
    pub waits: i64,
    /// Asynchronous copies of memory that is not page-locked, for which the driver holds up the host.
    pub staged: i64,
    /// Memory that was used on a stream that the allocator was not told of.
    pub hazards: i64,
    /// Allocations: tensors, and what kernels took for themselves.
    pub allocations: i64,
    /// Bytes of all allocations together.
    pub allocated_bytes: i64,
    /// Bytes that were copied to a GPU.
    pub uploaded_bytes: i64,
    /// Bytes that were copied to the host.
    pub downloaded_bytes: i64,
    /// Bytes that were copied within GPUs.
    pub moved_bytes: i64,
    /// Convolutions that cuDNN would have searched the fastest algorithm for.
    pub searches: i64,
    /// Convolutions and products of 32-bit floats that would have been computed in TF32.
    pub tf32: i64,
    /// Waits by the operator or the call that made them.
    pub waits_by_cause: BTreeMap<String, i64>,
    /// Operators by their names.
    pub operators_by_name: BTreeMap<String, i64>,
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.operators += other.operators;
        self.waits += other.waits;
        self.staged += other.staged;
        self.hazards += other.hazards;
        self.allocations += other.allocations;
        self.allocated_bytes += other.allocated_bytes;
        self.uploaded_bytes += other.uploaded_bytes;
        self.downloaded_bytes += other.downloaded_bytes;
        self.moved_bytes += other.moved_bytes;
        self.searches += other.searches;
        self.tf32 += other.tf32;
        for (cause, times) in other.waits_by_cause {
            *self.waits_by_cause.entry(cause).or_default() += times;
        }
        for (name, times) in other.operators_by_name {
            *self.operators_by_name.entry(name).or_default() += times;
        }
        self
    }
}
