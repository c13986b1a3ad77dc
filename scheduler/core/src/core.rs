//! The scheduler's one state, and the one door into it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use trainyard_types::{AgentId, Assignment, AttemptId, JobId, JobState, Slot, Time};

use crate::agent::{Agent, AgentView};
use crate::changes::Changes;
use crate::config::CoreConfig;
use crate::event::Event;
use crate::output::{Command, Output};
use crate::placement;
use crate::queue::Queue;
use crate::record::{AgentRecord, AttemptRecord, JobRecord};
use crate::slots::Slots;

/// The scheduler: jobs, agents, and indexes over them.
///
/// Records are what is stored; all else is derived from them by [`Core::load`], or lasts only as long
/// as the agents' sessions.
#[derive(Debug, Default)]
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) jobs: BTreeMap<JobId, JobRecord>,
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    /// Index: the job that a request id made.
    pub(crate) requests: BTreeMap<String, JobId>,
    /// Index: jobs in state `Queued`.
    pub(crate) queue: Queue,
    /// Index: slots of connected agents.
    pub(crate) slots: Slots,
    /// Index: when the leases of agents end; lost agents have none.
    pub(crate) leases: BTreeSet<(Time, AgentId)>,
    /// Index: when slots that were set aside are used again.
    pub(crate) set_aside: BTreeSet<(Time, AgentId, Slot)>,
}

impl Core {
    /// Without jobs and agents.
    pub fn new(config: CoreConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Goes on from what is stored. Every agent gets a fresh lease, and has no session yet.
    pub fn load(config: CoreConfig, now: Time, jobs: Vec<JobRecord>, agents: Vec<AgentRecord>) -> Self {
        let mut core = Self::new(config);
        for record in agents {
            core.adopt(now, record);
        }
        for job in jobs {
            if let Some(request_id) = &job.request_id {
                core.requests.insert(request_id.clone(), job.id);
            }
            if job.state == JobState::Queued {
                core.queue.insert(now, &job);
            }
            if let Some(attempt) = job.live_attempt() {
                core.adopt_attempt(now, attempt);
            }
            core.jobs.insert(job.id, job);
        }
        core
    }

    /// An agent that is known from before: its lease runs anew.
    fn adopt(&mut self, now: Time, record: AgentRecord) {
        let lease_until = now + self.config.lease;
        self.leases.insert((lease_until, record.id));
        self.agents.insert(record.id, Agent::known(record, lease_until));
    }

    /// An agent's record is written before any attempt on it, so that a missing one was deleted by hand;
    /// the attempt is then lost with its lease, unless the agent comes back.
    fn adopt_attempt(&mut self, now: Time, attempt: &AttemptRecord) {
        if !self.agents.contains_key(&attempt.agent) {
            let record = AgentRecord {
                id: attempt.agent,
                name: attempt.agent_name.clone(),
                version: String::new(),
                inventory: trainyard_types::Inventory::default(),
                connected: attempt.placed,
            };
            self.adopt(now, record);
        }
        if let Some(agent) = self.agents.get_mut(&attempt.agent) {
            agent.running.insert(attempt.slot.clone(), attempt.id);
        }
    }

    /// Takes in what happened. The driver makes the writes durable, then replies and sends the commands.
    ///
    /// # Panics
    /// In debug builds, when the state has become inconsistent: a bug of ours.
    pub fn handle(&mut self, now: Time, event: Event) -> Output {
        let mut out = Changes::default();
        match event {
            Event::Submit { request_id, job, user, spec } => {
                self.on_submit(now, request_id, job, user, spec, &mut out);
            }
            Event::Cancel { job } => self.on_cancel(now, job, &mut out),
            Event::Retry { job } => self.on_retry(now, job, &mut out),
            Event::AgentConnected { session, hello } => self.on_connected(now, session, hello, &mut out),
            Event::AgentDisconnected { agent, session } => self.on_disconnected(agent, session),
            Event::Heartbeat { agent, session, telemetry } => {
                self.on_heartbeat(now, agent, session, telemetry, &mut out);
            }
            Event::Report { agent, session, report } => self.on_report(now, agent, session, report, &mut out),
            Event::Tick => self.on_tick(now, &mut out),
        }
        if out.replan {
            self.place(now, &mut out);
        }
        let Self { jobs, agents, .. } = self;
        let output = out.finish(jobs, |id| agents.get(&id).map(|agent| &agent.record));
        self.assert_consistent();
        output
    }

    /// When [`Event::Tick`] is due; `None` when nothing waits for time to pass.
    pub fn next_deadline(&self) -> Option<Time> {
        let lease = self.leases.first().map(|&(time, _)| time);
        let set_aside = self.set_aside.first().map(|&(time, ..)| time);
        [lease, set_aside, self.queue.next_due()].into_iter().flatten().min()
    }

    /// One job as it stands.
    pub fn job(&self, job: JobId) -> Option<&JobRecord> {
        self.jobs.get(&job)
    }

    /// All jobs in the order of their submission.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = &JobRecord> {
        self.jobs.values()
    }

