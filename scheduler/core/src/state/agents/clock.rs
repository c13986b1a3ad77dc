//! How the clocks of agents differ from the scheduler's.
//!
//! What an agent says of its clock is old by the time that it took to come here, so that of several the one is
//! right that shows the clock furthest ahead.

use std::collections::VecDeque;
use std::time::Duration;

use trainyard_types::Time;

use crate::duration::in_words;

/// Words of an agent that are looked at: a clock that was set back is followed after so many.
const KEPT: usize = 5;
/// A smaller difference may be the network's.
const NETWORK_MS: u64 = 1000;
/// A larger one is told to people.
const TOLD_MS: u64 = 5000;

/// How an agent's clock differs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Clock(VecDeque<i64>);

impl Clock {
    /// An agent said what its clock showed.
    pub(crate) fn note(&mut self, now: Time, shown: Option<Time>) {
        let Some(shown) = shown else { return };
        let millis = |time: Time| i64::try_from(time.0).unwrap_or(i64::MAX);
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(millis(shown).saturating_sub(millis(now)));
    }

    /// By how many milliseconds it is ahead; `None` while it is not known.
    pub(crate) fn offset_ms(&self) -> Option<i64> {
        self.0.iter().max().copied()
    }

    /// A time of that clock by the scheduler's.
    pub(crate) fn corrected(&self, time: Time) -> Time {
        let offset = self.offset_ms().filter(|offset| offset.unsigned_abs() >= NETWORK_MS).unwrap_or(0);
        Time(time.0.saturating_add_signed(offset.saturating_neg()))
    }

    /// What a person should know of it.
    pub(crate) fn notice(&self) -> Option<String> {
        let offset = self.offset_ms().filter(|offset| offset.unsigned_abs() >= TOLD_MS)?;
        let span = in_words(Duration::from_millis(offset.unsigned_abs()));
        let side = if offset > 0 { "ahead of" } else { "behind" };
        Some(format!("its clock is {span} {side} the scheduler's; have it set, by chrony or ntpd"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000_000);

    fn told(offsets: &[i64]) -> Clock {
        let mut clock = Clock::default();
        for &offset in offsets {
            clock.note(NOW, Some(Time(NOW.0.saturating_add_signed(offset))));
        }
        clock
    }

    #[test]
    fn delays_of_the_network_are_no_skew() {
        for offsets in [&[-300, -20, -900][..], &[0], &[400]] {
            let clock = told(offsets);
            assert_eq!((clock.corrected(NOW), clock.notice()), (NOW, None));
        }
        // A message that was held up for long.
        assert_eq!(told(&[-30, -90_000]).offset_ms(), Some(-30));
        assert_eq!(Clock::default().offset_ms(), None);
    }

    #[test]
    fn a_clock_a_day_and_an_hour_behind_is_corrected_and_told_of() {
        let day = -25 * 3_600_000;
        let clock = told(&[day - 200, day - 5, day - 90]);
        assert_eq!(clock.offset_ms(), Some(day - 5));
        let there = Time(NOW.0.saturating_add_signed(day - 5));
        assert_eq!(clock.corrected(there), NOW);
        assert_eq!(
            clock.notice().unwrap(),
            "its clock is 1 d 1 h behind the scheduler's; have it set, by chrony or ntpd"
        );
        assert!(told(&[3_600_000]).notice().unwrap().contains("1 h ahead of"));
    }

    #[test]
    fn a_clock_that_was_set_is_followed() {
        assert_eq!(told(&[-3_600_000, -3_600_000, -10]).offset_ms(), Some(-10), "forwards at once");
        assert_eq!(told(&[0, -60_000, -60_000, -60_000, -60_000, -60_001]).offset_ms(), Some(-60_000));
    }
}
