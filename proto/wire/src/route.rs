//! Which of several schedulers to dial: one after the other, or where a standby says that the leader is.
//!
//! Must not know connections and clocks: it is told what came of a try, and says what to do next.

use std::time::Duration;

use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic_types::StatusExt as _;

/// With it a standby names the leader beside each of its answers: some know less than the leader's would.
pub const LEADER: &str = "trainyard-leader";
/// What a standby's refusal is called.
const NOT_LEADER: &str = "NOT_LEADER";
/// No wait that a server asks for is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What to do after a try that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Dial [`Route::target`] at once.
    Now,
    /// Every scheduler has been tried: wait, as long as one of them asked for, if any answered.
    After(Option<Duration>),
}

/// The schedulers that a client knows, and which of them is next.
#[derive(Debug, Clone)]
pub struct Route {
    known: Vec<String>,
    at: usize,
    /// Named by a standby; counts before the known ones.
    leader: Option<String>,
    /// Of the known ones, since the last wait or success.
    tried: usize,
    /// Whether a standby's word was followed, since then.
    followed: bool,
    asked: Option<Duration>,
}

/// The addresses in a comma-separated list.
pub fn parse_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|address| !address.is_empty())
}

/// The leader's URL, if a standby refused.
pub fn leader_of(status: &Status) -> Option<String> {
    let info = status.get_details_error_info().filter(|info| info.reason == NOT_LEADER)?;
    info.metadata.get("leader").filter(|leader| !leader.is_empty()).cloned()
}

/// The leader's URL, if a standby has answered.
pub fn leader_beside(metadata: &MetadataMap) -> Option<String> {
    let leader = metadata.get(LEADER)?.to_str().ok()?;
    Some(leader.to_owned()).filter(|leader| !leader.is_empty())
}

impl Route {
    /// `known` has at least one address.
    pub fn new(known: Vec<String>) -> Self {
        Self { known, at: 0, leader: None, tried: 0, followed: false, asked: None }
    }

    /// The schedulers that are known.
    pub fn known(&self) -> &[String] {
        &self.known
    }

    /// Whom to dial.
    pub fn target(&self) -> &str {
        let known = self.known.get(self.at).map_or("", String::as_str);
        self.leader.as_deref().unwrap_or(known)
    }

    /// Somebody else is the target from now on: one of the known ones, or a leader that a standby has named.
    pub fn turn_to(&mut self, target: &str) {
        match self.known.iter().position(|known| known == target) {
            Some(at) => (self.at, self.leader) = (at, None),
            None => self.leader = Some(target.to_owned()),
        }
        self.worked();
    }

    /// The target did what was asked: it stays.
    pub fn worked(&mut self) {
        (self.tried, self.followed, self.asked) = (0, false, None);
    }

    /// The target did not, with what it answered, if it did.
    pub fn failed(&mut self, answer: Option<&Status>) -> Next {
        let target = self.target().to_owned();
        let asked = answer.and_then(|status| status.get_details_retry_info()?.retry_delay);
        self.asked = self.asked.or(asked.map(|asked| asked.min(LONGEST_WAIT)));
        if self.leader.take().is_none() {
            self.at = (self.at + 1) % self.known.len().max(1);
            self.tried += 1;
        }
        let leader = answer.and_then(leader_of).filter(|leader| *leader != target && !self.followed);
        if leader.is_some() {
            (self.leader, self.followed) = (leader, true);
            return Next::Now;
        }
        if self.tried < self.known.len() && self.target() != target {
            return Next::Now;
        }
        let asked = self.asked;
        self.worked();
        Next::After(asked)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::*;

    fn standby(leader: &str) -> Status {
        let metadata = HashMap::from([("leader".to_owned(), leader.to_owned())]);
        let mut details = ErrorDetails::with_error_info(NOT_LEADER, "trainyard", metadata);
        details.set_retry_info(Some(Duration::from_millis(250)));
        Status::with_error_details(Code::Unavailable, "stands by", details)
    }

    fn route(known: &str) -> Route {
        Route::new(parse_list(known).map(str::to_owned).collect())
    }

    #[test]
    fn one_scheduler_is_tried_again_after_a_wait() {
        let mut route = route("a");
        assert_eq!((route.failed(None), route.target()), (Next::After(None), "a"));
    }

    #[test]
    fn every_scheduler_is_tried_before_a_wait() {
        let mut route = route("a, b,c");
        assert_eq!((route.failed(None), route.target()), (Next::Now, "b"));
        assert_eq!((route.failed(None), route.target()), (Next::Now, "c"));
        assert_eq!((route.failed(None), route.target()), (Next::After(None), "a"));
    }

    #[test]
    fn a_standbys_word_is_followed_and_the_leader_stays() {
        let mut route = route("a");
        assert_eq!((route.failed(Some(&standby("x"))), route.target()), (Next::Now, "x"));
        route.worked();
        assert_eq!(route.target(), "x");
        assert_eq!((route.failed(None), route.target()), (Next::Now, "a"));
    }

    #[test]
    fn whoever_is_turned_to_is_the_target_until_it_fails() {
        let mut route = route("a, b");
        route.turn_to("b");
        assert_eq!(route.target(), "b");
        route.turn_to("x");
        assert_eq!(route.target(), "x");
        assert_eq!((route.failed(None), route.target()), (Next::Now, "b"));
    }

    #[test]
    fn a_standby_names_the_leader_beside_its_answer() {
        let mut metadata = MetadataMap::new();
        assert_eq!(leader_beside(&metadata), None);
        metadata.insert(LEADER, "http://b:7433".parse().unwrap());
        assert_eq!(leader_beside(&metadata).as_deref(), Some("http://b:7433"));
    }

    #[test]
    fn a_standby_that_names_a_dead_leader_is_asked_again_when_it_says() {
        let mut route = route("dead,b");
        assert_eq!((route.failed(None), route.target()), (Next::Now, "b"));
        assert_eq!((route.failed(Some(&standby("dead"))), route.target()), (Next::Now, "dead"));
        let wait = Next::After(Some(Duration::from_millis(250)));
        assert_eq!(route.failed(None), wait);
        // Two that name each other do not keep a client busy.
        let mut route = self::route("a");
        assert_eq!(route.failed(Some(&standby("b"))), Next::Now);
        assert_eq!(route.failed(Some(&standby("a"))), wait);
    }
}
