//! The scheduler's driver as it should be, and as it should not.

use std::path::Path;
use std::time::Duration;

use trainyard_scheduler_core::{
    Accepted, AgentStatus, Command, Core, CoreConfig, Event, JobGroupRecord, JobRecord, Output, Policy,
    Refusal, Write, invariants,
};
use trainyard_types::trainer::{Log, LogLevel, TrainerEvent};
use trainyard_types::{AgentId, AttemptId, EndReason, Fitness, JobId, JobState, ReportBody, Time};

use crate::machine_fault::is_machine_fault;
use crate::oracle::{NOBODY_HAS_IT, Oracle, Violation};
use crate::world::{Mutant, SimEvent, World};

/// Where the scheduler dies next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    BeforeWriting,
    AfterWriting,
}

/// A leader that was deposed and does not know it yet.
#[derive(Debug)]
pub(crate) struct DeposedLeader {
    pub(crate) core: Core,
    pub(crate) leader_epoch: u64,
}

impl World {
    /// The scheduler's time. Its clock does not jump while it lives; another one's may differ.
    pub(crate) fn clock(&self) -> Time {
        Time(self.event_queue.now().0.saturating_add_signed(self.skew_ms))
    }

    /// What the leader does with an event. `None` when it died on the way, or there is none.
    pub(crate) fn handle(&mut self, event: Event) -> Result<Option<Result<Accepted, Refusal>>, Violation> {
        self.handle_by(self.leader_epoch, event)
    }

    /// What a driver does: handle, write, answer, send.
    pub(crate) fn handle_by(
        &mut self,
        leader_epoch: u64,
        event: Event,
    ) -> Result<Option<Result<Accepted, Refusal>>, Violation> {
        let now = self.clock();
        let held = if let Event::AgentConnected { hello, .. } = &event {
            hello.attempts.iter().map(|&attempt| (hello.agent, attempt)).collect()
        } else {
            Vec::new()
        };
        let released = released_by(&event);
        let event = self.mutate_event(event);
        let is_leader = leader_epoch == self.leader_epoch;
        let core = if is_leader {
            self.core.as_mut()
        } else {
            let deposed = self.deposed.as_mut().filter(|deposed| deposed.leader_epoch == leader_epoch);
            deposed.map(|deposed| &mut deposed.core)
        };
        let Some(core) = core else { return Ok(None) };
        // What both the agent and the scheduler believe to be the agent's.
        let is_its = |(agent, attempt): &(AgentId, AttemptId)| {
            let live = core.job(attempt.job).and_then(JobRecord::live_attempt);
            live.is_some_and(|live| live.id == *attempt && live.agent == *agent)
        };
        let undisturbed: Vec<AttemptId> =
            held.into_iter().filter(is_its).map(|(_, attempt)| attempt).collect();
        let Output { writes, commands, reply, archive } = core.handle(now, event);
        self.summary.events += 1;
        invariants::check(core)?;
        self.oracle.check_reconnection(&undisturbed, core, &commands)?;
        if let Some((agent, attempt, sequence)) = released {
            Oracle::check_release(core, agent, attempt, sequence)?;
        }
        if !is_leader && !writes.is_empty() && self.mutant != Some(Mutant::IgnoresTheFence) {
            self.end_deposed_leader();
            return Ok(None);
        }
        let crash = if writes.is_empty() || !is_leader { None } else { self.crash_next.take() };
        if crash == Some(CrashPoint::BeforeWriting) {
            return self.crash_before_writing(commands, reply);
        }
        let writes = self.mutate_writes(writes);
        self.write(now, writes)?;
        if crash == Some(CrashPoint::AfterWriting) {
            self.crash();
            return Ok(None);
        }
        self.oracle.check_commands(&self.config, &commands, &self.store)?;
        self.closed_slots.check(leader_epoch, now, &commands)?;
        self.send(leader_epoch, commands)?;
        if is_leader {
            for job in archive {
                let life = self.scheduler_life;
                self.event_queue.after(self.rng.millis(0, 5000), SimEvent::Archive(life, job));
            }
            self.plan_tick();
        }
        Ok(reply)
    }

