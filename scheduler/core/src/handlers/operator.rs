//! What people order of agents: drain and resume, reserve and release GPUs, clear one that is quarantined.
//!
//! Orders are stored with the agent and hold until they are taken back or their time is over, whoever leads
//! and whether or not the agent is connected. Repeating one is harmless.

use std::time::Duration;

use trainyard_types::{AgentId, AttemptId, EndReason, GpuUuid, Slot, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::output::{Accepted, Command, Refusal, Subject};
use crate::record::Drain;

/// How long a trainer may take to leave a GPU that its owner wants.
pub const OWNERS_GRACE: Duration = Duration::from_secs(20);

impl Core {
    /// A person takes an agent out of use.
    pub(crate) fn on_drain(&mut self, id: AgentId, keep_running: bool, out: &mut Changes) {
        let drain = Some(Drain { keep_running });
        let Some(agent) = self.agents.get(&id) else { return out.reply(Err(Refusal::UnknownAgent(id))) };
        let repeated = agent.record.drain == drain;
        if !repeated {
            self.withdraw_slots(id);
            if let Some(agent) = self.agents.get_mut(&id) {
                agent.record.drain = drain;
            }
            self.offer_slots(id, out);
            out.touch_agent(id);
        }
        self.tell_to_leave(id, out);
        out.reply(Ok(Accepted { subject: Subject::Agent(id), repeated }));
    }

    /// A person takes a drained agent into use again, with the slots whose cooldown began while it drained.
    pub(crate) fn on_resume(&mut self, id: AgentId, out: &mut Changes) {
        let Some(agent) = self.agents.get(&id) else { return out.reply(Err(Refusal::UnknownAgent(id))) };
        let repeated = agent.record.drain.is_none();
        if !repeated {
            self.withdraw_slots(id);
            if let Some(agent) = self.agents.get_mut(&id) {
                agent.record.drain = None;
            }
            self.offer_slots(id, out);
            out.touch_agent(id);
        }
        out.reply(Ok(Accepted { subject: Subject::Agent(id), repeated }));
    }

    /// The owner of some GPUs wants them for a while.
    pub(crate) fn on_reserve(
        &mut self,
        now: Time,
        id: AgentId,
        gpus: Vec<GpuUuid>,
        span: Duration,
        out: &mut Changes,
    ) {
        if let Some(refusal) = self.has_not(id, &gpus) {
            return out.reply(Err(refusal));
        }
        self.withdraw_slots(id);
        let until = now + span;
        if let Some(agent) = self.agents.get_mut(&id) {
            for gpu in gpus {
                if let Some(before) = agent.record.reserved.insert(gpu.clone(), until) {
                    self.deadlines.reservations.remove(before, (id, gpu.clone()));
                }
                self.deadlines.reservations.add(until, (id, gpu));
            }
        }
        self.offer_slots(id, out);
        out.touch_agent(id);
        self.tell_to_leave(id, out);
        out.reply(Ok(Accepted { subject: Subject::Agent(id), repeated: false }));
    }

    /// Reservations end before their time.
    pub(crate) fn on_release(&mut self, id: AgentId, gpus: &[GpuUuid], out: &mut Changes) {
        let Some(agent) = self.agents.get(&id) else { return out.reply(Err(Refusal::UnknownAgent(id))) };
        let repeated = !gpus.iter().any(|gpu| agent.record.reserved.contains_key(gpu));
        if !repeated {
            self.end_reservations(id, gpus, out);
        }
        out.reply(Ok(Accepted { subject: Subject::Agent(id), repeated }));
    }

    /// Takes GPUs that were reserved into use again.
    fn end_reservations(&mut self, id: AgentId, gpus: &[GpuUuid], out: &mut Changes) {
        self.withdraw_slots(id);
        if let Some(agent) = self.agents.get_mut(&id) {
            for gpu in gpus {
                if let Some(until) = agent.record.reserved.remove(gpu) {
                    self.deadlines.reservations.remove(until, (id, gpu.clone()));
                }
            }
        }
        self.offer_slots(id, out);
        out.touch_agent(id);
    }

    /// Ends the next reservation whose time is over; `false` when there is none.
    pub(crate) fn end_reservation(&mut self, now: Time, out: &mut Changes) -> bool {
        let Some((agent, gpu)) = self.deadlines.reservations.due(now) else { return false };
        self.end_reservations(agent, &[gpu], out);
        true
    }

    /// A GPU, or every slot of an agent, is to be tried again. Whether one that the agent closed is well only the
    /// agent can say; what the scheduler closed itself it opens.
    pub(crate) fn on_clear_gpu(&mut self, now: Time, id: AgentId, gpu: Option<GpuUuid>, out: &mut Changes) {
        if let Some(refusal) = self.has_not(id, gpu.as_slice()) {
            return out.reply(Err(refusal));
        }
        let Some(agent) = self.agents.get(&id) else { return };
        let is_meant =
            |slot: &Slot| gpu.is_none() || matches!((slot, &gpu), (Slot::Gpu(one), Some(gpu)) if one == gpu);
        let shut: Vec<Slot> = agent.record.shut.keys().filter(|slot| is_meant(slot)).cloned().collect();
        let session = agent.session;
        if session.is_none() && shut.is_empty() {
            return out.reply(Err(Refusal::AgentAway { agent: agent.record.name.clone() }));
        }
        let cooling: Vec<Slot> = agent.cooldowns.keys().filter(|slot| is_meant(slot)).cloned().collect();
        self.end_cooldown(id, &cooling, out);
        self.open(id, &shut, Some((now, true)), out);
        if let Some(session) = session {
            out.command(Command::ClearGpu { agent: id, session, gpu });
        }
        out.reply(Ok(Accepted { subject: Subject::Agent(id), repeated: false }));
    }

    /// The agent or one of the GPUs is not there.
    fn has_not(&self, id: AgentId, gpus: &[GpuUuid]) -> Option<Refusal> {
        let Some(agent) = self.agents.get(&id) else { return Some(Refusal::UnknownAgent(id)) };
        let known = &agent.record.inventory.gpus;
        let missing = gpus.iter().find(|gpu| known.iter().all(|known| known.uuid != **gpu))?;
        Some(Refusal::UnknownGpu { agent: agent.record.name.clone(), gpu: missing.clone() })
    }

    /// Tells the agent to end the attempts that must leave, unless it was told already.
    pub(crate) fn tell_to_leave(&mut self, id: AgentId, out: &mut Changes) {
        let Self { agents, jobs, .. } = self;
        let Some(agent) = agents.get_mut(&id) else { return };
        let Some(session) = agent.session else { return };
        let leaving: Vec<(AttemptId, EndReason, Duration)> = agent
            .running
            .iter()
            .filter_map(|(slot, &attempt)| {
                let is_reserved = matches!(slot, Slot::Gpu(gpu) if agent.record.reserved.contains_key(gpu));
                if agent.record.hands_over() {
                    Some((attempt, EndReason::Drained, Duration::ZERO))
                } else {
                    is_reserved.then_some((attempt, EndReason::Preempted, OWNERS_GRACE))
                }
            })
            .collect();
        for (attempt, reason, grace) in leaving {
            let stops = jobs.get(&attempt.job).is_some_and(|job| job.cancel_requested || job.out_of_time);
            if !stops && agent.told.insert(attempt) {
                out.command(Command::Stop { agent: id, session, attempt, reason, grace });
            }
        }
    }
}
