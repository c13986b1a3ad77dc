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
use crate::state::agents::closures::Reopening;

/// How long a trainer may take to leave a GPU that its owner wants.
pub const OWNERS_GRACE: Duration = Duration::from_secs(20);

impl Core {
    /// A person takes an agent out of use.
    pub(crate) fn on_drain(&mut self, id: AgentId, keep_running: bool, out: &mut Changes) {
        let drain = Some(Drain { keep_running });
        let Some(agent) = self.agents.get(id) else { return out.reply(Err(Refusal::UnknownAgent(id))) };
        let repeated = agent.record().drain == drain;
        if !repeated {
            self.agents.set_drain(id, drain);
            out.touch_agent(id);
        }
        self.tell_to_leave(id, out);
        out.reply(Ok(Accepted { subject: Subject::Agent(id), repeated }));
    }

    /// A person takes a drained agent into use again, with the slots whose cooldown began while it drained.
    pub(crate) fn on_resume(&mut self, id: AgentId, out: &mut Changes) {
        let Some(agent) = self.agents.get(id) else { return out.reply(Err(Refusal::UnknownAgent(id))) };
        let repeated = agent.record().drain.is_none();
        if !repeated {
            self.agents.set_drain(id, None);
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
        self.agents.reserve(id, gpus, now + span);
        out.touch_agent(id);
        self.tell_to_leave(id, out);
        out.reply(Ok(Accepted { subject: Subject::Agent(id), repeated: false }));
    }

    /// Reservations end before their time.
    pub(crate) fn on_release(&mut self, id: AgentId, gpus: &[GpuUuid], out: &mut Changes) {
        let Some(agent) = self.agents.get(id) else { return out.reply(Err(Refusal::UnknownAgent(id))) };
        let repeated = !gpus.iter().any(|gpu| agent.record().reserved.contains_key(gpu));
        if !repeated {
            self.agents.end_reservations(id, gpus);
            out.touch_agent(id);
        }
        out.reply(Ok(Accepted { subject: Subject::Agent(id), repeated }));
    }

    /// A GPU, or every slot of an agent, is to be tried again. Whether one that the agent closed is well only the
    /// agent can say; what the scheduler closed itself it opens.
    pub(crate) fn on_clear_gpu(&mut self, now: Time, id: AgentId, gpu: Option<GpuUuid>, out: &mut Changes) {
        if let Some(refusal) = self.has_not(id, gpu.as_slice()) {
            return out.reply(Err(refusal));
        }
        let Some(agent) = self.agents.get(id) else { return };
        let is_meant =
            |slot: &Slot| gpu.is_none() || matches!((slot, &gpu), (Slot::Gpu(one), Some(gpu)) if one == gpu);
        let shut: Vec<Slot> = agent.record().shut.keys().filter(|slot| is_meant(slot)).cloned().collect();
        let session = agent.session();
        if session.is_none() && shut.is_empty() {
            return out.reply(Err(Refusal::AgentAway { agent: agent.name().to_owned() }));
        }
        let cooling: Vec<Slot> = agent.cooldowns().keys().filter(|slot| is_meant(slot)).cloned().collect();
        self.agents.end_cooldown(id, &cooling);
        self.reopen(id, &shut, Reopening::Cleared(now), out);
        if let Some(session) = session {
            out.command(Command::ClearGpu { agent: id, session, gpu });
        }
        out.reply(Ok(Accepted { subject: Subject::Agent(id), repeated: false }));
    }

    /// The agent or one of the GPUs is not there.
    fn has_not(&self, id: AgentId, gpus: &[GpuUuid]) -> Option<Refusal> {
        let Some(agent) = self.agents.get(id) else { return Some(Refusal::UnknownAgent(id)) };
        let known = &agent.record().inventory.gpus;
        let missing = gpus.iter().find(|gpu| known.iter().all(|known| known.uuid != **gpu))?;
        Some(Refusal::UnknownGpu { agent: agent.name().to_owned(), gpu: missing.clone() })
    }

    /// Tells the agent to end the attempts that must leave, unless it was told already.
    pub(crate) fn tell_to_leave(&mut self, id: AgentId, out: &mut Changes) {
        let Some(agent) = self.agents.get(id) else { return };
        let Some(session) = agent.session() else { return };
        let leaving: Vec<(AttemptId, EndReason, Duration)> = agent
            .running()
            .iter()
            .filter_map(|(slot, &attempt)| {
                let is_reserved = matches!(slot, Slot::Gpu(gpu) if agent.record().reserved.contains_key(gpu));
                if agent.record().hands_over() {
                    Some((attempt, EndReason::Drained, Duration::ZERO))
                } else {
                    is_reserved.then_some((attempt, EndReason::Preempted, OWNERS_GRACE))
                }
            })
            .collect();
        for (attempt, reason, grace) in leaving {
            let job = self.jobs.get(attempt.job);
            let stops = job.is_some_and(|job| job.cancel_requested || job.out_of_time);
            if !stops && self.agents.tell_to_leave(id, attempt) {
                out.command(Command::Stop { agent: id, session, attempt, reason, grace });
            }
        }
    }
}
