//! One GPU's health as its readings tell it: silence, memory errors, its link, what holds its clock down.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::warn;
use trainyard_types::{GpuUuid, Time};

use super::reading::{Reading, Silence};

/// So many readings in a row may fail before a GPU counts as silent.
const FORGIVEN: u32 = 2;

/// From this use on a GPU's link is expected to be as wide as it gets; at rest it may sleep.
const UNDER_LOAD: f64 = 0.5;

/// How long a link may be narrow under load before it is told.
const NARROW: Duration = Duration::from_secs(60);

/// Between two readings at most so much counts as throttled: a machine that slept was not.
const LONGEST: Duration = Duration::from_secs(5);

/// What was counted of a GPU since the agent's start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counts {
    /// Errors that the driver told, by number.
    pub xids: BTreeMap<u64, u64>,
    /// The newest of them; 0 while there was none.
    pub last_xid: u64,
    /// Seconds that the clock was held down, by reason.
    pub throttled: BTreeMap<&'static str, f64>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// For scrapes.
    pub counts: Counts,
    failures: u32,
    ecc_uncorrected: Option<u64>,
    read_last: Option<Time>,
    narrow_since: Option<Time>,
    narrow_told: bool,
}

/// What a reading says of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Nothing new.
    Fine,
    /// It does not answer, and might again: the driver's words.
    Silent(String),
    /// It has failed: a sentence.
    Failed(String),
}

impl Health {
    /// Takes what a GPU said or did not.
    pub fn judge(&mut self, now: Time, uuid: &GpuUuid, reading: Result<&Reading, &Silence>) -> Finding {
        let reading = match reading {
            Ok(reading) => reading,
            Err(Silence::Lost) => return Finding::Failed("the GPU has vanished (GPU is lost)".into()),
            Err(Silence::Failed(why)) => {
                self.failures += 1;
                let silent = self.failures > FORGIVEN;
                return if silent { Finding::Silent(why.clone()) } else { Finding::Fine };
            }
        };
        self.failures = 0;
        let span = self.read_last.map_or(Duration::ZERO, |last| now.since(last).min(LONGEST));
        self.read_last = Some(now);
        for reason in &reading.throttle_reasons {
            *self.counts.throttled.entry(reason).or_default() += span.as_secs_f64();
        }
        self.look_at_link(now, uuid, reading);
        let before = self.ecc_uncorrected.replace(reading.ecc_uncorrected.unwrap_or(0));
        match (before, reading.ecc_uncorrected) {
            // A count that was there at the start is no news.
            (Some(before), Some(errors)) if errors > before => {
                Finding::Failed(format!("uncorrected memory errors rose from {before} to {errors}"))
            }
            _ => Finding::Fine,
        }
    }

    fn look_at_link(&mut self, now: Time, uuid: &GpuUuid, reading: &Reading) {
        let (Some(width), Some(most)) = (reading.pcie_link_width, reading.pcie_link_width_max) else {
            return;
        };
        let busy = reading.utilization_ratio.is_some_and(|ratio| ratio >= UNDER_LOAD);
        if !busy || width >= most {
            self.narrow_since = None;
            return;
        }
        let since = *self.narrow_since.get_or_insert(now);
        if now.since(since) >= NARROW && !self.narrow_told {
            self.narrow_told = true;
            warn!(gpu = %uuid, width, most, "the PCIe link is narrower than it could be: is the GPU seated well?");
        }
    }

    /// Whether a narrow link was told.
    pub const fn has_narrow_link(&self) -> bool {
        self.narrow_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(health: &mut Health, second: u64, reading: &Reading) -> Finding {
        health.judge(Time(second * 1000), &GpuUuid("GPU-1".into()), Ok(reading))
    }

    #[test]
    fn throttled_seconds_add_up_by_reason_and_a_pause_counts_little() {
        let mut health = Health::default();
        let hot = Reading { throttle_reasons: vec!["thermal", "power"], ..Reading::default() };
        for second in 0..=10 {
            judge(&mut health, second, &hot);
        }
        judge(&mut health, 11, &Reading::default());
        judge(&mut health, 1000, &Reading { throttle_reasons: vec!["thermal"], ..Reading::default() });
        assert_eq!(health.counts.throttled, [("power", 10.0), ("thermal", 15.0)].into());
    }

    #[test]
    fn rising_memory_errors_are_a_failure_and_those_of_before_are_not() {
        let mut health = Health::default();
        let with = |errors| Reading { ecc_uncorrected: Some(errors), ..Reading::default() };
        assert_eq!(judge(&mut health, 0, &with(3)), Finding::Fine);
        assert_eq!(judge(&mut health, 1, &with(3)), Finding::Fine);
        let failed = Finding::Failed("uncorrected memory errors rose from 3 to 4".into());
        assert_eq!(judge(&mut health, 2, &with(4)), failed);
        assert_eq!(judge(&mut health, 3, &with(4)), Finding::Fine);
    }

    #[test]
    fn a_card_may_fail_to_answer_now_and_then_but_a_lost_one_is_lost() {
        let mut health = Health::default();
        let uuid = GpuUuid("GPU-1".into());
        let silence = Silence::Failed("Timeout".into());
        for _ in 0..2 {
            assert_eq!(health.judge(Time(0), &uuid, Err(&silence)), Finding::Fine);
        }
        assert_eq!(health.judge(Time(0), &uuid, Err(&silence)), Finding::Silent("Timeout".into()));
        judge(&mut health, 1, &Reading::default());
        assert_eq!(health.judge(Time(0), &uuid, Err(&silence)), Finding::Fine);
        assert!(matches!(health.judge(Time(0), &uuid, Err(&Silence::Lost)), Finding::Failed(_)));
    }

    #[test]
    fn a_link_that_is_narrow_under_load_is_told_and_one_that_sleeps_is_not() {
        let link = |busy| Reading {
            pcie_link_width: Some(8),
            pcie_link_width_max: Some(16),
            utilization_ratio: Some(busy),
            ..Reading::default()
        };
        let mut health = Health::default();
        (0..100).for_each(|second| assert_eq!(judge(&mut health, second, &link(0.0)), Finding::Fine));
        assert!(!health.has_narrow_link());
        (100..=160).for_each(|second| assert_eq!(judge(&mut health, second, &link(0.9)), Finding::Fine));
        assert!(health.has_narrow_link());
    }
}
