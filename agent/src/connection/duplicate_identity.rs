//! What an agent does whose identity another agent has: with a copied data directory two agents are one to the scheduler.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::warn;

use crate::identity::Identity;

/// How long the scheduler must say that another agent has this one's identity before it takes a new one. It is longer
/// than the scheduler counts a former process of the same agent as connected.
const RENEW_AFTER: Duration = Duration::from_secs(15);

/// How often the log says that another agent has this identity.
const REMIND_AFTER: Duration = Duration::from_secs(60);

/// Whether another machine runs under this agent's identity, as the scheduler says.
#[derive(Debug, Default)]
pub struct DuplicateIdentity {
    /// Since when the scheduler says that another one is connected.
    since: Option<Instant>,
    /// When the log said so last.
    told: Option<Instant>,
}

impl DuplicateIdentity {
    /// Takes the scheduler's answer; returns whether it says that another agent has this identity.
    pub fn is_reported(&mut self, answer: Option<&Status>) -> bool {
        let is_reported = answer.is_some_and(|status| status.code() == Code::AlreadyExists);
        self.since = self.since.filter(|_| is_reported).or_else(|| is_reported.then(Instant::now));
        is_reported
    }

    /// Takes a new identity, if there is nothing left to report under this one. The scheduler forgets a former process of
    /// this very agent before that.
    pub fn resolve(&mut self, identity: &Identity, is_idle: bool) {
        let Some(since) = self.since else { return };
        if is_idle && since.elapsed() >= RENEW_AFTER {
            match identity.renew() {
                Ok(()) => *self = Self::default(),
                Err(error) => {
                    warn!("another agent has this one's identity, and no new one can be kept: {error:#}");
                }
            }
            return;
        }
        if self.told.is_none_or(|told| told.elapsed() >= REMIND_AFTER) {
            self.told = Some(Instant::now());
            let agent = identity.agent();
            if is_idle {
                let seconds = RENEW_AFTER.as_secs();
                warn!(%agent, "another agent with this identity is connected; in {seconds} s this one takes a new one");
            } else {
                warn!(
                    %agent,
                    "another agent with this identity is connected, and this one holds jobs that it cannot hand in: if \
                     its data directory is a copy, stop it, remove `jobs` and `identity.json` there and start it again; \
                     if it is the original, stop the other one"
                );
            }
        }
    }
}
