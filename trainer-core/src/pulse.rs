//! What the process is at, and how much of that it has done, told to an agent by a thread of its own every few seconds,
//! whatever the others wait for.

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use trainyard_data::activity::{at, now, tick};
use trainyard_types::trainer::TrainerEvent;

use crate::events;

/// Time between two beats.
const EVERY: Duration = Duration::from_secs(2);

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
    let event = TrainerEvent::Beat(now());
    events::write(lines, event).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use trainyard_types::trainer::{Activity, TrainerLine};

    use super::*;

    #[test]
    fn a_pulse_begins_anew_with_each_activity_and_is_told_as_a_line() {
        // Other tests count, too.
        at(Activity::Write);
        tick();
        let told = now();
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
