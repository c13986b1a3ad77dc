//! The scheduler's one state, and the one door into it.

use trainyard_types::{Inventory, Time};

use crate::changes::Changes;
use crate::config::CoreConfig;
use crate::event::Event;
use crate::output::Output;
use crate::policy::{Change, PlacementPolicy};
use crate::record::{AgentRecord, JobRecord};
use crate::state::agents::Agents;
use crate::state::counters::Counters;
use crate::state::expired_jobs::Retention;
use crate::state::fair_share::{UserRecord, Users};
use crate::state::jobs::Jobs;
use crate::state::prefetches::Prefetches;
use crate::throughput::{Throughput, ThroughputRecord};

/// The scheduler: jobs, agents and users, what was learned of throughput, and who decides.
///
/// Records are what is stored; all else is derived from them by [`Core::load`], or lasts only as long as the agents'
/// sessions. Each part keeps its own indexes: a handler changes a part by its methods only.
#[derive(Debug, Default)]
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) jobs: Jobs,
    pub(crate) agents: Agents,
    /// Who has used how much, and runs what now.
    pub(crate) users: Users,
    /// What was learned from jobs that ran.
    pub(crate) throughput: Throughput,
    /// Who goes next, and where.
    pub(crate) policy: Box<dyn PlacementPolicy>,
    pub(crate) retention: Retention,
    /// What agents were told to prefetch.
    pub(crate) prefetches: Prefetches,
    /// Counts of what has happened since the core was loaded.
    pub(crate) counters: Counters,
}

/// Everything that is stored but the events.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stored {
    /// By id; those of a job group, too, unless they were forgotten.
    pub jobs: Vec<JobRecord>,
    pub agents: Vec<AgentRecord>,
    /// All users, by name.
    pub users: Vec<UserRecord>,
    /// All that was learned of throughput, by key.
    pub throughput: Vec<ThroughputRecord>,
}

impl Core {
    /// A core without jobs and agents.
    pub fn new(config: CoreConfig) -> Self {
        Self { policy: config.policy.component(), config, ..Self::default() }
    }

    /// Goes on from what is stored. Every agent gets a fresh lease, and has no session yet.
    pub fn load(config: CoreConfig, now: Time, stored: Stored) -> Self {
        let mut core = Self::new(config);
        let mut agents = stored.agents;
        agents.sort_by_key(|record| record.connected);
        for record in agents {
            core.agents.load(record, now + core.config.lease);
        }
        for record in stored.users {
            core.users.load(record);
        }
        core.throughput.load(stored.throughput);
        for job in stored.jobs {
            core.load_job(now, job);
        }
        core.follow_queue(now);
        core
    }

    fn load_job(&mut self, now: Time, mut job: JobRecord) {
        for told in job.attempts.iter().filter_map(|attempt| attempt.fetching.as_ref()) {
            self.throughput.fetches.observe(told);
        }
        job.user = self.users.name(&job.user);
        let mut kind = None;
        if let Some(attempt) = job.live_attempt() {
            // An agent's record is written before any attempt on it, so that a missing one was deleted by hand; the
            // attempt is then lost with its lease, unless the agent comes back.
            if self.agents.get(attempt.agent).is_none() {
                let (name, placed) = (attempt.agent_name.clone(), attempt.placed);
                let record =
                    AgentRecord::new(attempt.agent, name, String::new(), Inventory::default(), placed);
                self.agents.load(record, now + self.config.lease);
            }
            self.agents.load_attempt(attempt);
            if attempt.holds_slots() {
                let resources = &job.spec.resources;
                self.users.load_running(&job.user, now, resources.device, resources.gpus.max(1));
                kind = self.agents.kind_of(attempt).map(|(kind, _)| kind);
            }
        }
        let id = job.id;
        self.jobs.insert(now, job, kind);
        self.tell_policy(now, &Change::Progress(id));
    }

    /// Takes in what happened. The driver makes the writes durable, then replies and sends the commands.
    ///
    /// # Panics
    /// In debug builds, when the state has become inconsistent: a bug of ours.
    pub fn handle(&mut self, now: Time, event: Event) -> Output {
        let mut out = Changes::default();
        match event {
            Event::LimitsChanged { usual, users } => {
                (self.config.user_limits, self.config.users) = (usual, users);
                out.request_round();
            }
            Event::Submit { request_id, job, user, spec } => {
                self.on_submit(now, request_id, job, &user, spec, &mut out);
            }
            Event::SubmitGroup { group } => self.on_submit_group(now, group, &mut out),
            Event::Cancel { job } => self.on_cancel(now, job, &mut out),
            Event::CancelMany { jobs } => self.on_cancel_many(now, &jobs, &mut out),
            Event::Retry { job } => self.on_retry(now, job, &mut out),
            Event::SetPriority { job, priority } => self.on_set_priority(now, job, priority, &mut out),
            Event::AgentConnected { session, hello } => self.on_connected(now, session, hello, &mut out),
            Event::AgentDisconnected { agent, session } => self.on_disconnected(agent, session, &mut out),
            Event::Heartbeat { agent, session, status } => {
                self.on_heartbeat(now, agent, session, status, &mut out);
            }
            Event::Report { agent, session, report } => self.on_report(now, agent, session, report, &mut out),
            Event::Drain { agent, keep_running } => self.on_drain(agent, keep_running, &mut out),
            Event::Resume { agent } => self.on_resume(agent, &mut out),
            Event::Reserve { agent, gpus, span } => self.on_reserve(now, agent, gpus, span, &mut out),
            Event::Release { agent, gpus } => self.on_release(agent, &gpus, &mut out),
            Event::ClearGpu { agent, gpu } => self.on_clear_gpu(now, agent, gpu, &mut out),
            Event::ForgetAgent { agent } => self.on_forget(agent, &mut out),
            Event::Archived { job, revision } => self.on_archived(now, job, revision, &mut out),
            Event::Tick => self.on_tick(now, &mut out),
        }
        self.fail_unreadable(now, &mut out);
        self.follow_queue(now);
        let has_offered = self.agents.take_has_offered();
        if out.wants_round() || has_offered {
            self.place(now, &mut out);
        }
        if let Some(job) = out.take_checkpoint() {
            self.consider_preemption(now, job, &mut out);
        }
        self.prefetch(now, &mut out);
        let finished = self.jobs.settle();
        for &state in &finished {
            *self.counters.finished.entry(state).or_default() += 1;
        }
        if !finished.is_empty() {
            self.archive_due(now, &mut out);
        }
        let output = out.finish(&mut self.jobs, &self.agents, &self.users);
        self.assert_consistent();
        output
    }

    /// When [`Event::Tick`] is due; `None` when nothing waits for time to pass.
    pub fn next_deadline(&self) -> Option<Time> {
        let deadlines = [
            self.agents.deadlines().next(),
            self.jobs.next_time_limit(),
            self.jobs.queue().next_due(),
            self.next_agent_forgotten(),
            self.next_archival(),
            self.policy.wake_at(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Debug builds check every state that they reach, as long as that is cheap.
    fn assert_consistent(&self) {
        const CHEAP_JOBS: usize = 100;
        if cfg!(debug_assertions)
            && self.jobs.len() <= CHEAP_JOBS
            && let Err(broken) = crate::invariants::check(self)
        {
            panic!("the core's state is inconsistent: {broken}");
        }
    }
}
