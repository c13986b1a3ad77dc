//! The simulated GPU does what the CPU does, bit by bit, and tells what a real one would have waited for.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod devices;
mod memory;
mod operators;
mod waits;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard};

use simulated_gpu::{Gpu, Machine, SimulatedGpu};
use tch::{Device, Kind, Tensor};

simulated_gpu::simulated_gpu_tests!(two_gpus());

/// The second one's memory is what tests change.
fn two_gpus() -> Machine {
    let gpu = |number: u32, memory_mib| Gpu {
        uuid: format!("GPU-{number}"),
        memory_mib,
        compute_capability: (8, 9),
    };
    Machine::with_gpus(vec![gpu(0, 4096), gpu(1, 1024)])
}

const GPU: Device = Device::Cuda(0);
const SECOND: Device = Device::Cuda(1);

/// The simulated GPU, for one test at a time: counts and faults are of the process.
fn alone() -> (&'static SimulatedGpu, MutexGuard<'static, ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // The first question to libtorch makes it look for CUDA.
    assert!(tch::Cuda::device_count() == 2);
    let gpu = SimulatedGpu::get();
    gpu.reset();
    (gpu, guard)
}

/// libtorch's words, where `work` makes it throw.
fn words(work: impl FnOnce() -> Tensor) -> String {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let result = catch_unwind(AssertUnwindSafe(work));
    std::panic::set_hook(hook);
    match result {
        Ok(found) => panic!("it was not refused: {found:?}"),
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
    }
}

fn random(size: &[i64]) -> Tensor {
    Tensor::randn(size, (Kind::Float, Device::Cpu))
}
