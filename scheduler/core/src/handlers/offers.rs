//! Which slots are on offer: taken out and put back around whatever changes that.

use trainyard_types::{AgentId, AttemptId, EndReason, Slot, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::state::slots;

impl Core {
    /// Ends an attempt's hold on its slots.
    pub(crate) fn release_slots(&mut self, id: AgentId, slots: &[Slot], out: &mut Changes) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let mut offered = agent.offered();
        for slot in slots {
            agent.running.remove(slot);
            if let Some((kind, index)) = offered.remove(slot) {
                self.slots.release(&kind, slots::location(&agent.record, slot.clone(), index));
                out.replan = true;
            }
        }
    }

    /// Starts the cooldown of slots that should not be used again for a while after the end of an attempt, by the agent's word for
    /// it. Its slots are free, and may be another's by now.
    pub(crate) fn start_cooldown(
        &mut self,
        now: Time,
        attempt: AttemptId,
        reason: EndReason,
        out: &mut Changes,
    ) {
        let newest = self.jobs.get(&attempt.job).and_then(|job| job.attempts.last());
        let Some(ended) = newest.filter(|newest| newest.id == attempt) else { return };
        let id = ended.agent;
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let was_told = agent.told.remove(&attempt);
        let suspect_slots = agent.suspect_slots(ended, reason, was_told);
        if suspect_slots.is_empty() {
            return;
        }
        self.withdraw_slots(id);
        let until = now + self.config.retry_delay_max;
        if let Some(agent) = self.agents.get_mut(&id) {
            for slot in suspect_slots {
                if let Some(before) = agent.cooldowns.insert(slot.clone(), until) {
                    self.deadlines.cooldowns.remove(before, (id, slot.clone()));
                }
                self.deadlines.cooldowns.add(until, (id, slot));
            }
        }
        self.offer_slots(id, out);
    }

    /// Slots whose cooldown has ended are tried again.
    pub(crate) fn end_cooldown(&mut self, id: AgentId, slots: &[Slot], out: &mut Changes) {
        if slots.is_empty() {
            return;
        }
        self.withdraw_slots(id);
        if let Some(agent) = self.agents.get_mut(&id) {
            for slot in slots {
                if let Some(until) = agent.cooldowns.remove(slot) {
                    self.deadlines.cooldowns.remove(until, (id, slot.clone()));
                }
            }
        }
        self.offer_slots(id, out);
    }

    /// Tries the next slot again whose cooldown is over; `false` when there is none.
    pub(crate) fn end_due_cooldown(&mut self, now: Time, out: &mut Changes) -> bool {
        let Some((agent, slot)) = self.deadlines.cooldowns.due(now) else { return false };
        self.end_cooldown(agent, &[slot], out);
        true
    }

    pub(crate) fn offer_slots(&mut self, id: AgentId, out: &mut Changes) {
        let Some(agent) = self.agents.get(&id) else { return };
        for (slot, (kind, index)) in agent.offered() {
            let free = !agent.running.contains_key(&slot);
            self.slots.offer(kind, slots::location(&agent.record, slot, index), free);
        }
        out.replan = true;
    }

    pub(crate) fn withdraw_slots(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(&id) else { return };
        for (slot, (kind, index)) in agent.offered() {
            self.slots.withdraw(&kind, &slots::location(&agent.record, slot, index));
        }
    }
}
