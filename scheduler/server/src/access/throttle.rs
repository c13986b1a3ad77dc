//! Wrong tokens back off by the address that they come from. Right ones are never held up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use trainyard_types::Time;

use crate::origin::Origin;

/// Wrong tokens that are answered at once.
const FREE: u32 = 10;
/// The wait after the first one that is not; doubles with each further one.
const WAIT: Duration = Duration::from_secs(1);
const MOST_DOUBLINGS: u32 = 6;
/// After so long without a wrong one, an address begins anew.
const FORGET: Duration = Duration::from_secs(600);
/// Addresses that are remembered.
const MOST_ADDRESSES: usize = 10_000;

/// Counts wrong tokens.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<HashMap<Origin, Failures>>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Time,
}

impl Failures {
    fn until(self) -> Time {
        match self.count.checked_sub(FREE) {
            None | Some(0) => self.last,
            Some(more) => self.last + WAIT * 2_u32.pow(more.saturating_sub(1).min(MOST_DOUBLINGS)),
        }
    }
}

impl Throttle {
    /// Whether the next wrong token from `address` has to wait.
    pub fn is_waiting(&self, address: IpAddr, now: Time) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&address.into()).is_some_and(|failures| failures.until() > now)
    }

    /// A wrong token came from `address`. Tells how long the next one has to wait; while it has, nothing is counted.
    pub fn failed(&self, address: IpAddr, now: Time) -> Option<Duration> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_ADDRESSES {
            known.retain(|_, failures| failures.last + FORGET > now);
            // Still full: whoever has so many addresses is not held up by this.
            if known.len() >= MOST_ADDRESSES {
                known.clear();
            }
        }
        let failures = known.entry(address.into()).or_insert(Failures { count: 0, last: now });
        if failures.last + FORGET <= now {
            failures.count = 0;
        }
        let until = failures.until();
        if until > now {
            return Some(Duration::from_millis(until.0 - now.0));
        }
        *failures = Failures { count: failures.count.saturating_add(1), last: now };
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_tokens_wait_longer_and_longer_and_other_addresses_do_not() {
        let throttle = Throttle::default();
        let (bad, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for _ in 0..=FREE {
            assert_eq!(throttle.failed(bad, Time(0)), None);
        }
        assert_eq!(throttle.failed(bad, Time(0)), Some(Duration::from_secs(1)));
        assert_eq!(throttle.failed(bad, Time(400)), Some(Duration::from_millis(600)));
        assert_eq!(throttle.failed(bad, Time(1000)), None);
        assert_eq!(throttle.failed(bad, Time(1000)), Some(Duration::from_secs(2)));
        assert_eq!(throttle.failed(other, Time(1000)), None);
        let later = Time(1000) + FORGET;
        assert_eq!(throttle.failed(bad, later), None);
        assert_eq!(throttle.failed(bad, later), None);
    }
}
