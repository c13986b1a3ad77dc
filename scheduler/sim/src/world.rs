//! The simulated world: what happens, and who hears of it when.
//!
//! Faults come in the first phase; then everything heals, and every job must end.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_scheduler_core::{Command, Core, CoreConfig, Policy, UserLimits};
use trainyard_types::{JobId, JobState, Report, Session, Time};

use crate::client::{self, Client};
use crate::driver::{CrashPoint, DeposedLeader};
use crate::engine::EventQueue;
use crate::fairness::Fairness;
use crate::machine::{self, Machine};
use crate::network::{AgentMessage, Connection};
use crate::oracle::{Oracle, Violation};
use crate::orders::{self, Order};
use crate::rng::Rng;
use crate::store::Store;

/// What a run simulates.
#[derive(Debug, Clone)]
pub struct Options {
    /// The seed, which decides everything.
    pub seed: u64,
    /// How long faults go on.
    pub faults_for: Duration,
    /// Who goes next, and where.
    pub policy: Policy,
    /// A fault of the driver, to show that the oracles see it.
    pub mutant: Option<Mutant>,
}

impl Options {
    /// Ten minutes of faults around an honest driver.
    pub fn new(seed: u64) -> Self {
        Self { seed, faults_for: Duration::from_secs(600), policy: Policy::Fair, mutant: None }
    }
}

/// Ways in which a driver could break its contract with the core, or the core its promises; those of the
/// core are played by changing what goes into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Some first writes of jobs never reach the store.
    LosesWrites,
    /// The client has its answer although the write came to nothing.
    AnswersBeforeWriting,
    /// Commands go out although the write came to nothing.
    CommandsBeforeWriting,
    /// Some events never reach the store.
    LosesEvents,
    /// Agents are told that reports are durable although they were not taken in.
    AcknowledgesBeforeWriting,
    /// A deposed leader's writes are taken.
    IgnoresTheFence,
    /// Time passes and nothing follows: a lost agent's jobs are not queued again.
    NeverTicks,
    /// A restarted scheduler counts attempts from those that go on.
    ReusesAttemptNumbers,
    /// Reports that come again are taken in again.
    TakesRepeats,
    /// New batches never reach the store.
    LosesBatches,
    /// Jobs are forgotten although their archive could not be written.
    ForgetsUnarchived,
    /// Users get as many GPUs as there are.
    IgnoresQuotas,
    /// What users have had is forgotten at once.
    IgnoresShares,
    /// What people order of agents never reaches the store.
    LosesOrders,
    /// What agents say of their GPUs is not heard.
    IgnoresOwners,
    /// The first epoch of a job is taken for something else.
    MissesFirstEpochs,
    /// A restarted scheduler does not know which request made a batch.
    ForgetsBatchRequests,
    /// Whatever an agent comes back with is tried again.
    RequeuesAtReconnection,
    /// What agents say of the paths that they lack is not heard.
    IgnoresPaths,
    /// What machines lack is taken for what is wrong with the job.
    BlamesJobs,
    /// What machines lack is charged to the job as a crash.
    ChargesJobs,
    /// An attempt holds its slot until its results are in.
    KeepsSlots,
}

/// How a run went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Jobs that were submitted and acknowledged.
    pub jobs: usize,
    /// Jobs whose last state is `Succeeded`.
    pub succeeded: usize,
    /// Jobs whose last state is `Failed`.
    pub failed: usize,
    /// Jobs whose last state is `Cancelled`.
    pub cancelled: usize,
    /// Attempts of all jobs.
    pub attempts: usize,
    /// Events that the core handled.
    pub events: u64,
    /// How often the scheduler went down.
    pub crashes: u64,
    /// How often another scheduler deposed a live one.
    pub takeovers: u64,
    /// Jobs that expired.
    pub forgotten: usize,
    /// Connections that were cut.
    pub cuts: u64,
    /// Agents that were killed, drained or paused.
    pub agent_faults: u64,
    /// Drains, reservations, and GPUs that were wanted by their owners.
    pub orders: u64,
    /// Machines that had a fault for a while.
    pub machine_faults: u64,
    /// Times that an agent was told to prefetch.
    pub prefetches: u64,
}

/// A promise that was not kept, and how to see it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}, at {time} ms: {violation}")]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// When it was seen.
    pub time: Time,
    pub violation: Violation,
}

/// Runs one world until every job has ended.
pub fn simulate(options: &Options) -> Result<Summary, Failure> {
    let mut world = World::new(options);
    let outcome = world.run();
    let fail = |violation| Failure { seed: options.seed, time: world.event_queue.now(), violation };
    outcome.map_err(fail)
}

