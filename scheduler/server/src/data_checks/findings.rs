//! What is known of data sets, for how long, and which checks run. Pure.

use std::collections::HashMap;
use std::fmt;
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
const UNSEEN_FOR: Duration = Duration::from_secs(5);

/// What is known of a data set.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// A training would begin.
    Usable(Arc<DataCheck>),
    /// It would not.
    Unusable(Arc<DataCheck>),
    /// Nothing is known of the data set, for this reason.
    Unchecked(Unchecked),
}

/// Why nothing is known of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unchecked {
    /// The check did not end in that time.
    TooLong(Duration),
    /// The check failed, by the agent's words.
    NoAnswer(String),
    /// No agent sees it, by the words of the last one that was asked.
    Unseen(String),
    /// The agents that were asked lack a part of it, by the words of the first one; and others are left.
    InPart { missing: String, left: String },
    /// Who was asked went away.
    Gone,
    /// No agent that could run the job and looks at data sets sees it, by what all have said before.
    NobodyCould,
    /// No agent that looks at data sets is connected.
    NobodyLooks,
    /// Too much else is being looked at.
    TooMany,
    /// The scheduler stops, or does not lead.
    Closing,
    /// The cluster is set up to look at nothing.
    Off,
}

impl fmt::Display for Unchecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(limit) => {
                let tenths = u64::try_from((limit.as_millis() + 50) / 100).unwrap_or(u64::MAX);
                write!(
                    f,
                    "its check took longer than {:?}",
                    Duration::from_millis(tenths.saturating_mul(100))
                )
            }
            Self::NoAnswer(why) => write!(f, "{why}"),
            Self::Unseen(why) => write!(f, "no agent that was asked sees it: {why}"),
            Self::InPart { missing, left } => {
                write!(f, "no agent that was asked sees all of it: {missing}; {left}")
            }
            Self::Gone => write!(f, "the agents that were asked went away or do not answer"),
            Self::NobodyCould => {
                write!(f, "no agent is connected that sees it, could run the job and is new enough to look")
            }
            Self::NobodyLooks => write!(f, "no agent is connected that looks at data sets"),
            Self::TooMany => write!(f, "too many other data sets are being checked"),
            Self::Closing => write!(f, "the scheduler stops or does not lead"),
            Self::Off => write!(f, "`data_check_timeout` is 0"),
        }
    }
}

impl Finding {
    /// Errors are not kept at all.
    fn kept_for(&self) -> Option<Duration> {
        match self {
            Self::Usable(_) => Some(USABLE_FOR),
            Self::Unusable(_) => None,
            Self::Unchecked(Unchecked::TooLong(_)) => Some(TOO_LONG_FOR),
            Self::Unchecked(Unchecked::NoAnswer(_)) => Some(NO_ANSWER_FOR),
            // Whoever corrects the path submits again at once.
            Self::Unchecked(Unchecked::InPart { .. }) => None,
            Self::Unchecked(_) => Some(UNSEEN_FOR),
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
        let is_known = |finding: &Finding| match finding {
            Finding::Usable(_) | Finding::Unusable(_) => true,
            Finding::Unchecked(why) => matches!(why, Unchecked::TooLong(_) | Unchecked::NoAnswer(_)),
        };
        self.entries.retain(|_, entry| !matches!(entry, Entry::Kept(finding, _) if !is_known(finding)));
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
            (Finding::Unchecked(Unchecked::TooLong(Duration::from_secs(10))), 600),
            (Finding::Unchecked(Unchecked::NoAnswer("it was killed".into())), 10),
            (Finding::Unchecked(Unchecked::InPart { missing: String::new(), left: String::new() }), 0),
            (Finding::Unchecked(Unchecked::Unseen("is not there".into())), 5),
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
        let no_answer = Finding::Unchecked(Unchecked::NoAnswer("it was killed".into()));
        let mut findings = Findings::default();
        for number in 0..2 * MOST_KEPT {
            begin(&mut findings, &format!("/{number}"));
            findings.end(&key(&format!("/{number}")), &no_answer);
        }
        assert_eq!(findings.entries.len(), MOST_KEPT);
        for number in 0..MOST_RUNNING {
            begin(&mut findings, &format!("/running/{number}"));
        }
        assert!(matches!(findings.look(&key("/more"), Instant::now()), Looked::TooMany));
        findings.end(&key("/running/0"), &no_answer);
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
