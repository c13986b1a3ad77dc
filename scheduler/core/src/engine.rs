//! The scheduler's one state, and the one door into it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trainyard_types::{AgentId, BatchId, GpuUuid, Inventory, JobId, JobState, Time};

use crate::changes::Changes;
use crate::config::CoreConfig;
use crate::event::Event;
use crate::output::Output;
use crate::policy::{Change, PlacementPolicy};
use crate::record::{AgentRecord, AttemptRecord, JobRecord};
use crate::state::agent::Agent;
use crate::state::agent_status::AgentStatuses;
use crate::state::deadlines::Deadlines;
use crate::state::expected_ends::Ends;
use crate::state::index::Index;
use crate::state::job_group::{JobGroup, JobGroupRecord};
use crate::state::queue::Queue;
use crate::state::quick_ends::QuickEnds;
use crate::state::sight::{Seen, Sight};
use crate::state::slots::{self, Slots};
use crate::state::tally::Tally;
use crate::state::user::{UserRecord, Users};
use crate::throughput::{LearnedRecord, Throughput};

/// The scheduler: jobs, agents, and indexes over them.
///
/// Records are what is stored; all else is derived from them by [`Core::load`], or lasts only as long
/// as the agents' sessions.
#[derive(Debug, Default)]
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) jobs: BTreeMap<JobId, JobRecord>,
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    /// Job groups that have jobs left.
    pub(crate) groups: BTreeMap<BatchId, JobGroup>,
    /// Who has used how much; what runs now is counted from the jobs.
    pub(crate) users: Users,
    /// Index: the job that a request id made, or the first of its batch.
    pub(crate) requests: BTreeMap<String, JobId>,
    /// Index: jobs by state, user and end.
    pub(crate) index: Index,
    /// Index: jobs in state `Queued`.
    pub(crate) queue: Queue,
    /// Index: which agents see which paths.
    pub(crate) sight: Sight,
    /// Index: where data sets could be read.
    pub(crate) seen: Seen,
    /// Agents see other things than when it was last asked whether any will run a job.
    pub(crate) fitness_changed: bool,
    /// Index: slots of connected agents.
    pub(crate) slots: Slots,
    /// Index: what is due when.
    pub(crate) deadlines: Deadlines,
    /// Index: attempts that ended too soon.
    pub(crate) quick_ends: QuickEnds,
    /// Index: who offered a GPU first.
    pub(crate) owners: BTreeMap<GpuUuid, AgentId>,
    /// Index: agents with GPUs that another one offered first.
    pub(crate) doubled: BTreeSet<AgentId>,
    /// Index: when running attempts are expected to end.
    pub(crate) ends: Ends,
    /// Counters of what has happened since the core was loaded.
    pub(crate) tally: Tally,
    /// What was learned from jobs that ran.
    pub(crate) throughput: Throughput,
    /// What agents say they hold and need.
    pub(crate) statuses: AgentStatuses,
    /// Who goes next, and where.
    pub(crate) policy: Box<dyn PlacementPolicy>,
    /// Jobs whose archives were asked for.
    pub(crate) archiving: BTreeSet<JobId>,
    /// No archive is asked for before this time.
    pub(crate) archive_paused_until: Option<Time>,
}