    fn crash_before_writing(
        &mut self,
        commands: Vec<Command>,
        reply: Option<Result<Accepted, Refusal>>,
    ) -> Result<Option<Result<Accepted, Refusal>>, Violation> {
        let epoch = self.leader_epoch;
        let reply = match self.mutant {
            Some(Mutant::AnswersBeforeWriting) => reply,
            Some(Mutant::CommandsBeforeWriting) => {
                self.send(epoch, commands)?;
                None
            }
            Some(Mutant::AcknowledgesBeforeWriting) => {
                self.acknowledge_at_once(&commands);
                None
            }
            Some(_) | None => None,
        };
        self.crash();
        Ok(reply)
    }

    fn write(&mut self, now: Time, writes: Vec<Write>) -> Result<(), Violation> {
        let written: Vec<JobRecord> = writes
            .iter()
            .filter_map(|write| if let Write::Job(job) = write { Some((**job).clone()) } else { None })
            .collect();
        let forgotten: Vec<String> = writes
            .iter()
            .filter_map(|write| if let Write::ForgetUser(user) = write { Some(user.clone()) } else { None })
            .collect();
        let agents = writes.iter().filter_map(|write| match write {
            Write::ForgetAgent(agent) => Some(*agent),
            _ => None,
        });
        agents.for_each(|agent| self.closed_slots.forget(agent));
        // The first machine has everything that jobs name, and can run every one.
        let first = self.machines[0].id();
        let knows_it = self.core.as_ref().is_some_and(|core| core.agent(first).is_some());
        let lacks_it = |job: &&JobRecord| job.state_reason.starts_with(NOBODY_HAS_IT);
        if let Some(job) = written.iter().filter(|_| knows_it).find(lacks_it) {
            return Err(Violation::FailedByMachine(job.id));
        }
        self.store.apply(writes)?;
        if self.config.policy == Policy::Fair {
            let core = self.core.as_ref();
            let lacks = |agent: AgentId, job: &JobRecord| {
                let view = core.and_then(|core| core.agent(agent));
                view.is_some_and(|view| lacks(&view.status.fitness, &job.spec.train.data))
            };
            self.fairness.written(&self.config, now, &written, &self.store.jobs, lacks)?;
        }
        for user in forgotten {
            self.fairness.forget_user(&user);
        }
        Ok(())
    }

    /// What a core that is broken would take an event for.
    fn mutate_event(&mut self, mut event: Event) -> Event {
        match (&mut event, self.mutant) {
            (Event::Report { report, .. }, Some(Mutant::TakesRepeats)) => {
                let job = self.core.as_ref().and_then(|core| core.job(report.attempt.job));
                let live = job.and_then(|job| job.live_attempt());
                if let Some(live) = live.filter(|live| live.id == report.attempt) {
                    report.sequence = live.last_sequence + 1;
                }
            }
            (Event::Report { report, .. }, Some(Mutant::MissesFirstEpochs)) => {
                if let ReportBody::Trainer(TrainerEvent::Epoch(epoch)) = &report.body
                    && epoch.epoch == 1
                {
                    let log = Log { level: LogLevel::Info, message: "an epoch".into() };
                    report.body = ReportBody::Trainer(TrainerEvent::Log(log));
                }
            }
            (Event::AgentConnected { hello, .. }, Some(Mutant::RequeuesAtReconnection)) => {
                hello.attempts.clear();
            }
            (Event::Heartbeat { status, .. }, Some(Mutant::IgnoresOwners)) => {
                *status = AgentStatus::default();
            }
            (Event::AgentConnected { hello, .. }, Some(Mutant::IgnoresOwners)) => {
                hello.status = AgentStatus::default();
            }
            (Event::Heartbeat { status, .. }, Some(Mutant::IgnoresPaths)) => {
                status.fitness = Fitness::default();
            }
            (Event::AgentConnected { hello, .. }, Some(Mutant::IgnoresPaths)) => {
                hello.status.fitness = Fitness::default();
            }
            (Event::Report { report, .. }, Some(Mutant::BlamesJobs | Mutant::ChargesJobs)) => {
                if let ReportBody::Ended(ended) = &mut report.body
                    && is_machine_fault(ended.reason)
                {
                    let blames = self.mutant == Some(Mutant::BlamesJobs);
                    ended.reason = if blames { EndReason::BadSpec } else { EndReason::TrainerCrash };
                }
            }
            (Event::Report { report, .. }, Some(Mutant::KeepsSlots)) => {
                if matches!(report.body, ReportBody::SlotReleased(_)) {
                    let log = Log { level: LogLevel::Info, message: "its trainer has ended".into() };
                    report.body = ReportBody::Trainer(TrainerEvent::Log(log));
                }
            }
            (Event::Archived { job, revision }, Some(Mutant::ForgetsUnarchived)) => {
                *revision = self.store.jobs.get(job).map(|job| job.revision);
            }
            _ => {}
        }
        event
    }

