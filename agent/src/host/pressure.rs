//! When loading must take less memory, before the kernel kills for it. Pure: readings in, a decision out.

use std::time::Duration;

use trainyard_types::Time;

use crate::message::HostReading;

/// Less than this share of the memory available is too little by itself.
const FLOOR: f64 = 0.05;
/// Never less than this, in MiB.
const FLOOR_MIB: u64 = 384;
/// With less than this share available, waits for memory count.
const LOW: f64 = 0.2;
/// Share of time that waits for memory may take then.
const STALLED: f64 = 0.1;
/// One bad moment does not count: so many readings in a row must say the same.
const READINGS_IN_A_ROW: u32 = 2;
/// Workers that were given up free their memory after so long.
const PAUSE: Duration = Duration::from_secs(10);

/// Follows the readings, and counts those in a row that say that memory runs out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryPressure {
    in_a_row: u32,
    /// When workers were given up last.
    acted: Option<Time>,
}

impl MemoryPressure {
    /// Takes a reading; returns whether workers must be given up now.
    pub fn observe(&mut self, now: Time, reading: &HostReading) -> bool {
        self.in_a_row = if is_pressed(reading) { self.in_a_row + 1 } else { 0 };
        let felt = self.acted.is_none_or(|acted| acted + PAUSE <= now);
        if self.in_a_row < READINGS_IN_A_ROW || !felt {
            return false;
        }
        self.in_a_row = 0;
        self.acted = Some(now);
        true
    }
}

/// Whether a reading says that memory runs out.
pub fn is_pressed(reading: &HostReading) -> bool {
    if reading.total_mib == 0 {
        return false; // Nothing is known.
    }
    let share = reading.available_mib as f64 / reading.total_mib as f64;
    let under_the_floor = share < FLOOR || reading.available_mib < FLOOR_MIB.min(reading.total_mib / 8);
    under_the_floor || (share < LOW && reading.stalled_ratio > STALLED)
}

/// `some avg10=1.50 …` of a pressure file as a share: 0.015.
pub fn some_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let word = line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
    word.parse::<f64>().ok().map(|percent| percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(available_mib: u64, stalled_ratio: f64) -> HostReading {
        HostReading { total_mib: 16_000, available_mib, stalled_ratio, idle_ratio: 0.5 }
    }

    /// The seconds at which workers are given up, of one reading a second.
    fn actions(readings: &[HostReading]) -> Vec<usize> {
        let mut pressure = MemoryPressure::default();
        let act = |(second, reading): (usize, &HostReading)| {
            pressure.observe(Time(second as u64 * 1000), reading).then_some(second)
        };
        readings.iter().enumerate().filter_map(act).collect()
    }

    #[test]
    fn memory_that_keeps_falling_is_answered_again_and_again_with_a_pause() {
        let falling: Vec<HostReading> = (0..30).map(|second| reading(1600 - 50 * second, 0.0)).collect();
        assert_eq!(actions(&falling), [18, 28]);
    }

    #[test]
    fn one_bad_moment_is_not_answered() {
        let moment = [reading(8000, 0.0), reading(100, 0.9), reading(8000, 0.0), reading(100, 0.9)];
        assert_eq!(actions(&moment), Vec::<usize>::new());
    }

    #[test]
    fn waits_count_where_memory_is_low_and_not_where_there_is_plenty() {
        assert_eq!(actions(&[reading(2000, 0.5); 3]), [1]);
        assert_eq!(actions(&[reading(8000, 0.9); 9]), Vec::<usize>::new());
        assert_eq!(actions(&[HostReading::default(); 9]), Vec::<usize>::new());
    }

    #[test]
    fn the_kernels_file_is_read() {
        let text =
            "some avg10=12.50 avg60=1.00 avg300=0.00 total=5\nfull avg10=99.00 avg60=0 avg300=0 total=1\n";
        assert_eq!(some_avg10(text), Some(0.125));
        assert_eq!(some_avg10("full avg10=1"), None);
    }
}
