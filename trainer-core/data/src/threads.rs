//! How a thread that loads begins. A program that computes may have bound its threads to cores, and those that they
//! start inherit that.

use std::sync::OnceLock;

static FIRST: OnceLock<fn()> = OnceLock::new();

/// Has every thread that loads do this first, from now on: it is to leave the core of whoever starts it. The first
/// word counts.
pub fn begin_with(first: fn()) {
    let _said_before = FIRST.set(first);
}

/// Called on a thread that loads, before its work.
pub(crate) fn begin() {
    FIRST.get().inspect(|first| first());
}