    fn mutate_writes(&mut self, mut writes: Vec<Write>) -> Vec<Write> {
        let rng = &mut self.rng;
        match self.mutant {
            Some(Mutant::LosesWrites) => {
                writes.retain(|write| {
                    !matches!(write, Write::Job(job) if job.revision == 1) || !rng.once_in(4)
                });
            }
            Some(Mutant::LosesOrders) => {
                for write in &mut writes {
                    if let Write::Agent(agent) = write {
                        agent.drain = None;
                        agent.reserved.clear();
                    }
                }
            }
            Some(Mutant::LosesBatches) => writes.retain(|write| !matches!(write, Write::JobGroup(_))),
            Some(Mutant::LosesEvents) => {
                writes.retain(|write| !matches!(write, Write::JobEvents { .. }) || !rng.once_in(50));
            }
            Some(_) | None => {}
        }
        writes
    }

    fn acknowledge_at_once(&mut self, commands: &[Command]) {
        for command in commands {
            if let Command::Ack { agent, attempt, sequence, .. } = command
                && let Some(machine) = self.machines.iter_mut().find(|machine| machine.id() == *agent)
            {
                machine.acknowledge(*attempt, *sequence);
            }
        }
    }

    fn send(&mut self, leader_epoch: u64, commands: Vec<Command>) -> Result<(), Violation> {
        for command in commands {
            let session = match &command {
                Command::Assign { session, assignment, .. } => {
                    self.oracle.assigned(assignment)?;
                    *session
                }
                Command::Stop { session, attempt, .. } => {
                    if self.store.jobs.get(&attempt.job).is_none_or(|job| !job.out_of_time) {
                        self.oracle.preempted(*attempt);
                    }
                    *session
                }
                Command::ClearGpu { session, .. }
                | Command::Prefetch { session, .. }
                | Command::Revoke { session, .. }
                | Command::Ack { session, .. } => *session,
            };
            let Some(&id) = self.sessions.get(&(leader_epoch, session)) else { continue };
            let Some(connection) = self.connections.get_mut(&id).filter(|open| open.to_agent) else {
                continue;
            };
            let arrival = self.event_queue.now() + self.rng.millis(1, 200);
            connection.last_at_agent = connection.last_at_agent.max(arrival);
            self.event_queue.at(connection.last_at_agent, SimEvent::AtAgent(id, command));
        }
        Ok(())
    }

    pub(crate) fn plan_tick(&mut self) {
        let Some(deadline) = self.core.as_ref().and_then(Core::next_deadline) else { return };
        let deadline = Time(deadline.0.saturating_add_signed(-self.skew_ms)).max(self.event_queue.now());
        if self.ticking.is_none_or(|planned| deadline < planned) {
            self.ticking = Some(deadline);
            // Timers are late at times.
            self.event_queue.at(deadline + self.rng.millis(1, 20), SimEvent::Tick(self.scheduler_life));
        }
    }

    pub(crate) fn on_tick(&mut self, life: u64) -> Result<(), Violation> {
        if life == self.scheduler_life {
            self.ticking = None;
            if self.mutant != Some(Mutant::NeverTicks) {
                self.handle(Event::Tick)?;
            }
            self.plan_tick();
        }
        Ok(())
    }

    /// The driver has archived a job's history, or the disk was full.
    pub(crate) fn on_archive(&mut self, life: u64, job: JobId) -> Result<(), Violation> {
        if life != self.scheduler_life {
            return Ok(());
        }
        let works = !self.faults || !self.rng.once_in(6);
        let skips = self.mutant == Some(Mutant::ForgetsUnarchived);
        let revision = if works && !skips { self.store.archive(job) } else { None };
        self.handle(Event::Archived { job, revision }).map(|_| ())
    }

