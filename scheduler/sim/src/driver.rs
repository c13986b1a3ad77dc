//! The scheduler's driver as it should be, and as it should not.

use std::time::Duration;

use trainyard_scheduler_core::{
    Accepted, Command, Core, CoreConfig, Event, Output, Refusal, Write, invariants,
};

use crate::oracle::Violation;
use crate::world::{Happening, Mutant, World};

/// Where the scheduler dies next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    BeforeWriting,
    AfterWriting,
}

impl World {
    /// What a driver does: handle, write, answer, send. `None` when it died on the way.
    pub(crate) fn handle(&mut self, event: Event) -> Result<Option<Result<Accepted, Refusal>>, Violation> {
        let now = self.agenda.now();
        let Some(core) = &mut self.core else { return Ok(None) };
        let Output { writes, commands, reply } = core.handle(now, event);
        self.summary.events += 1;
        invariants::check(core)?;
        let crash = if writes.is_empty() { None } else { self.crash_next.take() };
        if crash == Some(CrashPoint::BeforeWriting) {
            let reply = match self.mutant {
                Some(Mutant::AnswersBeforeWriting) => reply,
                Some(Mutant::CommandsBeforeWriting) => {
                    self.send(commands)?;
                    None
                }
                Some(Mutant::AcknowledgesBeforeWriting) => {
                    self.hear_at_once(&commands);
                    None
                }
                Some(Mutant::LosesWrites | Mutant::LosesEvents) | None => None,
            };
            self.crash();
            return Ok(reply);
        }
        let writes = self.mutilate(writes);
        self.store.apply(writes)?;
        if crash == Some(CrashPoint::AfterWriting) {
            self.crash();
            return Ok(None);
        }
        self.send(commands)?;
        self.plan_tick();
        Ok(reply)
    }

    pub(crate) fn mutilate(&mut self, mut writes: Vec<Write>) -> Vec<Write> {
        let rng = &mut self.rng;
        match self.mutant {
            Some(Mutant::LosesWrites) => {
                writes.retain(|write| {
                    !matches!(write, Write::Job(job) if job.revision == 1) || !rng.once_in(4)
                });
            }
            Some(Mutant::LosesEvents) => {
                writes.retain(|write| !matches!(write, Write::JobEvents { .. }) || !rng.once_in(50));
            }
            Some(
                Mutant::AnswersBeforeWriting
                | Mutant::CommandsBeforeWriting
                | Mutant::AcknowledgesBeforeWriting,
            )
            | None => {}
        }
        writes
    }

    pub(crate) fn hear_at_once(&mut self, commands: &[Command]) {
        for command in commands {
            if let Command::Ack { agent, attempt, sequence, .. } = command
                && let Some(machine) = self.machines.iter_mut().find(|machine| machine.id() == *agent)
            {
                machine.acknowledge(*attempt, *sequence);
            }
        }
    }

    pub(crate) fn send(&mut self, commands: Vec<Command>) -> Result<(), Violation> {
        for command in commands {
            let session = match &command {
                Command::Assign { session, assignment, .. } => {
                    self.oracle.assigned(assignment.attempt)?;
                    *session
                }
                Command::Stop { session, .. }
                | Command::Revoke { session, .. }
                | Command::Ack { session, .. } => *session,
            };
            let Some(&id) = self.sessions.get(&session) else { continue };
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let arrival = self.agenda.now() + self.rng.millis(1, 200);
            connection.last_at_agent = connection.last_at_agent.max(arrival);
            self.agenda.at(connection.last_at_agent, Happening::AtAgent(id, command));
        }
        Ok(())
    }

    pub(crate) fn plan_tick(&mut self) {
        let Some(deadline) = self.core.as_ref().and_then(Core::next_deadline) else { return };
        if self.ticking.is_none_or(|planned| deadline < planned) {
            self.ticking = Some(deadline);
            // Timers are late at times.
            self.agenda.at(deadline + self.rng.millis(0, 20), Happening::Tick(self.scheduler_life));
        }
    }

    pub(crate) fn on_tick(&mut self, life: u64) -> Result<(), Violation> {
        if life == self.scheduler_life {
            self.ticking = None;
            self.handle(Event::Tick)?;
            self.plan_tick();
        }
        Ok(())
    }

    /// The scheduler's process dies; what is stored stays.
    pub(crate) fn crash(&mut self) {
        self.summary.crashes += 1;
        self.core = None;
        self.crash_next = None;
        self.scheduler_life += 1;
        self.sessions.clear();
        let open: Vec<u64> =
            self.connections.iter().filter(|(_, open)| open.open).map(|(&id, _)| id).collect();
        for id in open {
            self.cut(id, Duration::from_secs(5));
        }
        self.agenda.after(self.rng.millis(100, 40_000), Happening::SchedulerStarts);
    }

    pub(crate) fn on_scheduler_starts(&mut self) -> Result<(), Violation> {
        if self.core.is_none() {
            self.oracle.check(&self.store)?;
            let jobs = self.store.jobs.values().cloned().collect();
            let agents = self.store.agents.values().cloned().collect();
            let core = Core::load(CoreConfig::default(), self.agenda.now(), jobs, agents);
            invariants::check(&core)?;
            self.core = Some(core);
            // Sessions count anew under each leader.
            (self.next_session, self.ticking) = (1, None);
            self.plan_tick();
        }
        Ok(())
    }
}
