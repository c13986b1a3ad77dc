//! How much memory this process holds of a device, and how much it did at most.
//!
//! On a GPU that is what libtorch's allocator has taken, pieces that no tensor uses at the moment included;
//! on a CPU it is the process' resident memory, as the kernel tells it.

use tch::Device;

use crate::libtorch::memory::{memory_stats, release, reset_peak, trim};
use crate::libtorch::rethrow;

const MIB: u64 = 1 << 20;

/// Measures from its making on.
#[derive(Debug)]
pub struct Gauge {
    device: Device,
    /// In MiB, when the measurement began.
    before: u64,
    /// Whether the kernel counts the peak anew; else it is of the process' whole life.
    anew: bool,
}

impl Gauge {
    /// Gives back what is not used, and counts peaks anew.
    pub fn start(device: Device) -> Self {
        release(device).and_then(|()| reset_peak(device)).unwrap_or_else(|error| rethrow(&error));
        if device == Device::Cpu {
            trim();
        }
        // The kernel may not let a process in a container do so.
        let anew = device == Device::Cpu && std::fs::write("/proc/self/clear_refs", "5").is_ok();
        let mut gauge = Self { device, before: 0, anew };
        gauge.before = gauge.now();
        gauge
    }

    /// MiB that were held when the measurement began.
    pub const fn before(&self) -> u64 {
        self.before
    }

    /// MiB at most since the measurement began.
    ///
    /// Where the kernel does not count anew, what is held now: of what is freed on a CPU nearly all is kept for
    /// the next step.
    pub fn peak(&self) -> u64 {
        match self.device {
            Device::Cpu if self.anew => status("VmHWM:").unwrap_or(0),
            Device::Cpu => self.now(),
            device => memory_stats(device).map_or(0, |stats| stats.peak_reserved_bytes / MIB),
        }
    }

    fn now(&self) -> u64 {
        match self.device {
            Device::Cpu => status("VmRSS:").unwrap_or(0),
            device => memory_stats(device).map_or(0, |stats| stats.reserved_bytes / MIB),
        }
    }
}

/// A line of /proc/self/status, in MiB.
fn status(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_taken_shows_in_the_peak() {
        let gauge = Gauge::start(Device::Cpu);
        let taken = std::hint::black_box(vec![1_u8; 256 << 20]);
        let peak = gauge.peak();
        assert!(peak >= gauge.before() + 100, "{peak} MiB after {} MiB", gauge.before());
        assert_eq!(taken[taken.len() / 2], 1);
        // Where peaks are counted anew, one that was is forgotten.
        drop(taken);
        let next = Gauge::start(Device::Cpu);
        assert!(next.peak() < peak || !next.anew, "{} MiB again", next.peak());
    }
}
