//! What becomes of attempts when something happens to their card.

use std::time::Duration;

use trainyard_types::{AttemptId, EndReason, GpuUuid, Slot, Time};

use super::attempt::{Attempt, State};
use super::{Command, Core, Refusal};
use crate::gpu::cards::Order;

/// How long a trainer may take to die of SIGKILL. In a driver whose card is gone it may take for ever.
const ABANDON_AFTER: Duration = Duration::from_secs(30);

/// For so long after a trainer's end, what the driver says of a process on its card is said of that one.
const LATE: Duration = Duration::from_secs(10);

impl Core {
    /// How an attempt that comes for this slot ends at once, if its card or the disk takes none.
    pub(super) fn refusal(&self, slot: Option<&Slot>) -> Option<Refusal> {
        if let Some(message) = self.disk_short.clone() {
            return Some(Refusal { reason: EndReason::Preempted, message });
        }
        match slot? {
            Slot::Gpu(uuid) => self.closed.get(uuid).cloned(),
            Slot::Cpu(_) => None,
        }
    }

    /// Does what a card's state demands of the attempts on it.
    pub(super) fn on_order(&mut self, now: Time, order: &Order, out: &mut Vec<Command>) {
        match order {
            Order::Leave { gpu, within, message } => {
                for id in self.on_card(gpu) {
                    self.leave(now, id, *within, message, out);
                }
            }
            // What the driver tells of a process may come when that one is gone and the next has begun.
            Order::Fail { gpu, at_once: false, .. }
                if self.left.get(gpu).is_some_and(|left| now.since(*left) < LATE) => {}
            Order::Fail { gpu, reason, message, at_once } => {
                for id in self.on_card(gpu) {
                    self.fail(now, id, (*reason, message.clone()), *at_once, out);
                }
            }
        }
    }

    fn on_card(&self, gpu: &GpuUuid) -> Vec<AttemptId> {
        let slot = Slot::Gpu(gpu.clone());
        let there = |(_, attempt): &(&AttemptId, &Attempt)| attempt.slot() == Some(&slot);
        self.attempts.iter().filter(there).map(|(id, _)| *id).collect()
    }

    fn leave(&mut self, now: Time, id: AttemptId, within: Duration, message: &str, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        match &mut attempt.state {
            State::Waiting | State::Preparing => {
                out.push(Command::CancelTransfers(id));
                attempt.end(now, id, EndReason::Preempted, message.to_owned(), out);
            }
            State::Stopping { kill_at } => *kill_at = (*kill_at).min(now + within),
            State::Running => {
                attempt.stop_note = Some(message.to_owned());
                self.on_stop(now, id, EndReason::Preempted, Some(within), out);
            }
            // Its process is gone, or about to go.
            State::Killed
            | State::Publishing
            | State::Saving { .. }
            | State::Ended { .. }
            | State::Revoked => {}
        }
    }

    fn fail(
        &mut self,
        now: Time,
        id: AttemptId,
        fault: (EndReason, String),
        at_once: bool,
        out: &mut Vec<Command>,
    ) {
        let stop_grace = self.limits.stop_grace;
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        match attempt.state {
            // Without a process it has done nothing.
            State::Waiting | State::Preparing if !at_once => return,
            State::Waiting | State::Preparing => {
                out.push(Command::CancelTransfers(id));
                attempt.end(now, id, fault.0, fault.1, out);
                return;
            }
            State::Running | State::Stopping { .. } if at_once => {
                attempt.state = State::Killed;
                attempt.abandon_at = Some(now + ABANDON_AFTER);
                out.push(Command::Kill(id));
            }
            State::Running => {
                attempt.state = State::Stopping { kill_at: now + stop_grace };
                out.push(Command::Terminate(id));
            }
            State::Stopping { .. } => {}
            State::Killed => attempt.abandon_at = attempt.abandon_at.or(Some(now + ABANDON_AFTER)),
            // The process is gone; what it left is as good as before.
            State::Publishing | State::Saving { .. } | State::Ended { .. } | State::Revoked => return,
        }
        attempt.fault.get_or_insert(fault);
    }
}

impl Attempt {
    /// Ends an attempt whose trainer does not die.
    pub(super) fn check_abandoned(&mut self, now: Time, id: AttemptId, out: &mut Vec<Command>) {
        let due = self.abandon_at.is_some_and(|at| at <= now) && matches!(self.state, State::Killed);
        let Some((reason, message)) = self.fault.clone().filter(|_| due) else { return };
        let message = format!("{message}; its process hangs in the driver and was given up on");
        self.save_and_end(now, id, reason, message, out);
    }
}

#[cfg(test)]
mod tests;
