//! What the process does, and how much of that it has done, reported every few seconds by a thread of its own, whatever
//! the others wait for.
//!
//! Must not know: who reads the reports, nor how they are written.

use std::time::Duration;

pub use trainyard_data::activity::{at, now, tick};
use trainyard_types::trainer::Beat;

/// Time between two reports.
const INTERVAL: Duration = Duration::from_secs(2);

/// Calls `report` until it says that nobody reads any more. The thread is never joined: it lives as long as the process.
pub fn report_to(report: impl Fn(Beat) -> bool + Send + 'static) {
    let reports = move || {
        while report(now()) {
            std::thread::sleep(INTERVAL);
        }
    };
    // Without a thread the agent judges by the other lines.
    let _none = std::thread::Builder::new().name("pulse".to_owned()).spawn(reports);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use trainyard_types::trainer::Activity;

    use super::*;

    #[test]
    fn a_pulse_begins_anew_with_each_activity_and_ends_when_nobody_reads() {
        // Other tests count, too.
        at(Activity::Write);
        tick();
        let told = now();
        assert!(told.done >= 1 || told.activity != Activity::Write);
        let (sender, reports) = mpsc::channel();
        report_to(move |beat| sender.send(beat).is_err());
        assert_eq!(reports.iter().count(), 1, "the thread ends after a report that nobody reads");
    }
}
