//! What the process is at, and how much of that it has done, counted by whatever works.
//!
//! One for the process, as there is one training in it: those who count are deep inside of data and loops.

use std::sync::{Mutex, MutexGuard, PoisonError};

use trainyard_types::trainer::{Activity, Beat};

static NOW: Mutex<Beat> = Mutex::new(Beat { activity: Activity::Start, done: 0 });

fn counted() -> MutexGuard<'static, Beat> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the activity of the process, and begins its count anew if it is another one.
pub fn at(activity: Activity) {
    let mut now = counted();
    if now.activity != activity {
        *now = Beat { activity, done: 0 };
    }
}

/// One more image, batch or file is done.
pub fn tick() {
    counted().done += 1;
}

/// The activity of the process, and what of it is done.
pub fn now() -> Beat {
    *counted()
}
