//! What the process is at, and how much of that it has done: counted by whatever works, told to an agent by a thread
//! of its own every few seconds, whatever the others wait for.
//!
//! One for the process, as there is one training in it: those who count are deep inside of data and loops.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use trainyard_types::Time;
use trainyard_types::trainer::{Activity, Beat, TrainerEvent, TrainerLine, VERSION};

/// How often it is told.
const EVERY: Duration = Duration::from_secs(2);

static ACTIVITY: AtomicU8 = AtomicU8::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
static OF: AtomicU64 = AtomicU64::new(0);

const ALL: [Activity; 6] =
    [Activity::Start, Activity::Scan, Activity::Search, Activity::Train, Activity::Validate, Activity::Write];

/// From now on the process is at this. `of`: how much of it there is to do, 0 while it is not known.
pub fn at(activity: Activity, of: u64) {
    let index = ALL.iter().position(|known| *known == activity).and_then(|at| u8::try_from(at).ok());
    if ACTIVITY.swap(index.unwrap_or(0), Ordering::Relaxed) != index.unwrap_or(0) {
        DONE.store(0, Ordering::Relaxed);
    }
    OF.store(of, Ordering::Relaxed);
}

/// One more image, batch or file is done.
pub fn tick() {
    DONE.fetch_add(1, Ordering::Relaxed);
}

fn now() -> Beat {
    let activity = ALL.get(usize::from(ACTIVITY.load(Ordering::Relaxed))).copied().unwrap_or_default();
    Beat { activity, done: DONE.load(Ordering::Relaxed), of: OF.load(Ordering::Relaxed) }
}

/// Tells `lines` until nobody reads them any more. It is never joined: it lives as long as the process.
pub fn tell(lines: Arc<Mutex<File>>) {
    let beats = move || {
        while beat(&lines) {
            std::thread::sleep(EVERY);
        }
    };
    // Without a thread the agent judges by the other lines.
    let _none = std::thread::Builder::new().name("pulse".to_owned()).spawn(beats);
}

/// Whether it could be told.
fn beat(lines: &Mutex<File>) -> bool {
    let line = TrainerLine { v: VERSION, time: Time::now(), event: TrainerEvent::Beat(now()) };
    let Ok(mut text) = serde_json::to_vec(&line) else { return false };
    text.push(b'\n');
    lines.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    #[test]
    fn a_pulse_begins_anew_with_each_activity_and_is_told_as_a_line() {
        // Other tests count, too.
        at(Activity::Write, 7);
        tick();
        assert!(now().done >= 1 || now().activity != Activity::Write);
        let (reader, writer) = std::io::pipe().unwrap();
        let lines = Arc::new(Mutex::new(File::from(std::os::fd::OwnedFd::from(writer))));
        assert!(beat(&lines));
        let mut text = String::new();
        BufReader::new(&reader).read_line(&mut text).unwrap();
        let line: TrainerLine = serde_json::from_str(&text).unwrap();
        assert!(matches!(line.event, TrainerEvent::Beat(_)), "{text}");
        drop(reader);
        assert!(!beat(&lines), "nobody reads any more");
    }
}
