//! What the process does, and how much of that it has done, reported to an agent every few seconds by a thread
//! of its own, whatever the others wait for.

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use trainyard_data::activity::{at, now, tick};
use trainyard_types::trainer::TrainerEvent;

use crate::events;

/// Time between two reports.
const INTERVAL: Duration = Duration::from_secs(2);

/// Reports to `lines` until nobody reads them any more. The thread is never joined: it lives as long as the
/// process.
pub fn report_to(lines: Arc<Mutex<File>>) {
    let reports = move || {
        while report(&lines) {
            std::thread::sleep(INTERVAL);
        }
    };
    // Without a thread the agent judges by the other lines.
    let _none = std::thread::Builder::new().name("pulse".to_owned()).spawn(reports);
}

/// Writes one report; returns whether anybody could read it.
fn report(lines: &Mutex<File>) -> bool {
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
        assert!(report(&lines));
        let mut text = String::new();
        BufReader::new(&reader).read_line(&mut text).unwrap();
        let line: TrainerLine = serde_json::from_str(&text).unwrap();
        assert!(matches!(line.event, TrainerEvent::Beat(_)), "{text}");
        drop(reader);
        assert!(!report(&lines), "nobody reads any more");
    }
}
