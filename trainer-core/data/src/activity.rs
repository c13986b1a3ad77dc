//! What this process is busy with, and how much of that it has done. Whoever waits for the process tells by the count
//! whether it hangs.
//!
//! There is one count for the process, as there is one training in it: those who count are deep inside of data and
//! loops.

use std::sync::{Mutex, MutexGuard, PoisonError};

use trainyard_types::trainer::{Activity, Beat};

static NOW: Mutex<Beat> = Mutex::new(Beat { activity: Activity::Start, done: 0 });

fn lock() -> MutexGuard<'static, Beat> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the activity of the process. The count starts at 0 if it is another activity than before.
pub fn at(activity: Activity) {
    let mut now = lock();
    if now.activity != activity {
        *now = Beat { activity, done: 0 };
    }
}

/// Counts one more image, batch or file as done.
pub fn tick() {
    lock().done += 1;
}

/// The activity of the process, and how much of it is done.
pub fn now() -> Beat {
    *lock()
}
