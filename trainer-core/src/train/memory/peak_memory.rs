//! How much of a device's memory this process holds, and how much it held at most.
//!
//! On a GPU that is what libtorch's allocator has taken, blocks that no tensor uses at the moment included;
//! on a CPU it is the process' resident memory, as the kernel tells it.

use tch::Device;

use crate::libtorch::memory::{memory_stats, release, reset_peak, trim};
use crate::libtorch::rethrow;

const MIB: u64 = 1 << 20;

/// A measurement that begins when it is made.
#[derive(Debug)]
pub struct PeakMemory {
    device: Device,
    /// MiB that were held when the measurement began.
    baseline_mib: u64,
    /// Whether the kernel has reset its peak; else it is of the process' whole life.
    reset: bool,
}

impl PeakMemory {
    /// Gives back memory that no tensor uses, and resets the peak.
    pub fn start(device: Device) -> Self {
        release(device).and_then(|()| reset_peak(device)).unwrap_or_else(|error| rethrow(&error));
        if device == Device::Cpu {
            trim();
        }
        // The kernel may not let a process in a container do so.
        let reset = device == Device::Cpu && std::fs::write("/proc/self/clear_refs", "5").is_ok();
        let mut measurement = Self { device, baseline_mib: 0, reset };
        measurement.baseline_mib = measurement.now_mib();
        measurement
    }

    /// MiB that were held when the measurement began.
    pub const fn baseline_mib(&self) -> u64 {
        self.baseline_mib
    }

    /// MiB at most since the measurement began.
    ///
    /// Where the kernel does not reset its peak, what is held now: of what is freed on a CPU nearly all is
    /// kept for the next step.
    pub fn peak_mib(&self) -> u64 {
        match self.device {
            Device::Cpu if self.reset => status("VmHWM:").unwrap_or(0),
            Device::Cpu => self.now_mib(),
            device => memory_stats(device).map_or(0, |stats| stats.peak_reserved_bytes / MIB),
        }
    }

    fn now_mib(&self) -> u64 {
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
        let memory = PeakMemory::start(Device::Cpu);
        let taken = std::hint::black_box(vec![1_u8; 256 << 20]);
        let peak = memory.peak_mib();
        assert!(peak >= memory.baseline_mib() + 100, "{peak} MiB after {} MiB", memory.baseline_mib());
        assert_eq!(taken[taken.len() / 2], 1);
        // Where the kernel resets its peak, an earlier one does not count.
        drop(taken);
        let next = PeakMemory::start(Device::Cpu);
        assert!(next.peak_mib() < peak || !next.reset, "{} MiB again", next.peak_mib());
    }
}
