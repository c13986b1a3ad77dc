//! What a worker thread does before its work. A program that computes may have bound its threads to cores, and threads
//! that those start inherit that; the hook undoes it.

use std::sync::OnceLock;

static HOOK: OnceLock<fn()> = OnceLock::new();

/// Has every worker thread that starts from now on call `hook` first. Only the first hook of a process counts.
pub fn set(hook: fn()) {
    // A second call sets nothing, as promised.
    let _ = HOOK.set(hook);
}

/// Calls the hook. For worker threads, before their work.
pub(crate) fn run() {
    HOOK.get().inspect(|hook| hook());
}
