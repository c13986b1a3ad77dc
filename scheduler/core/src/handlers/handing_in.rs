//! Attempts whose trainer has ended: their slots are free, and what they left is still handed in.
//!
//! Such an attempt goes on, since its results count only when all of them are in. It holds no slot, is not its
//! user's share, and its time limit does not run.

use std::collections::BTreeSet;

use trainyard_types::trainer::LogLevel;
use trainyard_types::{AgentId, AttemptId, Slot, SlotReleased, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::policy::Change;
use crate::record::{AttemptRecord, EventBody, JobRecord, Released};
use crate::state::availability::HANDING_IN_MAX;

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
        let Some(job) = self.jobs.get_mut(&id.job) else { return };
        let (limit_before, cancelled) = (job.out_of_time_at(), job.cancel_requested);
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
            out.event(job, time, id.number, EventBody::Log { level, message });
            out.touch(id.job);
        }
        if let Some(slots) = slots {
            self.change_handing_in(agent, out, |handing_in| handing_in.insert(id));
            self.give_back(now, id, &slots, limit_before, out);
        }
    }

    /// An agent has one more, or one less, whose results are not in; with many it takes no new ones.
    pub(crate) fn change_handing_in(
        &mut self,
        id: AgentId,
        out: &mut Changes,
        change: impl FnOnce(&mut BTreeSet<AttemptId>) -> bool,
    ) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        // Only around the limit anything is closed or opened by it.
        let is_near = agent.handing_in.len() + 1 >= HANDING_IN_MAX;
        if is_near {
            self.withdraw_slots(id);
        }
        if let Some(agent) = self.agents.get_mut(&id) {
            change(&mut agent.handing_in);
        }
        if is_near {
            self.offer_slots(id, out);
        }
    }

    /// Frees what an attempt holds, whose record says already that it does not.
    pub(crate) fn give_back(
        &mut self,
        now: Time,
        id: AttemptId,
        slots: &[Slot],
        limit_before: Option<Time>,
        out: &mut Changes,
    ) {
        let Some(job) = self.jobs.get(&id.job) else { return };
        let Some(agent) = job.attempts.last().map(|attempt| attempt.agent) else { return };
        let resources = &job.spec.resources;
        self.users.end(&self.config, &job.user, now, (resources.device, resources.gpus.max(1)));
        out.touch_user(&job.user);
        // Even if its slot is not free, its user may have been at a limit.
        out.replan = true;
        self.ends.end(id);
        self.move_time_limit(id.job, limit_before);
        self.tell_policy(now, &Change::Released(id.job));
        self.release_slots(agent, slots, out);
    }

    /// Attempts whose results are handed in, and how many of them wait for something.
    pub fn handing_in(&self) -> (usize, usize) {
        let all = self.agents.values().flat_map(|agent| &agent.handing_in);
        let live = all.filter_map(|id| self.jobs.get(&id.job).and_then(JobRecord::live_attempt));
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
