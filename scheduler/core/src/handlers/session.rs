//! Sessions of agents: registration, inventory, and the lease that keeps their attempts theirs.
//!
//! ```text
//!              AgentConnected                     lease over       keep_agents_for
//!  (unknown) ───────────────► Connected ──────────────────────────► Lost ───────► (unknown)
//!                              │     ▲  ◄── Heartbeat, same session ── │
//!           AgentDisconnected  ▼     │ AgentConnected                 │
//!                            Disconnected ──────── lease over ────────┘
//! ```
//!
//! One that a person has forgotten is unknown as soon as it is not connected and nothing runs there.

use trainyard_types::{AgentId, AttemptId, EndReason, Ended, Session, Time};

use crate::changes::Changes;
use crate::engine::Core;
use crate::event::{AgentStatus, Hello};
use crate::output::{Accepted, Command, Refusal, Subject, Write};
use crate::state::agents::agent::Agent;
use crate::state::agents::{Heard, LeaseOver};

/// A process that is connected counts as living when it was heard within so many heartbeats.
const HEARTBEATS: u32 = 2;

impl Core {
    /// An agent opened a session. It may be new, may be back, or may have crashed and forgotten.
    pub(crate) fn on_connected(&mut self, now: Time, session: Session, hello: Hello, out: &mut Changes) {
        let id = hello.agent;
        if self.agents.get(id).is_some_and(|agent| agent.newest_session() >= session) {
            return; // A newer connection overtook this one.
        }
        let alive = self.config.heartbeat.saturating_mul(HEARTBEATS);
        if let Some(other) = self.agents.refuse_second_process(now, id, &hello.instance, alive) {
            let name = other.name().to_owned();
            return out.reply(Err(Refusal::AgentIdInUse { id, name }));
        }
        let held = hello.attempts.clone();
        let connected = self.agents.connect(now, session, hello, now + self.config.lease);
        out.touch_agent(id);
        self.follow_fitness(id, &connected.fitness_before, out);
        // It may have other GPUs than before.
        self.jobs.check_all_paths();
        for attempt in connected.forgotten {
            self.lose_attempt(now, attempt, "the agent no longer holds it".to_owned(), out);
        }
        for attempt in held {
            self.reconcile(id, session, attempt, out);
        }
        self.tell_to_leave(id, out);
    }

    /// Tells an agent what has become of an attempt that it holds. One that is its own just goes on.
    fn reconcile(&self, agent: AgentId, session: Session, attempt: AttemptId, out: &mut Changes) {
        let live = self.jobs.get(attempt.job).and_then(|job| Some((job, job.live_attempt()?)));
        match live {
            Some((job, live)) if live.id == attempt && live.agent == agent => {
                // It may never have heard what it was told.
                let is_preempted = self.policy.is_being_preempted(job.id);
                if job.cancel_requested {
                    out.stop(&self.agents, agent, attempt, EndReason::Cancelled);
                } else if job.out_of_time || is_preempted {
                    out.stop(&self.agents, agent, attempt, EndReason::Preempted);
                }
            }
            Some(_) | None => out.command(Command::Revoke { agent, session, attempt }),
        }
    }

    /// A sign of life with news of the agent. A GPU that takes no attempts any more keeps the one that it
    /// has, for as long as the agent lets it run.
    pub(crate) fn on_heartbeat(
        &mut self,
        now: Time,
        id: AgentId,
        session: Session,
        status: AgentStatus,
        out: &mut Changes,
    ) {
        if self.hear(now, id, session, out)
            && let Some(before) = self.agents.set_status(now, id, status)
        {
            self.follow_fitness(id, &before, out);
        }
    }

    /// Renews the lease of an agent that spoke, unless it spoke by an old connection.
    pub(crate) fn hear(&mut self, now: Time, id: AgentId, session: Session, out: &mut Changes) -> bool {
        match self.agents.hear(now, id, session, now + self.config.lease) {
            Heard::OldSession => false,
            Heard::Renewed => true,
            // It was silent for too long, on a connection that held: a paused machine. It was told then what is no
            // longer its own, so that only its slots are to be taken up again.
            Heard::Returned => {
                out.touch_agent(id);
                true
            }
        }
    }

    /// The agent was silent for longer than its lease: what it ran is tried elsewhere.
    pub(crate) fn on_lease_over(&mut self, now: Time, lease_over: LeaseOver, out: &mut Changes) {
        let LeaseOver { id, session, last_seen, is_news, attempts } = lease_over;
        if is_news {
            out.touch_agent(id);
        }
        let silent = now.since(last_seen).as_secs();
        for attempt in attempts {
            let message = format!("nothing was heard of the agent for {silent} s");
            self.lose_attempt(now, attempt, message, out);
            // The connection may hold although nothing comes: then this waits for the agent there.
            if let Some(session) = session {
                out.command(Command::Revoke { agent: id, session, attempt });
            }
        }
        self.remove_forgotten(id, out);
    }

    /// A connection is gone; the lease still runs.
    pub(crate) fn on_disconnected(&mut self, id: AgentId, session: Session, out: &mut Changes) {
        self.agents.disconnect(id, session);
        self.remove_forgotten(id, out);
    }

    /// A person forgets an agent. What runs there is its own until its lease is over.
    pub(crate) fn on_forget(&mut self, id: AgentId, out: &mut Changes) {
        if self.agents.get(id).is_none() {
            return out.reply(Err(Refusal::UnknownAgent(id)));
        }
        self.agents.set_forgotten(id);
        self.remove_forgotten(id, out);
        out.reply(Ok(Accepted { subject: Subject::Agent(id), repeated: false }));
    }

    fn remove_forgotten(&mut self, id: AgentId, out: &mut Changes) {
        if let Some(agent) = self.agents.remove_forgotten(id) {
            self.follow_forgotten(&agent, out);
        }
    }

    /// An agent is there no more.
    fn follow_forgotten(&mut self, agent: &Agent, out: &mut Changes) {
        let id = agent.record().id;
        self.follow_fitness(id, agent.fitness(), out);
        self.jobs.check_all_paths();
        out.write(Write::ForgetAgent(id));
    }

    /// When the next lost agent is forgotten.
    pub(crate) fn next_agent_forgotten(&self) -> Option<Time> {
        self.agents.longest_lost().map(|lost| lost + self.config.keep_agents_for)
    }

    /// Forgets the agent that has been lost for longest, if that is long enough; `false` when there is none.
    pub(crate) fn forget_agent(&mut self, now: Time, out: &mut Changes) -> bool {
        if self.next_agent_forgotten().is_none_or(|time| time > now) {
            return false;
        }
        let Some(agent) = self.agents.forget_longest_lost() else { return false };
        self.follow_forgotten(&agent, out);
        true
    }

    fn lose_attempt(&mut self, now: Time, attempt: AttemptId, message: String, out: &mut Changes) {
        let ended = Ended { reason: EndReason::AgentLost, message, artifacts: Vec::new(), unfit: None };
        self.end_attempt(now, now, attempt, ended, out);
    }
}
