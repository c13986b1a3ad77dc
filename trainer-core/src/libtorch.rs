//! The few things about libtorch itself: its CUDA half, its exceptions, its threads, and what tch lacks.
//!
//! Everything here works around a trap: the order in which libtorch must be woken up, that tch turns C++
//! exceptions into panics, and that it knows neither autocast but on CUDA nor operations on lists.

pub mod autocast;
pub mod build;
pub mod copies;
pub mod device;
pub mod driver;
pub mod foreach;
pub mod last_words;
pub mod memory;
pub mod out_of_memory;
mod shim;

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

pub use self::autocast::Precision;
pub use self::device::{DeviceError, device, device_name};
pub use self::memory::{MemoryStats, memory_stats};
pub use self::out_of_memory::catch_on;

/// What libtorch said when it could not do something; the first line of its message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TorchError {
    /// libtorch's own words, without its C++ backtrace.
    pub message: String,
}

thread_local! {
    /// Whether a panic on this thread is about to be caught by [`catch`], and needs no print.
    static CATCHING: Cell<u32> = const { Cell::new(0) };
}

/// Loads libtorch's CUDA half, if it is installed. **Must come before anything else of libtorch:** it
/// remembers for good what it found when it first looked for CUDA.
///
/// Returns the dynamic linker's message where it cannot be loaded, which is normal on a machine
/// without an NVIDIA driver.
pub fn load_cuda() -> Result<(), String> {
    memory::expand_segments();
    #[cfg(unix)]
    {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: the library's initialisers are libtorch's own, made to be run at load time.
        let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
        // Never unloaded: libtorch keeps pointers into it.
        library.map(std::mem::forget).map_err(|error| {
            // The error itself only says that it failed; its source says why.
            std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
        })
    }
    #[cfg(not(unix))]
    Err("loading it is only written for Unix".to_owned())
}

/// Uses as many threads as the process may run on. Returns how many.
pub fn use_all_cores() -> i32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = i32::try_from(cores).unwrap_or(i32::MAX);
    tch::set_num_threads(threads);
    threads
}

/// Keeps memory that tensors leave for the next ones, instead of giving it back to the system. A step on the CPU
/// wants the same pieces again and again, and each 4 KiB of new memory costs a page fault: a fifth of its time.
pub fn keep_freed_memory() {
    // SAFETY: sets numbers of malloc's, under its own lock.
    unsafe { shim::ty_keep_freed_memory() };
}

/// Gives each thread that computes a core of its own, if there are as many as cores.
///
/// Where two of them share a core, one turns at a barrier of oneDNN's 16-bit convolutions until the
/// scheduler takes it off: three times the CPU time. Some virtual machines put threads together on purpose,
/// and then half of the machine idles in any precision. Threads that the caller starts from now on share its
/// core, unless they begin with [`unbind_thread`].
pub fn bind_threads() {
    trainyard_data::loader::thread_hook::set(unbind_thread);
    // SAFETY: changes where threads may run, and nothing else. A failure leaves them as they are.
    if let Err(error) = unsafe { shim::check(shim::ty_bind_threads()) } {
        rethrow(&error);
    }
}

/// Lets this thread run on every core again.
pub fn unbind_thread() {
    // SAFETY: changes where this thread may run, and nothing else.
    unsafe { shim::ty_anywhere() };
}

/// Chooses how a GPU computes: by algorithms whose results repeat from run to run, if runs are to be `deterministic`; and
/// with 32-bit floats as such, if they are to be `exact`. Otherwise convolutions of them may be in TF32, as in PyTorch.
/// Must come before the first work on a GPU.
///
/// cuDNN is never let try which algorithm is fastest. It would do so again for each shape of a batch, some 190
/// convolutions long, and after each give back all memory that is kept for reuse.
///
/// # Errors
/// When libtorch refuses.
pub fn tune(deterministic: bool, exact: bool) -> Result<(), TorchError> {
    if deterministic {
        // SAFETY: sets libtorch's own switches, and a variable before other threads are started.
        unsafe { shim::check(shim::ty_deterministic()) }?;
    }
    if exact {
        // SAFETY: sets libtorch's own switches.
        unsafe { shim::check(shim::ty_exact_fp32()) }?;
    }
    Ok(())
}

