//! Attempts whose trainer has ended: their slots are free, and what they left is still handed in.
//!
//! Such an attempt goes on, since its results count only when all of them are in. It holds no slot, is not its
//! user's share, and its time limit does not run.

use trainyard_types::trainer::LogLevel;
use trainyard_types::{AttemptId, Slot, SlotReleased, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::policy::Change;
use crate::record::{AttemptRecord, EventBody, Released};

impl Core {
    /// A trainer has ended, or what handing in waits for is another thing now.
    pub(crate) fn on_slot_released(
        &mut self,
        now: Time,
        time: Time,
        id: AttemptId,
        told: SlotReleased,
        out: &mut Changes,
    ) {
        let Some(mut job) = self.jobs.edit(now, id.job) else { return };
        let cancelled = job.cancel_requested;
        let Some(attempt) = job.live_attempt_mut() else { return };
        let agent = attempt.agent;
        let slots = attempt.holds_slots().then(|| attempt.slots().cloned().collect::<Vec<Slot>>());
        let since = attempt.released.as_ref().map_or(time, |before| before.time);
        let SlotReleased { waits_for, is_trained } = told;
        let level = if waits_for.is_empty() { LogLevel::Info } else { LogLevel::Warning };
        let released = Released { time: since, waits_for, is_trained };
        let message = in_words(attempt, &released);
        let is_news = attempt.released.as_ref() != Some(&released);
        attempt.released = Some(released);
        if is_news {
            job.state_reason =
                if cancelled { format!("its user cancelled it; {message}") } else { message.clone() };
            out.event(&mut job, time, id.number, EventBody::Log { level, message });
            out.touch(id.job);
        }
        drop(job);
        if let Some(slots) = slots {
            self.agents.begin_hand_in(agent, id);
            self.release_slots(now, id, &slots, out);
        }
    }

    /// Frees what an attempt held, whose record says already that it does not.
    pub(crate) fn release_slots(&mut self, now: Time, id: AttemptId, slots: &[Slot], out: &mut Changes) {
        let Some(job) = self.jobs.get(id.job) else { return };
        let Some(agent) = job.attempts.last().map(|attempt| attempt.agent) else { return };
        let resources = &job.spec.resources;
        self.users.end(&self.config, &job.user, now, resources.device, resources.gpus.max(1));
        out.touch_user(&job.user);
        // Even if its slot is not free, its user may have been at a limit.
        out.request_round();
        self.tell_policy(now, &Change::Released(id.job));
        self.agents.release(agent, slots);
    }

    /// Attempts whose results are handed in, and how many of them wait for something.
    pub fn handing_in(&self) -> (usize, usize) {
        let all = self.agents.iter().flat_map(|(_, agent)| agent.handing_in());
        let live = all.filter_map(|id| self.jobs.live_attempt(id.job));
        let released = live.filter_map(|attempt| attempt.released.as_ref());
        released.fold((0, 0), |(all, waiting), released| {
            (all + 1, waiting + usize::from(!released.waits_for.is_empty()))
        })
    }
}

/// `trained; its results wait on agent `a1` for room on the scheduler's disk`.
fn in_words(attempt: &AttemptRecord, released: &Released) -> String {
    let name = &attempt.agent_name;
    let (what, done) = if released.is_trained {
        ("its results", "trained")
    } else {
        ("what it left", "its trainer has ended")
    };
    if released.waits_for.is_empty() {
        format!("{done}; agent `{name}` hands in {what}")
    } else {
        let verb = if released.is_trained { "wait" } else { "waits" };
        format!("{done}; {what} {verb} on agent `{name}` for {}", released.waits_for)
    }
}
