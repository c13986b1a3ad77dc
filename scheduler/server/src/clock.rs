//! The scheduler's time: starts at the wall clock, and from there never jumps.
//!
//! A lease must not end because somebody set the clock; a suspended machine's leases must.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use trainyard_types::Time;

/// Tells the time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall_at_start: Time,
    boot_at_start: Duration,
}

impl Clock {
    /// Starts at what the wall clock says.
    pub fn start() -> Self {
        Self { wall_at_start: Time::now(), boot_at_start: since_boot() }
    }

    /// What the clock shows now.
    pub fn now(&self) -> Time {
        self.wall_at_start + since_boot().saturating_sub(self.boot_at_start)
    }
}

/// Time since the machine booted, suspensions included; zero where the kernel does not tell.
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(clock.now() >= first && first >= clock.wall_at_start);
    }
}
