//! Sessions of agents: registration, inventory, and the lease that keeps their attempts theirs.
//!
//! ```text
//!              AgentConnected                     lease over       keep_agents_for
//!  (unknown) ───────────────► Connected ──────────────────────────► Lost ───────► (unknown)
//!                              │     ▲  ◄── Heartbeat, same session ── │
//!           AgentDisconnected  ▼     │ AgentConnected                 │
//!                            Disconnected ──────── lease over ────────┘
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use trainyard_types::{AgentId, AttemptId, EndReason, Ended, Session, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::event::{AgentStatus, Hello};
use crate::output::{Command, Write};
use crate::record::AgentRecord;
use crate::state::agent::{Agent, AgentState};
use crate::state::agent_clock::Clock;

impl Core {
    /// An agent opened a session. It may be new, may be back, or may have crashed and forgotten.
    pub(crate) fn on_connected(&mut self, now: Time, session: Session, hello: Hello, out: &mut Changes) {
        let Hello { agent: id, name, version, inventory, attempts: held, condition, instance } = hello;
        if self.agents.get(&id).is_some_and(|agent| agent.newest_session >= session) {
            return; // A newer connection overtook this one.
        }
        if let Some(refusal) = self.is_taken(now, id, &instance) {
            return out.reply(Err(refusal));
        }
        self.withdraw_slots(id);
        let record = AgentRecord::new(id, name, version, inventory, now);
        let agent = self.agents.entry(id).or_insert_with(|| Agent::known(record.clone(), now));
        let (drain, lost) = (agent.record.drain, agent.record.lost);
        let reserved = std::mem::take(&mut agent.record.reserved);
        let shut = std::mem::take(&mut agent.record.shut);
        agent.record = AgentRecord { drain, reserved, lost, shut, ..record };
        agent.instance = instance;
        agent.clock = Clock::default();
        agent.clock.note(now, condition.fitness.clock);
        agent.session = Some(session);
        agent.newest_session = session;
        self.statuses.note(id, &agent.condition, &condition);
        let before = std::mem::take(&mut agent.condition.fitness);
        agent.condition = AgentStatus::default();
        agent.note(condition);
        agent.told.clear();
        for (slot, until) in std::mem::take(&mut agent.cooldowns) {
            self.deadlines.cooldowns.remove(until, (id, slot));
        }
        let held_now: BTreeSet<AttemptId> = held.iter().copied().collect();
        let forgotten: Vec<AttemptId> = agent.live().filter(|attempt| !held_now.contains(attempt)).collect();
        out.touch_agent(id);
        self.claim_gpus(id);
        self.inherit(id, out);
        self.see(id, &before, out);
        // It may have other GPUs than before.
        self.fitness_changed = true;
        self.renew_lease(now, id);
        for attempt in forgotten {
            self.lose_attempt(now, attempt, "the agent no longer holds it".to_owned(), out);
        }
        for attempt in held {
            self.reconcile(id, session, attempt, out);
        }
        self.tell_to_leave(id, out);
        self.offer_slots(id, out);
    }

    /// Tells an agent what has become of an attempt that it holds. One that is its own just goes on.
    fn reconcile(&self, agent: AgentId, session: Session, attempt: AttemptId, out: &mut Changes) {
        let live = self.jobs.get(&attempt.job).and_then(|job| Some((job, job.live_attempt()?)));
        match live {
            Some((job, live)) if live.id == attempt && live.agent == agent => {
                // It may never have heard what it was told.
                let makes_way = self.policy.is_being_preempted(job.id);
                if job.cancel_requested || job.out_of_time || makes_way {
                    let reason =
                        if job.cancel_requested { EndReason::Cancelled } else { EndReason::Preempted };
                    let grace = Duration::ZERO;
                    out.command(Command::Stop { agent, session, attempt, reason, grace });
                }
            }
            Some(_) | None => out.command(Command::Revoke { agent, session, attempt }),
        }
    }

    /// A connection is gone. Its attempts go on for as long as the lease runs.
    pub(crate) fn on_disconnected(&mut self, agent: AgentId, session: Session) {
        if self.agents.get(&agent).is_some_and(|agent| agent.session == Some(session)) {
            self.withdraw_slots(agent);
            if let Some(agent) = self.agents.get_mut(&agent) {
                agent.session = None;
            }
        }
    }

    /// A sign of life with news of the agent. A GPU that takes no attempts any more keeps the one that it
    /// has, for as long as the agent lets it run.
    pub(crate) fn on_heartbeat(
        &mut self,
        now: Time,
        id: AgentId,
        session: Session,
        condition: AgentStatus,
        out: &mut Changes,
    ) {
        if !self.hear(now, id, session, out) {
            return;
        }
        // Most heartbeats change no slot, and there are many.
        let moves_slots = self.agents.get(&id).is_some_and(|agent| agent.moves_slots(&condition));
        if moves_slots {
            self.withdraw_slots(id);
        }
        let mut mended = self.agents.get(&id).map(Agent::cooling_and_closed).unwrap_or_default();
        if let Some(agent) = self.agents.get_mut(&id) {
            self.statuses.note(id, &agent.condition, &condition);
            agent.clock.note(now, condition.fitness.clock);
            let before = std::mem::take(&mut agent.condition.fitness);
            agent.note(condition);
            mended.retain(|slot| !agent.closes(slot));
            self.see(id, &before, out);
        }
        if moves_slots {
            self.offer_slots(id, out);
        }
        // Its agent has found it well since, which ends what was only meant for an agent that says nothing.
        self.end_cooldown(id, &mended, out);
    }

    /// Renews the lease of an agent that spoke, unless it spoke by an old connection.
    pub(crate) fn hear(&mut self, now: Time, id: AgentId, session: Session, out: &mut Changes) -> bool {
        let Some(agent) = self.agents.get(&id) else { return false };
        if agent.session != Some(session) {
            return false;
        }
        // It was silent for too long, on a connection that held: a paused machine. It was told then
        // what is no longer its own, so that only its slots are to be taken up again.
        let was_lost = agent.state() == AgentState::Lost;
        self.renew_lease(now, id);
        if was_lost {
            out.touch_agent(id);
            self.claim_gpus(id);
            self.offer_slots(id, out);
        }
        true
    }

    fn renew_lease(&mut self, now: Time, id: AgentId) {
        let until = now + self.config.lease;
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.last_seen = now;
        if let Some(lost) = agent.record.lost.take() {
            self.deadlines.lost.remove(lost, id);
        }
        if let Some(old) = agent.lease_until.replace(until) {
            self.deadlines.leases.remove(old, id);
        }
        self.deadlines.leases.add(until, id);
    }

    /// The agent was silent for longer than its lease: what it ran is tried elsewhere.
    pub(crate) fn on_lease_over(&mut self, now: Time, id: AgentId, out: &mut Changes) {
        self.deadlines.leases.pop();
        self.withdraw_slots(id);
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.lease_until = None;
        // Of an agent that was lost before a restart of the scheduler, too.
        if agent.record.lost.is_none() {
            agent.record.lost = Some(now);
            out.touch_agent(id);
        }
        if let Some(lost) = agent.record.lost {
            self.deadlines.lost.add(lost, id);
        }
        let agent = self.give_gpus_up(id, out);
        let Some(agent) = agent else { return };
        let session = agent.session;
        let silent = now.since(agent.last_seen).as_secs();
        let attempts: Vec<AttemptId> = agent.live().collect();
        for attempt in attempts {
            let message = format!("nothing was heard of the agent for {silent} s");
            self.lose_attempt(now, attempt, message, out);
            // The connection may hold although nothing comes: then this waits for the agent there.
            if let Some(session) = session {
                out.command(Command::Revoke { agent: id, session, attempt });
            }
        }
    }

    /// When the next lost agent is forgotten.
    pub(crate) fn next_agent_forgotten(&self) -> Option<Time> {
        self.deadlines.lost.next().map(|lost| lost + self.config.keep_agents_for)
    }

    /// Forgets the agent that has been lost for longest, if that is long enough; `false` when there is none.
    /// Nothing runs there any more.
    pub(crate) fn forget_agent(&mut self, now: Time, out: &mut Changes) -> bool {
        if self.next_agent_forgotten().is_none_or(|time| time > now) {
            return false;
        }
        let Some(id) = self.deadlines.lost.pop() else { return false };
        if let Some(agent) = self.agents.remove(&id) {
            self.statuses.note(id, &agent.condition, &AgentStatus::default());
            self.see(id, &agent.condition.fitness, out);
            self.fitness_changed = true;
            for (gpu, until) in agent.record.reserved {
                self.deadlines.reservations.remove(until, (id, gpu));
            }
            for (slot, until) in agent.cooldowns {
                self.deadlines.cooldowns.remove(until, (id, slot));
            }
            for (slot, shut) in agent.record.shut {
                if let Some(until) = shut.until {
                    self.deadlines.shut.remove(until, (id, slot));
                }
            }
            self.doubled.remove(&id);
            out.write(Write::ForgetAgent(id));
        }
        true
    }

    fn lose_attempt(&mut self, now: Time, attempt: AttemptId, message: String, out: &mut Changes) {
        let ended = Ended { reason: EndReason::AgentLost, message, artifacts: Vec::new(), unfit: None };
        self.end_attempt(now, now, attempt, ended, out);
    }
}