/// Whether a GPU may multiply 32-bit floats in TF32, with ten bits of a factor.
///
/// # Errors
/// When libtorch refuses.
pub fn allows_tf32() -> Result<bool, TorchError> {
    let mut allowed = 0;
    // SAFETY: `allowed` can be written during the call.
    unsafe { shim::check(shim::ty_allows_tf32(&raw mut allowed)) }?;
    Ok(allowed != 0)
}

/// Runs `work`; an exception of libtorch, which tch turns into a panic, becomes an error.
///
/// Any other panic goes on: it is a bug, and [`catch_panic`] outside tells of it. Tensors that `work` made are
/// dropped by then, so that their memory is free again.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, TorchError> {
    quiet_hook();
    CATCHING.set(CATCHING.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(CATCHING.get() - 1);
    result.map_err(|payload| match torch_message(payload.as_ref()) {
        Some(message) => TorchError { message },
        None => std::panic::resume_unwind(payload),
    })
}

/// Runs `work`; any panic, which is a bug, becomes its text.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let result = catch_unwind(AssertUnwindSafe(work));
    result.map_err(|payload| panic_text(payload.as_ref()).unwrap_or("a panic without a message").to_owned())
}

/// Throws a caught error again, for the next [`catch`] outside.
pub fn rethrow(error: &TorchError) -> ! {
    panic!("called `Result::unwrap()` on an `Err` value: {:?}", tch::TchError::Torch(error.message.clone()))
}

/// Keeps the exceptions that [`catch`] turns into errors off the terminal, and has the [`last_words`] said.
fn quiet_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let message = torch_message(info.payload());
            if let Some(message) = &message {
                last_words::say(message);
            }
            if CATCHING.get() == 0 || message.is_none() {
                usual(info);
            }
        }));
    });
}

/// A panic's text, if it has one.
pub fn panic_text(payload: &(dyn Any + Send)) -> Option<&str> {
    payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied())
}

/// libtorch's message inside a panic of tch, or `None` for another panic.
fn torch_message(payload: &(dyn Any + Send)) -> Option<String> {
    // tch: `called `Result::unwrap()` on an `Err` value: Torch("message\nException raised from …")`.
    let text = panic_text(payload)?;
    let at = text.find("Torch(\"")?;
    let message = &text[at + "Torch(\"".len()..];
    let end = ["\\nException raised from", "\\n", "\")"].iter().filter_map(|mark| message.find(mark)).min();
    Some(message[..end.unwrap_or(message.len())].replace("\\\"", "\""))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn an_exception_of_libtorch_becomes_an_error_and_the_process_goes_on() {
        let error = catch(|| Tensor::zeros([1 << 45], (Kind::Float, Device::Cpu))).unwrap_err();
        assert!(error.message.contains("can't allocate memory"), "{error}");
        assert!(!error.message.contains("Exception raised"), "{error}");
        assert!(!error.is_out_of_memory());
        assert_eq!(catch(|| 5), Ok(5));
    }

    #[test]
    fn without_amp_a_gpu_takes_all_bits_of_32_and_with_it_what_the_reference_takes() {
        tune(false, false).unwrap();
        assert!(allows_tf32().unwrap());
        tune(false, true).unwrap();
        assert!(!allows_tf32().unwrap());
    }

    #[test]
    fn a_gpu_out_of_memory_is_told_from_other_errors() {
        let error = TorchError { message: "CUDA out of memory. Tried to allocate 2.00 GiB.".into() };
        assert!(error.is_out_of_memory());
    }
}
