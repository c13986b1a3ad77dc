//! Refusals of one caller are told one by one up to a rate, and counted beyond it: nobody wipes the audit by asking on
//! and on for what is refused.
//!
//! Must not know: where records go, and what time it is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use trainyard_types::Time;

use crate::access_records::AuditRecord;
use crate::origin::Origin;

/// Refusals of one caller that are told one by one, in so long a time.
const TOLD: u32 = 60;
const PERIOD: Duration = Duration::from_secs(60);
/// Callers that are told apart. All further ones count as one.
const MOST_CALLERS: usize = 4096;
/// What stands for methods, outcomes or callers that are not all the same.
const SEVERAL: &str = "several";

/// Which refusals have been told lately.
#[derive(Debug, Default)]
pub struct Refusals(HashMap<Key, Period>);

/// Whose refusals are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// One who is known, wherever the calls come from.
    Caller(String),
    /// Those who are not known, by where they come from.
    Origin(Origin),
    Others,
}

#[derive(Debug)]
struct Period {
    since: Time,
    told: u32,
    /// How many were not told, and what they have in common.
    more: Option<(u64, AuditRecord)>,
}

impl Refusals {
    /// Passes a record on if it is to be told now. What was done is told always.
    pub fn pass(&mut self, record: AuditRecord) -> Option<AuditRecord> {
        if record.outcome == "OK" {
            return Some(record);
        }
        let mut key = match record.caller.as_str() {
            "" => record.address.parse::<IpAddr>().map_or(Key::Others, |address| Key::Origin(address.into())),
            caller => Key::Caller(caller.to_owned()),
        };
        if self.0.len() >= MOST_CALLERS && !self.0.contains_key(&key) {
            key = Key::Others;
        }
        let period = self.0.entry(key).or_insert(Period { since: record.time, told: 0, more: None });
        if period.told < TOLD {
            period.told += 1;
            return Some(record);
        }
        match &mut period.more {
            None => period.more = Some((1, record)),
            Some((count, common)) => {
                *count += 1;
                common.time = record.time;
                merge(&mut common.caller, &record.caller);
                common.role = common.role.filter(|role| Some(*role) == record.role);
                merge(&mut common.address, &record.address);
                merge(&mut common.action, &record.action);
                merge(&mut common.outcome, &record.outcome);
            }
        }
        None
    }

    /// One record for all that were not told, of each caller whose time is over; those begin anew.
    pub fn due(&mut self, now: Time) -> Vec<AuditRecord> {
        let over = self.0.extract_if(|_, period| period.since + PERIOD <= now);
        over.filter_map(|(_, period)| period.more).map(summary).collect()
    }

    /// The same of every caller, where nothing more will come.
    pub fn all(&mut self) -> Vec<AuditRecord> {
        self.0.drain().filter_map(|(_, period)| period.more).map(summary).collect()
    }
}

fn merge(common: &mut String, next: &str) {
    if common != next {
        SEVERAL.clone_into(common);
    }
}

fn summary((count, common): (u64, AuditRecord)) -> AuditRecord {
    let calls = if count == 1 { "call" } else { "calls" };
    AuditRecord { target: format!("({count} more {calls})"), ..common }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(at: u64, caller: &str, address: &str) -> AuditRecord {
        AuditRecord {
            time: Time(at),
            caller: caller.to_owned(),
            role: None,
            address: address.to_owned(),
            action: "JobService/CancelJob".to_owned(),
            target: String::new(),
            outcome: "PERMISSION_DENIED".to_owned(),
        }
    }

    fn done(at: u64, caller: &str) -> AuditRecord {
        AuditRecord { outcome: "OK".to_owned(), ..refused(at, caller, "10.0.0.1") }
    }

    #[test]
    fn what_was_done_is_told_however_often() {
        let mut refusals = Refusals::default();
        assert!((0..10_000).all(|at| refusals.pass(done(at, "ada")) == Some(done(at, "ada"))));
        assert_eq!(refusals.all(), []);
    }

    #[test]
    fn beyond_the_rate_refusals_of_one_caller_are_counted_and_told_of_once() {
        let mut refusals = Refusals::default();
        let told = (0..30_000).filter(|at| refusals.pass(refused(*at, "ada", "10.0.0.1")).is_some());
        assert_eq!(told.count(), 60);
        assert!(refusals.pass(refused(7, "bob", "10.0.0.1")).is_some(), "another caller has its own");
        assert!(refusals.pass(done(8, "ada")).is_some());
        assert_eq!(refusals.due(Time(59_999)), []);
        let expected =
            AuditRecord { target: "(29940 more calls)".to_owned(), ..refused(29_999, "ada", "10.0.0.1") };
        assert_eq!(refusals.due(Time(60_000)), [expected]);
        // The next minute begins anew.
        assert!(refusals.pass(refused(60_001, "ada", "10.0.0.1")).is_some());
        assert_eq!(refusals.all(), []);
    }

    #[test]
    fn what_the_counted_ones_do_not_have_in_common_is_said() {
        let mut refusals = Refusals::default();
        for _ in 0..60 {
            refusals.pass(refused(1, "ada", "10.0.0.1"));
        }
        refusals.pass(refused(2, "ada", "10.0.0.1"));
        let other = AuditRecord { action: "JobService/GetJob".to_owned(), ..refused(3, "ada", "10.0.0.2") };
        refusals.pass(other);
        let expected = AuditRecord {
            address: "several".to_owned(),
            action: "several".to_owned(),
            target: "(2 more calls)".to_owned(),
            ..refused(3, "ada", "")
        };
        assert_eq!(refusals.all(), [expected]);
    }

    #[test]
    fn callers_that_are_not_known_are_told_apart_by_address_and_not_without_end() {
        let mut refusals = Refusals::default();
        let mut told = 0;
        for number in 0..10_000_u32 {
            told += usize::from(
                refusals.pass(refused(1, "", &std::net::Ipv4Addr::from(number).to_string())).is_some(),
            );
        }
        assert_eq!((told, refusals.0.len()), (MOST_CALLERS + 60, MOST_CALLERS + 1));
        assert_eq!(refusals.all().len(), 1);
    }
}
