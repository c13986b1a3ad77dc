//! A simulated NVIDIA GPU for machines without one: libtorch's own CPU kernels, on memory that only they may read.
//!
//! Real are libtorch's caching allocator, stream pool, guards and dispatcher (`libc10_cuda.so`, `libtorch_cpu.so`);
//! simulated is the CUDA runtime below them (`cpp/runtime.cpp`, `events.cpp`, `driver.cpp`) and the kernels
//! above (`cpp/fallback.cpp`). The library calls itself `libtorch_cuda.so` and must be loaded before everything else:
//! programs get it by [`Machine::preload`], tests by [`simulated_gpu_tests!`].
//!
//! Cannot show: what CUDA's kernels compute, speed, cuDNN's and cuBLAS's own memory, and kernels that are late.
//! Must not know: the trainer and the agent.

mod counts;
mod machine;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;

use libloading::os::unix::Library;

pub use counts::Counts;
pub use machine::{Gpu, Machine, OperatorFault};

/// Where the library is.
pub const LIBRARY: &str = env!("SIMULATED_GPU_LIBRARY");
/// Where what stands for the driver's library is, `libcuda.so.1`.
pub const DRIVER_FOLDER: &str = env!("SIMULATED_DRIVER_FOLDER");

/// Starts the test program again with the simulated GPU of `$machine`, a [`Machine`], before its `main` begins. Once,
/// at the top of a test program.
#[macro_export]
macro_rules! simulated_gpu_tests {
    ($machine:expr) => {
        // The loader runs what stands here before `main`, when there is one thread.
        #[used]
        #[unsafe(link_section = ".init_array")]
        static WITH_SIMULATED_GPU: extern "C" fn() = {
            extern "C" fn start() {
                $crate::restart_with(|| $machine);
            }
            start
        };
    };
}

/// Starts this program anew with the library preloaded, unless it is.
pub fn restart_with(machine: impl FnOnce() -> Machine) {
    use std::os::unix::process::CommandExt;
    if is_loaded() {
        return;
    }
    let arguments = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let arguments = arguments.strip_suffix(&[0]).unwrap_or(&arguments).split(|byte| *byte == 0).skip(1);
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(arguments.map(|one| String::from_utf8_lossy(one).into_owned()));
    // Memory that is made to run out is told by the test, not by a line of libtorch's each time.
    command.env("TORCH_CPP_LOG_LEVEL", "ERROR");
    let error = machine().preload(&mut command).exec();
    eprintln!("the test program does not start with the simulated GPU: {error}");
    std::process::exit(1);
}

/// Whether the library is in this process.
fn is_loaded() -> bool {
    // SAFETY: looks for a symbol in what is loaded already.
    unsafe { Library::this().get::<*mut c_void>(b"simulated_gpu_reset").is_ok() }
}

/// The simulated GPUs of this process.
#[derive(Debug)]
pub struct SimulatedGpu(Library);

impl SimulatedGpu {
    /// The one of this process.
    ///
    /// # Panics
    /// When the library is not preloaded: the test program lacks [`simulated_gpu_tests!`].
    pub fn get() -> &'static Self {
        static ONE: OnceLock<SimulatedGpu> = OnceLock::new();
        ONE.get_or_init(|| {
            assert!(is_loaded(), "this program was not started with the simulated GPU");
            Self(Library::this())
        })
    }

    /// A function of `cpp/control.cpp`.
    fn function<F: Copy>(&self, name: &str) -> F {
        // SAFETY: the caller names the type that the function has there.
        *unsafe { self.0.get::<F>(name.as_bytes()) }.expect("the library exports it")
    }

    /// Counts anew.
    pub fn reset(&self) {
        self.function::<extern "C" fn()>("simulated_gpu_reset")();
    }

    /// What is counted from now on belongs to `phase`.
    pub fn enter(&self, phase: &str) {
        let phase = text(phase);
        self.function::<extern "C" fn(*const c_char)>("simulated_gpu_enter")(phase.as_ptr());
    }

    /// GPU number `gpu` has so many bytes from now on.
    pub fn set_capacity(&self, gpu: i32, bytes: u64) {
        self.function::<extern "C" fn(c_int, u64)>("simulated_gpu_set_capacity")(gpu, bytes);
    }

    /// Other processes hold so many bytes of GPU number `gpu` from now on.
    pub fn set_foreign(&self, gpu: i32, bytes: u64) {
        self.function::<extern "C" fn(c_int, u64)>("simulated_gpu_set_foreign")(gpu, bytes);
    }

    /// The nth allocation from now on runs out of memory; 0: none.
    pub fn fail_at(&self, nth: i64) {
        self.function::<extern "C" fn(i64)>("simulated_gpu_fail_at")(nth);
    }

    /// An operator fails.
    pub fn set_fault(&self, fault: &OperatorFault) {
        let (name, message) = (text(&fault.operator), text(&fault.message));
        type SetFault = extern "C" fn(*const c_char, i64, c_int, *const c_char);
        let set = self.function::<SetFault>("simulated_gpu_set_fault");
        set(name.as_ptr(), fault.nth, fault.sticky, message.as_ptr());
    }

    /// What was counted, in all phases together.
    pub fn counts(&self) -> Counts {
        self.counts_by_phase().into_values().fold(Counts::default(), Counts::plus)
    }

    /// What was counted in each phase; those without a name are of phase "".
    pub fn counts_by_phase(&self) -> std::collections::BTreeMap<String, Counts> {
        let found = self.function::<extern "C" fn() -> *mut c_char>("simulated_gpu_counts")();
        // SAFETY: a text that the library allocated for its caller, by malloc.
        let json = unsafe {
            let json = CStr::from_ptr(found).to_string_lossy().into_owned();
            libc::free(found.cast());
            json
        };
        serde_json::from_str(&json).expect("the library writes what Counts reads")
    }
}

fn text(rust: &str) -> CString {
    CString::new(rust).expect("names and messages have no zeros")
}
