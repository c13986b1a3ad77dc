//! What a process does first when a GPU's context is broken.
//!
//! From then on every call to the GPU fails, and libtorch calls it even to free a tensor: in a destructor, where an
//! exception ends the process without a word. So it has to be said, and to end, before anything is dropped.

use std::sync::OnceLock;

use trainyard_types::faults;

use super::{TorchError, quiet_hook};

/// See [`set`].
type LastWords = Box<dyn Fn(&TorchError) + Send + Sync>;

static LAST_WORDS: OnceLock<LastWords> = OnceLock::new();

/// Has `last_words` called with an error that says that a GPU's context is broken, on the thread that meets it and before
/// anything is dropped. They should not return. Only the first that are set count.
pub fn set(last_words: LastWords) {
    // There is one command in a process.
    let _set_before = LAST_WORDS.set(last_words);
    quiet_hook();
}

/// Says them, if this error is of that kind.
pub(super) fn say(message: &str) {
    if let Some(last_words) = LAST_WORDS.get().filter(|_| faults::is_sticky(message)) {
        last_words(&TorchError { message: message.to_owned() });
    }
}

impl TorchError {
    /// Whether the GPU's context is broken: nothing more can be done with it in this process.
    pub fn is_sticky(&self) -> bool {
        faults::is_sticky(&self.message)
    }
}

/// Ends the process at once: nothing is dropped, and no library's destructor runs.
pub fn end_at_once(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use trainyard_types::trainer::exit_code;

    use super::super::{catch, rethrow};
    use super::*;

    /// As a tensor on a broken GPU does.
    struct Deadly;

    impl Drop for Deadly {
        fn drop(&mut self) {
            std::process::abort();
        }
    }

    const INNER: &str = "TRAINYARD_TEST_LAST_WORDS";

    #[test]
    fn a_broken_context_is_told_and_the_process_ended_before_anything_is_dropped() {
        if let Some(text) = std::env::var_os(INNER) {
            set(Box::new(|error| {
                eprintln!("told: {error}");
                end_at_once(exit_code::INTERNAL);
            }));
            let _ = catch(|| {
                let _on_the_gpu = Deadly;
                rethrow(&TorchError { message: text.to_string_lossy().into_owned() });
            });
            return;
        }
        let run = |message: &str| {
            let name = "libtorch::last_words::tests::a_broken_context_is_told_and_the_process_ended_before_anything_is_dropped";
            let mut command = Command::new(std::env::current_exe().unwrap());
            let command = command.args(["--exact", name, "--nocapture"]).env(INNER, message);
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (code, told) = run("CUDA error: an illegal memory access was encountered");
        assert_eq!(code, Some(exit_code::INTERNAL), "{told}");
        assert!(told.contains("told: CUDA error: an illegal memory access"), "{told}");
        // Other errors unwind as ever.
        let (code, told) = run("CUDA out of memory. Tried to allocate 2.00 GiB.");
        assert!(code.is_none() && !told.contains("told: "), "{code:?} {told}");
    }
}