/// Something that is planned.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most of what is planned is such a message")]
pub(crate) enum SimEvent {
    /// A message arrives, unless its connection is gone by then.
    AtScheduler(u64, AgentMessage),
    AtAgent(u64, Command),
    /// The scheduler sees that a connection is gone.
    SchedulerNotices(u64),
    /// The agent sees it.
    AgentNotices(usize, u64),
    /// An agent, in that life, dials.
    Dial(usize, u32),
    Heartbeat(usize, u64),
    /// A trainer moves on, in that life of its agent.
    Train(usize, u32, trainyard_types::AttemptId),
    /// What an agent prefetches has come, or cannot be had, in that life.
    Prefetched(usize, u32, String),
    AgentStarts(usize),
    AgentWakes(usize),
    /// A drained agent's process ends, in that life.
    AgentExits(usize, u32),
    /// The core's deadline, in that life of the scheduler.
    Tick(u64),
    /// A history is archived, in that life of the scheduler.
    Archive(u64, JobId),
    /// A deposed leader finds out.
    DeposedLeaderEnds(u64),
    SchedulerStarts,
    Submit(usize),
    Cancel(usize),
    Retry(usize),
    /// Somebody orders something of a machine.
    Order(usize, Order),
    Fault,
    /// The fault of a machine is over.
    Recovers(usize),
    Heal,
}

pub(crate) struct World {
    pub(crate) event_queue: EventQueue<SimEvent>,
    pub(crate) rng: Rng,
    pub(crate) faults: bool,
    pub(crate) machines: Vec<Machine>,
    /// What waits for a paused agent.
    pub(crate) waiting: BTreeMap<usize, Vec<SimEvent>>,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) dialled: u64,
    pub(crate) config: CoreConfig,
    pub(crate) core: Option<Core>,
    pub(crate) leader_epoch: u64,
    pub(crate) deposed: Option<DeposedLeader>,
    /// The scheduler's clock, against the world's.
    pub(crate) skew_ms: i64,
    /// Whether that one is ever set.
    pub(crate) steps_clocks: bool,
    /// Whether machines have faults at times; what attempts meet there is all that they meet, then.
    pub(crate) has_machine_faults: bool,
    pub(crate) scheduler_life: u64,
    /// The cores that led, by leader epoch.
    pub(crate) sessions: BTreeMap<(u64, Session), u64>,
    pub(crate) next_session: u64,
    pub(crate) ticking: Option<Time>,
    pub(crate) crash_next: Option<CrashPoint>,
    pub(crate) store: Store,
    pub(crate) oracle: Oracle,
    pub(crate) fairness: Fairness,
    pub(crate) closed_slots: orders::ClosedSlots,
    pub(crate) clients: Vec<Client>,
    pub(crate) next_job: u128,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) faults_for: Duration,
    pub(crate) summary: Summary,
}

const LIMIT: Duration = Duration::from_secs(4 * 3600);
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

/// Tight enough for every limit to be met.
fn config(policy: Policy) -> CoreConfig {
    let user = |weight, running_gpus| UserLimits { weight, running_gpus, queued_jobs: None };
    CoreConfig {
        users: BTreeMap::from([("ada".to_owned(), user(1, Some(2))), ("bob".to_owned(), user(3, None))]),
        share_half_life: Duration::from_secs(300),
        keep_finished_for: Duration::from_secs(600),
        keep_finished: 12,
        // Some are lost for so long.
        keep_agents_for: Duration::from_secs(40),
        policy,
        // Jobs begin to starve within a run.
        patience: Duration::from_secs(300),
        ..CoreConfig::default()
    }
}

impl World {
    fn new(options: &Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let mut event_queue = EventQueue::new(Time(1_000_000_000));
        let machines: Vec<Machine> =
            (0..2 + rng.below(5)).map(|number| machine::draw_machine(&mut rng, number)).collect();
        for number in 0..machines.len() {
            event_queue.after(rng.millis(0, 5000), SimEvent::Dial(number, 1));
        }
        let clients: Vec<Client> =
            (0..8 + rng.below(16)).map(|number| client::draw_client(&mut rng, number)).collect();
        for number in 0..clients.len() {
            event_queue.after(rng.millis(0, 200_000), SimEvent::Submit(number));
        }
        event_queue.after(rng.millis(5000, 60_000), SimEvent::Fault);
        event_queue.after(options.faults_for, SimEvent::Heal);
        let steps_clocks = rng.once_in(2);
        let has_machine_faults = rng.once_in(2);
        let mut world = Self {
            event_queue,
            rng,
            faults: true,
            machines,
            waiting: BTreeMap::new(),
            connections: BTreeMap::new(),
            dialled: 0,
            config: config(options.policy),
            core: None,
            leader_epoch: 1,
            deposed: None,
            skew_ms: 0,
            steps_clocks,
            has_machine_faults,
            scheduler_life: 1,
            sessions: BTreeMap::new(),
            next_session: 1,
            ticking: None,
            crash_next: None,
            store: Store::default(),
            oracle: Oracle::new(!steps_clocks),
            fairness: Fairness::default(),
            closed_slots: orders::ClosedSlots::default(),
            clients,
            next_job: 1,
            mutant: options.mutant,
            faults_for: options.faults_for,
            summary: Summary::default(),
        };
        world.core = Some(Core::new(world.believed_config()));
        world
    }

