//! Jobs, and how one moves through its states.
//!
//! ```text
//!               place              Started, Step, Epoch
//!   Queued ──────────────► Starting ─────────► Running
//!    │ ▲ ▲                    │                   │
//!    │ │ └─ crash, lost agent ┴───────────────────┤ the attempt ends
//!    │ │                                          ▼
//!    │ └──── Retry ──── Failed │ Cancelled │ Succeeded
//!    └─── Cancel ────────────────► Cancelled
//! ```
//! A final state is left by `Retry` only, and `Succeeded` never.

use std::time::Duration;

use trainyard_types::{Artifact, Time};

use crate::record::{AttemptRecord, JobRecord};

/// An attempt that has trained for longer did not end because of what it met at its start.
pub(crate) const QUICK: Duration = Duration::from_secs(60);

impl JobRecord {
    /// Takes what the job has trained, in place of the pictures that could be seen until then.
    pub(crate) fn hand_in(&mut self, artifacts: Vec<Artifact>) {
        self.artifacts = artifacts;
        self.pictures = Vec::new();
    }

    /// The attempt that goes on, if one does.
    pub fn live_attempt(&self) -> Option<&AttemptRecord> {
        self.attempts.last().filter(|attempt| attempt.ended.is_none())
    }

    /// Whether the live attempt has made a step.
    pub(crate) fn has_stepped(&self) -> bool {
        self.live_attempt().is_some_and(|attempt| attempt.started.is_some())
            && self.progress.as_ref().is_some_and(|progress| progress.has_stepped())
    }

    /// The attempt that has not ended, to be changed.
    pub(crate) fn live_attempt_mut(&mut self) -> Option<&mut AttemptRecord> {
        self.attempts.last_mut().filter(|attempt| attempt.ended.is_none())
    }

    /// When the running attempt has used up the job's time.
    pub(crate) fn out_of_time_at(&self) -> Option<Time> {
        let limit = self.spec.time_limit.filter(|_| !self.out_of_time)?;
        let started = self.live_attempt().filter(|attempt| attempt.holds_slots())?.started?;
        Some(started + limit.saturating_sub(self.ran))
    }

    /// Whether a live attempt that ends now does so before its first step, or its trainer within [`QUICK`] of its start.
    pub(crate) fn is_quick(&self, time: Time) -> bool {
        !self.has_stepped() || self.live_attempt().is_none_or(|attempt| attempt.ran(time) < QUICK)
    }
}

impl AttemptRecord {
    /// How long its trainer ran, until it ended or `time`.
    pub(crate) fn ran(&self, time: Time) -> Duration {
        let until = self.released.as_ref().map_or(time, |released| released.time);
        self.started.map_or(Duration::ZERO, |started| until.since(started))
    }

    /// For people: its device and its agent.
    pub(crate) fn place(&self) -> String {
        format!("{} of agent `{}`", self.device, self.agent_name)
    }
}
