//! What becomes of attempts when something happens to their GPU.

use std::time::Duration;

use trainyard_types::{AttemptId, EndReason, GpuUuid, Slot, Time};

use super::attempt::{Attempt, State};
use super::{Command, Core};
use crate::message::{GpuOrder, Refusal};

/// How long a trainer may take to die of SIGKILL. In a driver whose GPU is gone it may take for ever.
pub(super) const ABANDON_AFTER: Duration = Duration::from_secs(30);

/// For so long after a trainer's end, errors that the driver tells of a process on its GPU count as that trainer's.
const LATE_DRIVER_ERRORS: Duration = Duration::from_secs(10);

impl Core {
    /// How an attempt that comes for this slot ends at once, if its GPU or the disk takes none. Whether a trainer that
    /// does not end holds the slot is seen when the attempt is to start.
    pub(super) fn refusal(&self, slot: Option<&Slot>) -> Option<Refusal> {
        if let Some(message) = self.disk_short.clone() {
            return Some(Refusal::new(EndReason::Preempted, message));
        }
        match slot? {
            Slot::Gpu(uuid) => self.closed.get(uuid).cloned(),
            Slot::Cpu(_) => self.cpu_closed.clone(),
        }
    }

    /// How an attempt ends whose slot is held by a trainer that does not end.
    pub(super) fn held_by_a_stuck_trainer(&self, slot: Option<&Slot>) -> Option<Refusal> {
        let (_, message) = self.stuck.values().find(|(held, _)| Some(held) == slot)?;
        Some(Refusal::new(EndReason::Preempted, message.clone()))
    }

    /// A trainer is gone: its slot is open if it was stuck.
    pub(super) fn no_longer_stuck(&mut self, id: AttemptId, out: &mut Vec<Command>) {
        if self.stuck.remove(&id).is_some() {
            out.push(Command::CloseStuckSlots(self.stuck.values().cloned().collect()));
        }
    }

    /// Ends attempts whose trainers do not even die, and closes their slots.
    pub(super) fn abandon(&mut self, now: Time, out: &mut Vec<Command>) {
        let due = |attempt: &Attempt| match attempt.state {
            State::Killed { abandon_at } | State::Revoked { abandon_at } => abandon_at <= now,
            _ => false,
        };
        let ids: Vec<AttemptId> =
            self.attempts.iter().filter(|(_, attempt)| due(attempt)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(attempt) = self.attempts.get_mut(&id) else { continue };
            if let Some(slot) = attempt.slot().cloned() {
                let message = format!(
                    "the trainer of attempt {id} was killed and does not end: it hangs in the kernel, in a driver or on \
                     a share that does not answer; the slot opens when it is gone, at the latest with a restart of \
                     this machine"
                );
                self.stuck.insert(id, (slot, message));
                out.push(Command::CloseStuckSlots(self.stuck.values().cloned().collect()));
            }
            if matches!(attempt.state, State::Revoked { .. }) {
                self.attempts.remove(&id);
                continue;
            }
            let why = attempt.fault.clone().unwrap_or_else(|| {
                let note = attempt.stop_note.clone().unwrap_or_else(|| "it was killed".into());
                Refusal::new(attempt.stop.unwrap_or(EndReason::Drained), note)
            });
            let message = format!("{}; its process hangs in the kernel and was given up on", why.message);
            attempt.save_and_end(now, id, Refusal { message, ..why }, out);
        }
    }

    /// Does what a GPU's state demands of the attempts on it.
    pub(super) fn on_order(&mut self, now: Time, order: &GpuOrder, out: &mut Vec<Command>) {
        match order {
            GpuOrder::Vacate { gpu, within, message } => {
                for id in self.on_gpu(gpu) {
                    self.vacate(now, id, *within, message, out);
                }
            }
            // What the driver tells of a process may come when that one is gone and the next has begun.
            GpuOrder::Fail { gpu, at_once: false, .. }
                if self.last_exits.get(gpu).is_some_and(|exit| now.since(*exit) < LATE_DRIVER_ERRORS) => {}
            GpuOrder::Fail { gpu, reason, message, at_once } => {
                for id in self.on_gpu(gpu) {
                    self.fail(now, id, Refusal::new(*reason, message.clone()), *at_once, out);
                }
            }
        }
    }

    fn on_gpu(&self, gpu: &GpuUuid) -> Vec<AttemptId> {
        let slot = Slot::Gpu(gpu.clone());
        let there = |(_, attempt): &(&AttemptId, &Attempt)| attempt.slot() == Some(&slot);
        self.attempts.iter().filter(there).map(|(id, _)| *id).collect()
    }

    fn vacate(&mut self, now: Time, id: AttemptId, within: Duration, message: &str, out: &mut Vec<Command>) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        match &mut attempt.state {
            State::Waiting | State::Preparing => {
                out.push(Command::CancelTransfers(id));
                attempt.end(now, id, Refusal::new(EndReason::Preempted, message), out);
            }
            State::Stopping { kill_at } => *kill_at = (*kill_at).min(now + within),
            State::Running => {
                attempt.stop_note = Some(message.to_owned());
                self.on_stop(now, id, EndReason::Preempted, Some(within), out);
            }
            // Its process is gone, or about to go.
            State::Killed { .. }
            | State::Publishing
            | State::Saving(_)
            | State::TestingDevice(_)
            | State::Ended { .. }
            | State::Revoked { .. } => {}
        }
    }

    /// Ends an attempt for a fault of its own or of its GPU; its trainer is killed `at_once` or asked for a checkpoint.
    pub(super) fn fail(
        &mut self,
        now: Time,
        id: AttemptId,
        fault: Refusal,
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
                attempt.end(now, id, fault, out);
                return;
            }
            State::Running | State::Stopping { .. } if at_once => {
                attempt.state = State::Killed { abandon_at: now + ABANDON_AFTER };
                out.push(Command::Kill(id));
            }
            State::Running => {
                attempt.state = State::Stopping { kill_at: now + stop_grace };
                out.push(Command::Terminate(id));
            }
            State::Stopping { .. } | State::Killed { .. } => {}
            // The process is gone; what it left is as good as before.
            State::Publishing
            | State::Saving(_)
            | State::TestingDevice(_)
            | State::Ended { .. }
            | State::Revoked { .. } => return,
        }
        attempt.fault.get_or_insert(fault);
    }
}

#[cfg(test)]
mod tests;