    fn run(&mut self) -> Result<Summary, Violation> {
        let end = self.event_queue.now() + self.faults_for + LIMIT;
        while let Some(event) = self.event_queue.advance() {
            if self.event_queue.now() > end || self.all_ended() {
                break;
            }
            self.process(event)?;
        }
        self.oracle.check_end(&self.store)?;
        let count = |state| self.store.jobs.values().filter(|job| job.state == state).count();
        self.summary.forgotten = self.store.forgotten.len();
        self.summary.jobs = self.store.jobs.len();
        self.summary.succeeded = count(JobState::Succeeded);
        self.summary.failed = count(JobState::Failed);
        self.summary.cancelled = count(JobState::Cancelled);
        self.summary.attempts = self.store.jobs.values().map(|job| job.attempts.len()).sum();
        Ok(self.summary)
    }

    fn all_ended(&self) -> bool {
        let acknowledged = self.clients.iter().all(|client| !client.jobs.is_empty());
        !self.faults && acknowledged && self.store.jobs.values().all(|job| job.state.is_final())
    }

    fn process(&mut self, event: SimEvent) -> Result<(), Violation> {
        let Some(event) = self.hold_back(event) else { return Ok(()) };
        match event {
            SimEvent::AtScheduler(connection, message) => self.on_agent_message(connection, message),
            SimEvent::AtAgent(connection, command) => self.on_command(connection, command),
            SimEvent::SchedulerNotices(connection) => self.on_scheduler_notices(connection),
            SimEvent::AgentNotices(number, connection) => {
                if self.machines[number].connection == Some(connection) {
                    self.machines[number].connection = None;
                    self.dial_soon(number);
                }
                Ok(())
            }
            SimEvent::Dial(number, life) => {
                self.on_dial(number, life);
                Ok(())
            }
            SimEvent::Heartbeat(number, connection) => {
                self.on_heartbeat(number, connection);
                Ok(())
            }
            SimEvent::Train(number, life, attempt) => {
                self.on_train(number, life, attempt);
                Ok(())
            }
            SimEvent::Prefetched(number, life, called) => {
                self.on_prefetched(number, life, &called);
                Ok(())
            }
            SimEvent::AgentStarts(number) => {
                self.machines[number].up = true;
                self.dial_soon(number);
                Ok(())
            }
            SimEvent::AgentWakes(number) => self.on_wake(number),
            SimEvent::AgentExits(number, life) => {
                if self.machines[number].life == life {
                    self.kill(number, false, true);
                }
                Ok(())
            }
            SimEvent::Tick(life) => self.on_tick(life),
            SimEvent::Archive(life, job) => self.on_archive(life, job),
            SimEvent::DeposedLeaderEnds(leader_epoch) => {
                self.on_deposed_leader_ends(leader_epoch);
                Ok(())
            }
            SimEvent::SchedulerStarts => self.on_scheduler_starts(),
            SimEvent::Submit(client) => self.on_submit(client),
            SimEvent::Cancel(client) => self.on_cancel(client),
            SimEvent::Retry(client) => self.on_retry(client),
            SimEvent::Order(number, order) => self.on_order(number, order),
            SimEvent::Fault => self.on_fault(),
            SimEvent::Recovers(number) => self.on_recovers(number),
            SimEvent::Heal => {
                self.on_heal();
                Ok(())
            }
        }
    }

    /// A paused agent does nothing and hears nothing, until it wakes; its connection holds.
    fn hold_back(&mut self, event: SimEvent) -> Option<SimEvent> {
        let number = match &event {
            SimEvent::AtAgent(connection, _) => self.connections.get(connection)?.machine,
            SimEvent::AgentNotices(number, _)
            | SimEvent::Dial(number, _)
            | SimEvent::Heartbeat(number, _)
            | SimEvent::Prefetched(number, ..)
            | SimEvent::Train(number, ..) => *number,
            _ => return Some(event),
        };
        if self.machines[number].paused {
            self.waiting.entry(number).or_default().push(event);
            return None;
        }
        Some(event)
    }

    fn on_wake(&mut self, number: usize) -> Result<(), Violation> {
        self.machines[number].paused = false;
        for event in self.waiting.remove(&number).unwrap_or_default() {
            self.process(event)?;
        }
        Ok(())
    }