/// Everything that is stored but the events.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stored {
    /// By id; those of a batch, too, unless they were forgotten.
    pub jobs: Vec<JobRecord>,
    /// All agents, by id.
    pub agents: Vec<AgentRecord>,
    /// All users, by name.
    pub users: Vec<UserRecord>,
    /// All that was learned, by key.
    pub learned: Vec<LearnedRecord>,
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
            let id = record.id;
            core.adopt(now, record);
            core.claim_gpus(id);
        }
        for record in stored.users {
            core.users.load(record);
        }
        core.throughput.load(stored.learned);
        for mut job in stored.jobs {
            job.user = core.users.name(&job.user);
            if let Some(request_id) = &job.request_id {
                core.requests.insert(request_id.clone(), job.id);
            }
            if let Some(place) = &job.batch {
                core.adopt_group(&place.batch);
            }
            if job.state == JobState::Queued {
                core.queue.insert(now, &job, &core.sight);
            }
            if let Some(attempt) = job.live_attempt() {
                let resources = &job.spec.resources;
                if attempt.holds_slots() {
                    core.users.adopt(&job.user, now, resources.device, resources.gpus.max(1));
                }
                core.adopt_attempt(now, &job, attempt);
            }
            if let Some(time) = job.out_of_time_at() {
                core.deadlines.time_limits.add(time, job.id);
            }
            core.index.insert(&job);
            core.note_seen(&job);
            core.quick_ends.note(&job);
            let id = job.id;
            core.jobs.insert(id, job);
            core.tell_policy(now, &Change::Progress(id));
        }
        core.follow_queue(now);
        core
    }

    /// One more job of a batch is there.
    fn adopt_group(&mut self, record: &Arc<JobGroupRecord>) {
        let batch = self.groups.entry(record.id).or_insert_with(|| {
            if let Some(request_id) = &record.request_id {
                self.requests.insert(request_id.clone(), record.id.job(0));
            }
            JobGroup { record: Arc::clone(record), left: 0 }
        });
        batch.left += 1;
    }

    /// An agent that is known from before: its lease runs anew.
    fn adopt(&mut self, now: Time, record: AgentRecord) {
        let lease_until = now + self.config.lease;
        self.deadlines.leases.add(lease_until, record.id);
        for (gpu, &until) in &record.reserved {
            self.deadlines.reservations.add(until, (record.id, gpu.clone()));
        }
        for (slot, shut) in &record.shut {
            if let Some(until) = shut.until {
                self.deadlines.shut.add(until, (record.id, slot.clone()));
            }
        }
        self.agents.insert(record.id, Agent::known(record, lease_until));
    }

    /// An agent's record is written before any attempt on it, so that a missing one was deleted by hand;
    /// the attempt is then lost with its lease, unless the agent comes back.
    fn adopt_attempt(&mut self, now: Time, job: &JobRecord, attempt: &AttemptRecord) {
        if !self.agents.contains_key(&attempt.agent) {
            let (name, placed) = (attempt.agent_name.clone(), attempt.placed);
            let record = AgentRecord::new(attempt.agent, name, String::new(), Inventory::default(), placed);
            self.adopt(now, record);
        }
        if let Some(agent) = self.agents.get_mut(&attempt.agent) {
            if !attempt.holds_slots() {
                agent.handing_in.insert(attempt.id);
                return;
            }
            agent.running.extend(attempt.slots().map(|slot| (slot.clone(), attempt.id)));
            if let Some((kind, _)) = slots::of_inventory(&agent.record.inventory).remove(&attempt.slot) {
                self.ends.begin(attempt.id, kind);
                let left = job.progress.as_ref().and_then(|progress| progress.eta);
                self.ends.expect(attempt.id, left.map(|left| now + left));
            }
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
                self.on_submit(now, request_id, job, &user, spec, &mut out);
            }
            Event::SubmitGroup { batch } => self.on_submit_group(now, batch, &mut out),
            Event::Cancel { job } => self.on_cancel(now, job, &mut out),
            Event::CancelMany { jobs } => self.on_cancel_many(now, &jobs, &mut out),
            Event::Retry { job } => self.on_retry(now, job, &mut out),
            Event::AgentConnected { session, hello } => self.on_connected(now, session, hello, &mut out),
            Event::AgentDisconnected { agent, session } => self.on_disconnected(agent, session),
            Event::Heartbeat { agent, session, condition } => {
                self.on_heartbeat(now, agent, session, condition, &mut out);
            }
            Event::Report { agent, session, report } => self.on_report(now, agent, session, report, &mut out),
            Event::Drain { agent, keep_running } => self.on_drain(agent, keep_running, &mut out),
            Event::Resume { agent } => self.on_resume(agent, &mut out),
            Event::Reserve { agent, gpus, span } => self.on_reserve(now, agent, gpus, span, &mut out),
            Event::Release { agent, gpus } => self.on_release(agent, &gpus, &mut out),
            Event::ClearGpu { agent, gpu } => self.on_clear_gpu(now, agent, gpu, &mut out),
            Event::Archived { job, revision } => self.on_archived(now, job, revision, &mut out),
            Event::Tick => self.on_tick(now, &mut out),
        }
        self.fail_unreadable(now, &mut out);
        self.follow_queue(now);
        if out.replan {
            self.place(now, &mut out);
        }
        if let Some(job) = out.checkpoint.take() {
            self.consider_preemption(now, job, &mut out);
        }
        let has_ended = out.moves.iter().any(|moved| moved.ends());
        for moved in std::mem::take(&mut out.moves) {
            if moved.ends()
                && let Some(job) = self.jobs.get(&moved.job)
            {
                *self.tally.finished.entry(job.state).or_default() += 1;
            }
            if let Some(job) = self.jobs.get(&moved.job) {
                self.index.moved(moved.from, moved.ended, job);
            }
        }
        if has_ended {
            self.archive_due(now, &mut out);
        }
        let Self { jobs, agents, users, .. } = self;
        let agent = |id| agents.get(&id).map(|agent| &agent.record);
        let output = out.finish(jobs, agent, |name| users.get(name).map(|user| &user.record));
        self.assert_consistent();
        output
    }

    /// When [`Event::Tick`] is due; `None` when nothing waits for time to pass.
    pub fn next_deadline(&self) -> Option<Time> {
        let others =
            [self.next_agent_forgotten(), self.queue.next_due(), self.next_archival(), self.policy.wake_at()];
        others.into_iter().chain([self.deadlines.next()]).flatten().min()
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
