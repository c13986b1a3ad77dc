//! One GPU's health as its readings tell it: readings that fail, memory errors, its link, what holds its clock down.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::warn;
use trainyard_types::{GpuUuid, Time};

use super::reading::{GpuReading, ReadError};

/// So many readings in a row may fail before a GPU counts as unresponsive.
const TOLERATED_FAILURES: u32 = 2;

/// From this use on a GPU's link is expected to be as wide as it gets; at rest it may sleep.
const UNDER_LOAD: f64 = 0.5;

/// How long a link may be narrow under load before the log says so.
const NARROW_LINK_AFTER: Duration = Duration::from_secs(60);

/// Between two readings at most so much counts as throttled: a machine that slept was not.
const LONGEST_BETWEEN_READINGS: Duration = Duration::from_secs(5);

/// What was counted of a GPU since the agent's start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counts {
    /// How many errors the driver has told, by their number.
    pub xids: BTreeMap<u64, u64>,
    /// The number of the newest error; 0 while there was none.
    pub last_xid: u64,
    /// Seconds that the clock was held down, by reason.
    pub throttled: BTreeMap<&'static str, f64>,
}

/// The health of one GPU.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// What was counted, for the metrics page.
    pub counts: Counts,
    /// Readings in a row that failed.
    failures: u32,
    ecc_uncorrected: Option<u64>,
    read_last: Option<Time>,
    narrow_since: Option<Time>,
    narrow_told: bool,
}

/// What a reading says of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Nothing has happened.
    Fine,
    /// The GPU does not answer, and might again: the driver's words.
    Unresponsive(String),
    /// The GPU has failed: a sentence.
    Failed(String),
}

impl Health {
    /// Takes a reading of the GPU, or why there is none.
    pub fn observe(
        &mut self,
        now: Time,
        uuid: &GpuUuid,
        reading: Result<&GpuReading, &ReadError>,
    ) -> Finding {
        let reading = match reading {
            Ok(reading) => reading,
            Err(ReadError::Lost) => return Finding::Failed("the GPU has vanished (GPU is lost)".into()),
            Err(ReadError::Failed(why)) => {
                self.failures += 1;
                let is_unresponsive = self.failures > TOLERATED_FAILURES;
                return if is_unresponsive { Finding::Unresponsive(why.clone()) } else { Finding::Fine };
            }
        };
        self.failures = 0;
        let span =
            self.read_last.map_or(Duration::ZERO, |last| now.since(last).min(LONGEST_BETWEEN_READINGS));
        self.read_last = Some(now);
        for reason in &reading.throttle_reasons {
            *self.counts.throttled.entry(reason).or_default() += span.as_secs_f64();
        }
        self.check_link(now, uuid, reading);
        let before = self.ecc_uncorrected.replace(reading.ecc_uncorrected.unwrap_or(0));
        match (before, reading.ecc_uncorrected) {
            // Errors that were counted before the agent's start do not matter.
            (Some(before), Some(errors)) if errors > before => {
                Finding::Failed(format!("uncorrected memory errors rose from {before} to {errors}"))
            }
            _ => Finding::Fine,
        }
    }

    fn check_link(&mut self, now: Time, uuid: &GpuUuid, reading: &GpuReading) {
        let (Some(width), Some(most)) = (reading.pcie_link_width, reading.pcie_link_width_max) else {
            return;
        };
        let busy = reading.utilization_ratio.is_some_and(|ratio| ratio >= UNDER_LOAD);
        if !busy || width >= most {
            self.narrow_since = None;
            return;
        }
        let since = *self.narrow_since.get_or_insert(now);
        if now.since(since) >= NARROW_LINK_AFTER && !self.narrow_told {
            self.narrow_told = true;
            warn!(gpu = %uuid, width, most, "the PCIe link is narrower than it could be: is the GPU seated well?");
        }
    }

    /// Whether the log has said that the link is narrow.
    pub const fn has_narrow_link(&self) -> bool {
        self.narrow_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(health: &mut Health, second: u64, reading: &GpuReading) -> Finding {
        health.observe(Time(second * 1000), &GpuUuid("GPU-1".into()), Ok(reading))
    }

    #[test]
    fn throttled_seconds_add_up_by_reason_and_a_pause_counts_little() {
        let mut health = Health::default();
        let hot = GpuReading { throttle_reasons: vec!["thermal", "power"], ..GpuReading::default() };
        for second in 0..=10 {
            observe(&mut health, second, &hot);
        }
        observe(&mut health, 11, &GpuReading::default());
        observe(
            &mut health,
            1000,
            &GpuReading { throttle_reasons: vec!["thermal"], ..GpuReading::default() },
        );
        assert_eq!(health.counts.throttled, [("power", 10.0), ("thermal", 15.0)].into());
    }

    #[test]
    fn rising_memory_errors_are_a_failure_and_those_of_before_are_not() {
        let mut health = Health::default();
        let with = |errors| GpuReading { ecc_uncorrected: Some(errors), ..GpuReading::default() };
        assert_eq!(observe(&mut health, 0, &with(3)), Finding::Fine);
        assert_eq!(observe(&mut health, 1, &with(3)), Finding::Fine);
        let failed = Finding::Failed("uncorrected memory errors rose from 3 to 4".into());
        assert_eq!(observe(&mut health, 2, &with(4)), failed);
        assert_eq!(observe(&mut health, 3, &with(4)), Finding::Fine);
    }

    #[test]
    fn a_gpu_may_fail_to_answer_now_and_then_but_a_lost_one_is_lost() {
        let mut health = Health::default();
        let uuid = GpuUuid("GPU-1".into());
        let error = ReadError::Failed("Timeout".into());
        for _ in 0..2 {
            assert_eq!(health.observe(Time(0), &uuid, Err(&error)), Finding::Fine);
        }
        assert_eq!(health.observe(Time(0), &uuid, Err(&error)), Finding::Unresponsive("Timeout".into()));
        observe(&mut health, 1, &GpuReading::default());
        assert_eq!(health.observe(Time(0), &uuid, Err(&error)), Finding::Fine);
        assert!(matches!(health.observe(Time(0), &uuid, Err(&ReadError::Lost)), Finding::Failed(_)));
    }

    #[test]
    fn a_link_that_is_narrow_under_load_is_logged_and_one_that_sleeps_is_not() {
        let link = |busy| GpuReading {
            pcie_link_width: Some(8),
            pcie_link_width_max: Some(16),
            utilization_ratio: Some(busy),
            ..GpuReading::default()
        };
        let mut health = Health::default();
        (0..100).for_each(|second| assert_eq!(observe(&mut health, second, &link(0.0)), Finding::Fine));
        assert!(!health.has_narrow_link());
        (100..=160).for_each(|second| assert_eq!(observe(&mut health, second, &link(0.9)), Finding::Fine));
        assert!(health.has_narrow_link());
    }
}