    fn on_heartbeat(&mut self, number: usize, id: u64) {
        if self.machines[number].connection != Some(id) {
            return;
        }
        let status = self.machines[number].status();
        self.send_from_agent(id, AgentMessage::Heartbeat(status));
        // It says again what was not acknowledged, sometimes what is on the way, too.
        if !self.faults || self.rng.once_in(3) {
            for report in self.machines[number].unacknowledged() {
                self.send_from_agent(id, AgentMessage::Report(report));
            }
        }
        self.event_queue.after(HEARTBEAT, SimEvent::Heartbeat(number, id));
    }

    fn on_command(&mut self, id: u64, command: Command) -> Result<(), Violation> {
        let Some(connection) = self.connections.get(&id).filter(|connection| connection.to_agent) else {
            return Ok(());
        };
        let number = connection.machine;
        if self.machines[number].connection != Some(id) {
            return Ok(());
        }
        match command {
            Command::Assign { assignment, .. } => {
                let planned_end = machine::draw_planned_end(
                    &mut self.rng,
                    self.faults && !self.has_machine_faults,
                    &assignment.spec.name,
                );
                let data = assignment.spec.train.data.to_string_lossy();
                let of_machine =
                    self.machines[number].fault.as_ref().and_then(|fault| fault.planned_end(&data));
                if of_machine.is_some() {
                    self.oracle.meets_machine_fault(assignment.attempt);
                }
                if let Some(machine::PlannedEnd::Unfit(unfit)) = &of_machine
                    && !unfit.path.is_empty()
                {
                    self.machines[number].missing.insert(unfit.path.clone());
                    self.send_status(number);
                }
                let planned_end = of_machine.unwrap_or(planned_end);
                self.machines[number].assign(&assignment, planned_end)?;
                self.machines[number].hold(&data, self.rng.once_in(4));
                let life = self.machines[number].life;
                let first = self.rng.millis(500, 8000);
                self.event_queue.after(first, SimEvent::Train(number, life, assignment.attempt));
            }
            Command::Stop { attempt, reason, .. } => {
                let told = self.machines[number].stop(self.event_queue.now(), attempt, reason);
                self.tell(number, told.into_iter().collect());
            }
            Command::ClearGpu { .. } => {}
            Command::Prefetch { reference, .. } => {
                let (machine, called) = (&mut self.machines[number], reference.to_string());
                if !machine.can_prefetch {
                    return Err(Violation::CannotPrefetch(machine.id()));
                }
                machine.prefetching = Some(called.clone());
                let life = machine.life;
                self.summary.prefetches += 1;
                let span = self.rng.millis(500, 60_000);
                self.event_queue.after(span, SimEvent::Prefetched(number, life, called));
            }
            Command::Revoke { attempt, .. } => self.machines[number].revoke(attempt),
            Command::Ack { attempt, sequence, .. } => self.machines[number].acknowledge(attempt, sequence),
        }
        Ok(())
    }

    fn on_prefetched(&mut self, number: usize, life: u32, called: &str) {
        let machine = &mut self.machines[number];
        // Another one may have taken its place.
        if machine.life == life && machine.prefetching.take_if(|coming| coming == called).is_some() {
            if !self.rng.once_in(4) {
                machine.hold(called, self.rng.once_in(4));
            }
            self.send_status(number);
        }
    }

    fn on_train(&mut self, number: usize, life: u32, attempt: trainyard_types::AttemptId) {
        if self.machines[number].life != life {
            return;
        }
        let (told, lives) = self.machines[number].train(self.event_queue.now(), attempt);
        self.tell(number, told);
        if lives {
            let next = machine::epoch_time(&mut self.rng);
            self.event_queue.after(next, SimEvent::Train(number, life, attempt));
        }
    }

    pub(crate) fn tell(&mut self, number: usize, reports: Vec<Report>) {
        if let Some(id) = self.machines[number].connection {
            for report in reports {
                self.send_from_agent(id, AgentMessage::Report(report));
            }
        }
    }

    /// The agent's process dies; if it `returns`, it is started again later.
    pub(crate) fn kill(&mut self, number: usize, disk_lost: bool, returns: bool) {
        self.waiting.remove(&number);
        if let Some(id) = self.machines[number].connection {
            // The machine may be gone with its process: then nothing closes the connection.
            let notice = if self.rng.once_in(2) { Duration::from_secs(1) } else { Duration::from_secs(90) };
            self.cut(id, notice);
        }
        self.machines[number].kill(self.event_queue.now(), disk_lost);
        if returns {
            self.event_queue.after(self.rng.millis(100, 90_000), SimEvent::AgentStarts(number));
        }
    }
}
