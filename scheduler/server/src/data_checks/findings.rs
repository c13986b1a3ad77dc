//! What is known of data sets, for how long, and which checks run. Pure.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use trainyard_types::{DataCheck, TrainSpec};

/// Checks that run at a time; what comes beside them is not looked at.
const MOST_RUNNING: usize = 32;
/// Data sets of which something is kept.
const MOST_KEPT: usize = 256;
/// For how long a data set that can be trained on is not looked at again.
const USABLE_FOR: Duration = Duration::from_secs(60);
/// For how long nobody waits again for a check that takes longer than anybody waits.
const TOO_LONG_FOR: Duration = Duration::from_secs(600);
/// For how long a check that failed is not tried again.
const NO_ANSWER_FOR: Duration = Duration::from_secs(10);
/// For how long nobody is asked again for agents that see a data set.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

/// What is known of a data set.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// A training would begin.
    Usable(Arc<DataCheck>),
    /// It would not.
    Unusable(Arc<DataCheck>),
    /// Nothing, since the check did not end in time.
    TooLong,
    /// Nothing, since the check failed.
    NoAnswer,
    /// Nothing, since no agent looks at it.
    Unknown,
}

impl Finding {
    /// Errors are not kept at all.
    fn kept_for(&self) -> Option<Duration> {
        match self {
            Self::Usable(_) => Some(USABLE_FOR),
            Self::Unusable(_) => None,
            Self::TooLong => Some(TOO_LONG_FOR),
            Self::NoAnswer => Some(NO_ANSWER_FOR),
            Self::Unknown => Some(UNKNOWN_FOR),
        }
    }
}

/// A data set, and what of a job decides whether it can be used.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    data: PathBuf,
    single_cls: bool,
    /// The bits of a number.
    fraction: u64,
}

impl From<&TrainSpec> for Key {
    fn from(train: &TrainSpec) -> Self {
        let TrainSpec { data, single_cls, fraction, .. } = train;
        Self { data: data.clone(), single_cls: *single_cls, fraction: fraction.to_bits() }
    }
}

/// The way by which a check's finding comes.
type Running = watch::Receiver<Option<Finding>>;

enum Entry {
    Running(Running, Instant),
    Kept(Finding, Instant),
}

/// What a look at the findings says.
pub(super) enum Looked {
    Known(Finding),
    /// A check is under way, and since when.
    Running(Running, Instant),
    /// One has to begin.
    New,
    /// There is no room for it.
    TooMany,
}

#[derive(Default)]
pub(super) struct Findings {
    entries: HashMap<Key, Entry>,
    running: usize,
}

impl Findings {
    pub(super) fn look(&self, key: &Key, now: Instant) -> Looked {
        match self.entries.get(key) {
            Some(Entry::Kept(finding, until)) if *until > now => Looked::Known(finding.clone()),
            Some(Entry::Running(running, begun)) => Looked::Running(running.clone(), *begun),
            _ if self.running >= MOST_RUNNING => Looked::TooMany,
            _ => Looked::New,
        }
    }

    pub(super) fn begin(&mut self, key: Key, running: Running) {
        self.running += 1;
        self.entries.insert(key, Entry::Running(running, Instant::now()));
    }

    pub(super) fn end(&mut self, key: &Key, finding: &Finding) {
        if matches!(self.entries.remove(key), Some(Entry::Running(..))) {
            self.running -= 1;
        }
        let now = Instant::now();
        let Some(kept_for) = finding.kept_for() else { return };
        if self.entries.len() >= MOST_KEPT {
            self.entries.retain(|_, entry| !matches!(entry, Entry::Kept(_, until) if *until <= now));
        }
        if self.entries.len() < MOST_KEPT {
            self.entries.insert(key.clone(), Entry::Kept(finding.clone(), now + kept_for));
        }
    }

    /// Asks anew for agents that see what none has seen.
    pub(super) fn forget_unknown(&mut self) {
        self.entries.retain(|_, entry| !matches!(entry, Entry::Kept(Finding::Unknown, _)));
    }
}

#[cfg(test)]
mod tests {
    use trainyard_types::ModelScale;

    use super::*;

    fn key(data: &str) -> Key {
        Key::from(&TrainSpec::new(ModelScale::N, data))
    }

    fn begin(findings: &mut Findings, data: &str) {
        findings.begin(key(data), watch::channel(None).1);
    }

    #[test]
    fn what_is_usable_is_kept_for_a_moment_and_errors_are_not() {
        let check = Arc::new(DataCheck::default());
        let mut findings = Findings::default();
        for (finding, seconds) in [
            (Finding::Usable(Arc::clone(&check)), 60),
            (Finding::Unusable(check), 0),
            (Finding::TooLong, 600),
            (Finding::NoAnswer, 10),
            (Finding::Unknown, 5),
        ] {
            begin(&mut findings, "/a");
            assert!(matches!(findings.look(&key("/a"), Instant::now()), Looked::Running(..)));
            findings.end(&key("/a"), &finding);
            let after = |seconds| findings.look(&key("/a"), Instant::now() + Duration::from_secs(seconds));
            assert!(matches!(after(seconds), Looked::New), "{finding:?}");
            let is_kept = matches!(after(0), Looked::Known(known) if known == finding);
            assert_eq!(is_kept, seconds > 0, "{finding:?}");
        }
        findings.forget_unknown();
        assert!(findings.entries.is_empty());
    }

    #[test]
    fn what_is_kept_and_what_runs_is_bounded() {
        let mut findings = Findings::default();
        for number in 0..2 * MOST_KEPT {
            begin(&mut findings, &format!("/{number}"));
            findings.end(&key(&format!("/{number}")), &Finding::NoAnswer);
        }
        assert_eq!(findings.entries.len(), MOST_KEPT);
        for number in 0..MOST_RUNNING {
            begin(&mut findings, &format!("/running/{number}"));
        }
        assert!(matches!(findings.look(&key("/more"), Instant::now()), Looked::TooMany));
        findings.end(&key("/running/0"), &Finding::NoAnswer);
        assert!(matches!(findings.look(&key("/more"), Instant::now()), Looked::New));
    }

    #[test]
    fn a_check_is_of_a_path_and_of_what_decides_about_it() {
        let spec = TrainSpec::new(ModelScale::N, "/a");
        assert_eq!(Key::from(&TrainSpec { epochs: 7, ..spec.clone() }), key("/a"));
        assert_ne!(Key::from(&TrainSpec { single_cls: true, ..spec.clone() }), key("/a"));
        assert_ne!(Key::from(&TrainSpec { fraction: 0.5, ..spec }), key("/a"));
    }
}