    /// The scheduler's process dies; what is stored stays.
    pub(crate) fn crash(&mut self) {
        self.summary.crashes += 1;
        self.core = None;
        self.crash_next = None;
        self.scheduler_life += 1;
        self.drop_sessions(self.leader_epoch);
        self.event_queue.after(self.rng.millis(100, 40_000), SimEvent::SchedulerStarts);
    }

    fn drop_sessions(&mut self, leader_epoch: u64) {
        self.sessions.retain(|(epoch, _), _| *epoch != leader_epoch);
        let is_its = |connection: &crate::network::Connection| connection.leader_epoch == leader_epoch;
        let open: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, open)| open.is_open() && is_its(open))
            .map(|(&id, _)| id)
            .collect();
        for id in open {
            self.cut(id, Duration::from_secs(5));
        }
    }

    /// Another scheduler comes to lead; this one does not know yet that it does not.
    pub(crate) fn take_over(&mut self) -> Result<(), Violation> {
        if self.deposed.is_some() {
            return Ok(());
        }
        let Some(core) = self.core.take() else { return Ok(()) };
        self.summary.takeovers += 1;
        let leader_epoch = self.leader_epoch;
        self.deposed = Some(DeposedLeader { core, leader_epoch });
        self.scheduler_life += 1;
        // It looks at times whether it still leads.
        self.event_queue.after(self.rng.millis(0, 10_000), SimEvent::DeposedLeaderEnds(leader_epoch));
        self.on_scheduler_starts()
    }

    pub(crate) fn on_deposed_leader_ends(&mut self, leader_epoch: u64) {
        if self.deposed.as_ref().is_some_and(|deposed| deposed.leader_epoch == leader_epoch) {
            self.end_deposed_leader();
        }
    }

    fn end_deposed_leader(&mut self) {
        if let Some(deposed) = self.deposed.take() {
            self.drop_sessions(deposed.leader_epoch);
        }
    }

    pub(crate) fn on_scheduler_starts(&mut self) -> Result<(), Violation> {
        if self.core.is_none() {
            self.oracle.check(&self.store)?;
            // It may run on another machine, or somebody may have set the clock.
            if self.steps_clocks && self.faults && self.rng.once_in(2) {
                let step = i64::try_from(self.rng.below(240_000)).unwrap_or(0) - 120_000;
                self.skew_ms = (self.skew_ms + step).clamp(-300_000, 300_000);
            }
            let mut stored = self.store.load();
            if self.mutant == Some(Mutant::ReusesAttemptNumbers) {
                for job in stored.jobs.iter_mut().filter(|job| job.state == JobState::Queued) {
                    job.attempts.clear();
                }
            }
            if self.mutant == Some(Mutant::ForgetsBatchRequests) {
                for member in stored.jobs.iter_mut().filter_map(|job| job.group.as_mut()) {
                    member.group = JobGroupRecord { request_id: None, ..(*member.group).clone() }.into();
                }
            }
            let core = Core::load(self.believed_config(), self.clock(), stored);
            if self.mutant.is_none() {
                invariants::check(&core)?;
            }
            self.core = Some(core);
            self.leader_epoch += 1;
            // Sessions count anew under each leader.
            (self.next_session, self.ticking) = (1, None);
            self.plan_tick();
        }
        Ok(())
    }

    /// The configuration as the core has it: a mutant's differs from the one that was promised.
    pub(crate) fn believed_config(&self) -> CoreConfig {
        let mut config = self.config.clone();
        match self.mutant {
            Some(Mutant::IgnoresQuotas) => {
                for user in config.users.values_mut() {
                    user.running_gpus = None;
                }
            }
            Some(Mutant::IgnoresShares) => config.share_half_life = Duration::from_millis(1),
            Some(_) | None => {}
        }
        config
    }
}

/// The attempt whose slot an agent says is free, and the number of that report.
fn released_by(event: &Event) -> Option<(AgentId, AttemptId, u64)> {
    let Event::Report { agent, report, .. } = event else { return None };
    let is_release = matches!(report.body, ReportBody::SlotReleased(_));
    is_release.then_some((*agent, report.attempt, report.sequence))
}

/// Whether an agent says that it cannot see a data set.
pub(crate) fn lacks(fitness: &Fitness, data: &Path) -> bool {
    fitness.missing_paths.iter().any(|path| data.as_os_str() == path.as_str())
}