    /// The jobs whose id starts with `prefix`, as people shorten ids; hyphens and case do not count.
    pub fn jobs_with_prefix(&self, prefix: &str) -> impl DoubleEndedIterator<Item = &JobRecord> {
        ids_with_prefix(prefix).map(|ids| self.jobs.range(ids)).into_iter().flatten().map(|(_, job)| job)
    }

    /// Every agent ever seen, by id.
    pub fn agents(&self) -> impl Iterator<Item = AgentView<'_>> {
        self.agents.values().map(Agent::view)
    }

    /// One agent.
    pub fn agent(&self, agent: AgentId) -> Option<AgentView<'_>> {
        self.agents.get(&agent).map(Agent::view)
    }

    /// How many jobs are queued.
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    fn on_tick(&mut self, now: Time, out: &mut Changes) {
        while let Some(&(time, agent)) = self.leases.first()
            && time <= now
        {
            self.on_lease_over(now, agent, out);
        }
        while let Some((_, agent, slot)) = self.next_set_aside_over(now) {
            self.on_set_aside_over(agent, &slot, out);
        }
        while let Some(job) = self.queue.pop_due(now) {
            if let Some(job) = self.jobs.get(&job) {
                self.queue.make_ready(job);
                out.replan = true;
            }
        }
    }

    fn next_set_aside_over(&mut self, now: Time) -> Option<(Time, AgentId, Slot)> {
        self.set_aside.first().filter(|(time, ..)| *time <= now)?;
        self.set_aside.pop_first()
    }

    /// Starts as many waiting jobs as there are slots for.
    fn place(&mut self, now: Time, out: &mut Changes) {
        for placement in placement::place(&self.queue, &self.slots) {
            let (Some(job), Some(agent)) =
                (self.jobs.get_mut(&placement.job), self.agents.get_mut(&placement.location.agent))
            else {
                continue;
            };
            // Only slots of agents with a session are offered.
            let Some(session) = agent.session else { continue };
            self.queue.remove(job);
            self.slots.take(&placement.kind, &placement.location);
            let number = u32::try_from(job.attempts.len()).map_or(u32::MAX, |attempts| attempts + 1);
            let attempt = AttemptId { job: job.id, number };
            let (device, slot) = (placement.kind.device().to_owned(), placement.location.slot);
            agent.running.insert(slot.clone(), attempt);
            job.not_before = None;
            job.attempts.push(AttemptRecord {
                id: attempt,
                agent: agent.record.id,
                agent_name: agent.record.name.clone(),
                slot: slot.clone(),
                device: device.clone(),
                last_sequence: 0,
                placed: now,
                started: None,
                ended: None,
            });
            let reason = format!("placed on {device} of agent `{}`, which prepares it", agent.record.name);
            out.state(job, now, number, JobState::Starting, reason);
            let assignment = Box::new(Assignment {
                attempt,
                spec: job.spec.clone(),
                slot,
                resume: job.checkpoint.clone(),
            });
            out.command(Command::Assign { agent: agent.record.id, session, assignment });
        }
    }

    /// Debug builds check every state that they reach, as long as that is cheap.
    fn assert_consistent(&self) {
        const CHEAP_JOBS: usize = 1000;
        if cfg!(debug_assertions)
            && self.jobs.len() <= CHEAP_JOBS
            && let Err(broken) = crate::invariants::check(self)
        {
            panic!("the core's state is inconsistent: {broken}");
        }
    }
}

/// The ids that a prefix stands for; `None` when it is no start of a UUID.
fn ids_with_prefix(prefix: &str) -> Option<RangeInclusive<JobId>> {
    let digits: String = prefix.chars().filter(|&c| c != '-').collect();
    if digits.len() > 32 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let padded = |fill: &str| format!("{digits}{}", fill.repeat(32 - digits.len())).parse().ok();
    Some(padded("0")?..=padded("f")?)
}
