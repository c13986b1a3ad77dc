//! What the process is at, and how much of that it has done: counted by whatever works, told to an agent by a thread
//! of its own every few seconds, whatever the others wait for.
//!
//! One for the process, as there is one training in it: those who count are deep inside of data and loops.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use trainyard_types::trainer::{Activity, Beat, TrainerEvent};

use crate::events;

/// Time between two beats.
const EVERY: Duration = Duration::from_secs(2);

static NOW: Mutex<Beat> = Mutex::new(Beat { activity: Activity::Start, done: 0 });

fn now() -> MutexGuard<'static, Beat> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the activity of the process, and begins its count anew if it is another one.
pub fn at(activity: Activity) {
    let mut now = now();
    if now.activity != activity {
        *now = Beat { activity, done: 0 };
    }
}

/// One more image, batch or file is done.
pub fn tick() {
    now().done += 1;
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

/// Tells one beat; whether anybody could read it.
fn beat(lines: &Mutex<File>) -> bool {
    let event = TrainerEvent::Beat(*now());
    events::write(lines, event).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use trainyard_types::trainer::TrainerLine;

    use super::*;

    #[test]
    fn a_pulse_begins_anew_with_each_activity_and_is_told_as_a_line() {
        // Other tests count, too.
        at(Activity::Write);
        tick();
        let told = *now();
        assert!(told.done >= 1 || told.activity != Activity::Write);
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
