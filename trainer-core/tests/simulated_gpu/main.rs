//! The GPU's path, on a simulated GPU: see tests/simulated-gpu for what is real in it and what is not.
//!
//! Every test trains with the code that a real GPU would get: page-locked uploads on a stream of their own, autocast,
//! the allocator's measurements, the branches that only a GPU takes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod allocations;
mod checkpoints;
mod commands;
mod costs;
mod errors;
mod ladder;
mod loss;
mod pixels;
mod programs;
#[allow(dead_code, reason = "the tests on the CPU use the rest")]
#[path = "../trainer/runs/mod.rs"]
mod runs;
#[allow(dead_code, reason = "the tests on the CPU use the rest")]
#[path = "../trainer/shapes/mod.rs"]
mod shapes;
mod steps;
mod streams;
mod trainings;
mod tries;
mod validation;

use std::sync::MutexGuard;

use simulated_gpu::{Machine, SimulatedGpu};
use tch::{Device, Tensor};
use trainyard_trainer::libtorch;

/// Memory of the test program's GPU, in MiB.
const MEMORY_MIB: u64 = 8192;

simulated_gpu::simulated_gpu_tests!(Machine::with_memory(MEMORY_MIB));

const GPU: Device = Device::Cuda(0);

/// The simulated GPU, for one test at a time: counts and faults are of the process, and so is libtorch's generator.
fn alone() -> (&'static SimulatedGpu, MutexGuard<'static, ()>) {
    let guard = runs::alone();
    assert_eq!(libtorch::device("cuda:0", &libtorch::load_cuda()).unwrap(), GPU);
    let gpu = SimulatedGpu::get();
    gpu.fail_at(0);
    gpu.reset();
    (gpu, guard)
}

/// A copy on the host.
fn on_host(tensor: &Tensor) -> Tensor {
    tensor.detach().to_device(Device::Cpu).copy()
}
