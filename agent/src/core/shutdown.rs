//! How the agent shuts down, and what its next process makes of what it left.

use std::time::Duration;

use trainyard_types::trainer::Finished;
use trainyard_types::{AttemptId, EndReason, Time};

use super::attempt::{Attempt, State};
use super::gpu_orders::ABANDON_AFTER;
use super::{Command, Core};
use crate::message::Refusal;

/// How long a shutdown waits for a scheduler that is away, once no trainer lives. Reports that are not sent by then wait
/// in the spool for the next start.
const SCHEDULER_WAIT: Duration = Duration::from_secs(5);

impl Core {
    pub(super) fn on_recovered(
        &mut self,
        now: Time,
        id: AttemptId,
        ended: bool,
        hand_in: Option<Finished>,
        out: &mut Vec<Command>,
    ) {
        let mut attempt = Attempt::recovered();
        match hand_in {
            Some(hand_in) if !ended => {
                out.push(Command::UploadArtifacts(id, hand_in.artifacts.clone()));
                attempt = Attempt::handing_in(hand_in);
            }
            _ if !ended => {
                attempt.end(now, id, Refusal::new(EndReason::AgentLost, "the agent was restarted"), out);
            }
            _ => {}
        }
        self.attempts.insert(id, attempt);
    }

    /// The disk has lost the report of an end, so how the attempt ended is not known any more.
    pub(super) fn on_end_lost(&mut self, now: Time, id: AttemptId, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if matches!(attempt.state, State::Ended { .. }) {
            let message = "how it ended was lost on the agent's disk, or when the agent was restarted";
            attempt.end(now, id, Refusal::new(EndReason::AgentLost, message), out);
        }
    }

    pub(super) fn on_shutdown(&mut self, now: Time, out: &mut Vec<Command>) {
        if self.shutdown_deadline.is_some() {
            self.shutdown_deadline = Some(now);
            return;
        }
        self.shutdown_deadline = Some(now + self.limits.shutdown_grace);
        for id in self.attempts.keys().copied().collect::<Vec<_>>() {
            self.on_stop(now, id, EndReason::Drained, None, out);
        }
    }

    pub(super) fn check_deadlines(&mut self, now: Time, out: &mut Vec<Command>) {
        for (id, attempt) in &mut self.attempts {
            if let State::Stopping { kill_at } = attempt.state
                && kill_at <= now
            {
                attempt.state = State::Killed { abandon_at: now + ABANDON_AFTER };
                out.push(Command::Kill(*id));
            }
        }
        self.abandon(now, out);
        let Some(shutdown_deadline) = self.shutdown_deadline else { return };
        let alive = self.attempts.values().any(Attempt::has_process);
        // What waits for room on the scheduler's disk is handed in by the next process.
        let waits =
            |attempt: &Attempt| matches!(attempt.state, State::Publishing) && !attempt.waits_for.is_empty();
        if !alive && (!self.connected || self.attempts.values().all(waits)) {
            self.shutdown_deadline = Some(shutdown_deadline.min(now + SCHEDULER_WAIT));
        }
        if self.attempts.is_empty() || shutdown_deadline <= now {
            for (id, attempt) in &mut self.attempts {
                attempt.give_up(now, *id, out);
            }
            out.push(Command::Exit);
        }
    }
}
