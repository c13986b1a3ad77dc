//! A core with a store beside it, and short ways to say what happens.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_scheduler_core::{
    AgentRecord, AgentStatus, Command, Core, CoreConfig, Event, EventBody, EventRecord, Hello, JobRecord,
    Output, Stored, ThroughputRecord, UserRecord, Write, invariants,
};
use trainyard_types::trainer::{Started, TrainerEvent};
use trainyard_types::{
    AgentId, Assignment, AttemptId, DataRoot, DeviceKind, EndReason, Ended, Fitness, Gpu, GpuTelemetry,
    GpuUuid, Inventory, JobId, JobSpec, ModelScale, Report, ReportBody, Resources, Session, SlotReleased,
    Time, TrainSpec, Unavailable, UnavailableCause, Unfit, UnfitKind,
};
use uuid::Uuid;

pub const START: Time = Time(1_000_000);

pub fn job(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

pub fn agent(number: u128) -> AgentId {
    AgentId(Uuid::from_u128(number << 64))
}

pub fn attempt(number: u128, attempt: u32) -> AttemptId {
    AttemptId { job: job(number), number: attempt }
}

pub fn spec() -> JobSpec {
    let train = TrainSpec::new(ModelScale::N, "/data/data.yaml");
    JobSpec { name: "cells".into(), max_retries: 2, ..JobSpec::new(train) }
}

pub fn cpu_spec() -> JobSpec {
    JobSpec { resources: Resources { device: DeviceKind::Cpu, ..Resources::default() }, ..spec() }
}

pub fn gpu(name: &str, index: u32, model: &str, memory_total_mib: u64) -> Gpu {
    Gpu {
        uuid: GpuUuid(format!("GPU-{name}")),
        index,
        model: model.into(),
        memory_total_mib,
        compute_capability: None,
    }
}

pub fn rtx_4090(name: &str) -> Gpu {
    gpu(name, 0, "NVIDIA GeForce RTX 4090", 24564)
}

pub fn rtx_5070(name: &str) -> Gpu {
    gpu(name, 0, "NVIDIA GeForce RTX 5070", 12227)
}

/// Agent `number` is called `lab-NUMBER`.
pub fn hello(number: u128, gpus: Vec<Gpu>, cpu_slots: u32, attempts: Vec<AttemptId>) -> Hello {
    let inventory = Inventory { gpus, cpu_slots, memory_total_mib: 65536, ..Inventory::default() };
    Hello { attempts, ..Hello::new(agent(number), format!("lab-{number}"), "0.1.0".into(), inventory) }
}

/// A GPU that takes no job.
pub fn closed(gpu: &Gpu, cause: UnavailableCause) -> AgentStatus {
    let unavailable = Some(Unavailable { cause, message: "what was seen".into() });
    let reading = GpuTelemetry { uuid: gpu.uuid.clone(), unavailable, ..GpuTelemetry::default() };
    AgentStatus { telemetry: vec![reading], ..AgentStatus::default() }
}

pub fn started() -> ReportBody {
    ReportBody::Trainer(TrainerEvent::Started(Started {
        parameters: 3_000_000,
        train_images: 100,
        val_images: 10,
        classes: vec!["cell".into()],
        epochs: 50,
        batch_size: 16,
        first_epoch: 1,
        device: "cpu".into(),
        ..Started::default()
    }))
}

pub fn ended(reason: EndReason) -> ReportBody {
    let message = "what the agent says".into();
    ReportBody::Ended(Ended { reason, message, artifacts: Vec::new(), unfit: None })
}

/// The machine lacks something, a path or other.
pub fn unfit(kind: UnfitKind, path: &str) -> ReportBody {
    let message =
        if path.is_empty() { "the trainer is not there".into() } else { format!("{path} is not there") };
    let unfit = Unfit { kind, path: path.into(), message: message.clone() };
    let reason = EndReason::AgentUnfit;
    ReportBody::Ended(Ended { reason, message, artifacts: Vec::new(), unfit: Some(unfit) })
}

/// Its trainer has ended, and this is what its results wait for.
pub fn released(waits_for: &str) -> ReportBody {
    ReportBody::SlotReleased(SlotReleased { waits_for: waits_for.into(), is_trained: true })
}

/// What a machine says that has these roots, each with what is wrong with it, and lacks these paths.
pub fn fitness(roots: &[(&str, &str)], missing: &[&str]) -> AgentStatus {
    let root = |(path, problem): &(&str, &str)| DataRoot { path: (*path).into(), problem: (*problem).into() };
    let fitness = Fitness {
        data_roots: Some(roots.iter().map(root).collect()),
        missing_paths: missing.iter().map(|path| (*path).into()).collect(),
        ..Fitness::default()
    };
    AgentStatus { fitness, ..AgentStatus::default() }
}

/// What is stored, with the store's own checks.
#[derive(Debug, Clone, Default)]
pub struct Store {
    pub jobs: BTreeMap<JobId, JobRecord>,
    pub agents: BTreeMap<AgentId, AgentRecord>,
    pub users: BTreeMap<String, UserRecord>,
    pub throughput: BTreeMap<String, ThroughputRecord>,
    pub events: BTreeMap<JobId, Vec<EventRecord>>,
}

impl Store {
    pub fn apply(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Job(job) => {
                    let stored = self.jobs.insert(job.id, (**job).clone());
                    assert_eq!(
                        stored.map_or(0, |job| job.revision) + 1,
                        job.revision,
                        "revisions go up by one"
                    );
                }
                Write::JobGroup(batch) => self.jobs.extend(batch.jobs().map(|job| (job.id, job))),
                Write::Progress(progress) => {
                    self.jobs.get_mut(&progress.job).unwrap().apply_progress(progress.clone());
                }
                Write::Agent(agent) => {
                    self.agents.insert(agent.id, agent.clone());
                }
                Write::ForgetAgent(agent) => assert!(self.agents.remove(agent).is_some(), "{agent}"),
                Write::Throughput(record) => drop(self.throughput.insert(record.key(), record.clone())),
                Write::ForgetThroughput(key) => drop(self.throughput.remove(key)),
                Write::User(user) => {
                    self.users.insert(user.name.clone(), user.clone());
                }
                Write::Forget { job, .. } => {
                    assert!(self.jobs.remove(job).is_some_and(|job| job.state.is_final()), "{job}");
                    self.events.remove(job);
                }
                Write::ForgetJobGroup(batch) => {
                    assert!(batch.ids().all(|job| !self.jobs.contains_key(&job)), "no job is left");
                }
                Write::ForgetUser(user) => {
                    assert!(self.users.remove(user).is_some(), "{user}");
                }
                Write::JobEvents { job, events } => {
                    let stored = self.events.entry(*job).or_default();
                    for event in events {
                        stored.push(event.clone());
                        assert_eq!(
                            event.cursor,
                            stored.len() as u64 + 1,
                            "cursors go on after the first, without gaps"
                        );
                    }
                }
            }
        }
        for (id, job) in &self.jobs {
            let stored = self.events.get(id).map_or(0, Vec::len) as u64;
            assert_eq!(job.last_cursor, stored + 1, "a record knows its newest event");
        }
    }

    /// What a restarted scheduler reads.
    pub fn stored(&self) -> Stored {
        let (jobs, agents, users) = (&self.jobs, &self.agents, &self.users);
        Stored {
            jobs: jobs.values().cloned().collect(),
            agents: agents.values().cloned().collect(),
            users: users.values().cloned().collect(),
            throughput: self.throughput.values().cloned().collect(),
        }
    }
}

pub struct World {
    pub core: Core,
    pub now: Time,
    pub store: Store,
    /// Asked for and not answered.
    pub archives: Vec<JobId>,
    sessions: u64,
}

impl World {
    pub fn new() -> Self {
        Self::with(CoreConfig::default())
    }

    pub fn with(config: CoreConfig) -> Self {
        Self { core: Core::new(config), now: START, store: Store::default(), archives: vec![], sessions: 0 }
    }

    /// One agent, `lab-1`, with one CPU slot, by session 1.
    pub fn with_cpu_agent() -> Self {
        Self::with_cpu_agents(1)
    }

    /// So many agents, `lab-1` and so on, with one CPU slot each.
    pub fn with_cpu_agents(count: u128) -> Self {
        let mut world = Self::new();
        for number in 1..=count {
            world.connect(hello(number, vec![], 1, vec![]));
        }
        world
    }

    pub fn handle(&mut self, event: Event) -> Output {
        if let Event::Archived { job, .. } = event {
            self.archives.retain(|asked| *asked != job);
        }
        let output = self.core.handle(self.now, event);
        self.archives.extend(&output.archive);
        invariants::check(&self.core).unwrap();
        self.store.apply(&output.writes);
        assert!(self.store.jobs.values().eq(self.core.jobs()), "what is stored is what the core knows");
        output
    }

    /// Lets time pass, with the ticks that the core asks for.
    pub fn pass(&mut self, span: Duration) -> Vec<Output> {
        let end = self.now + span;
        let mut outputs = Vec::new();
        while let Some(deadline) = self.core.next_deadline().filter(|&deadline| deadline <= end) {
            self.now = deadline;
            outputs.push(self.handle(Event::Tick));
        }
        self.now = end;
        outputs
    }

    pub fn submit(&mut self, number: u128, spec: JobSpec) -> Output {
        self.submit_as("ada", number, spec)
    }

    pub fn submit_as(&mut self, user: &str, number: u128, spec: JobSpec) -> Output {
        self.handle(Event::Submit { request_id: None, job: job(number), user: user.into(), spec })
    }

    pub fn cancel(&mut self, number: u128) -> Output {
        self.handle(Event::Cancel { job: job(number) })
    }

    pub fn retry(&mut self, number: u128) -> Output {
        self.handle(Event::Retry { job: job(number) })
    }

    /// Opens the next session.
    pub fn connect(&mut self, hello: Hello) -> Output {
        self.sessions += 1;
        self.handle(Event::AgentConnected { session: Session(self.sessions), hello })
    }

    pub fn disconnect(&mut self, number: u128) -> Output {
        let session = self.session(agent(number));
        self.handle(Event::AgentDisconnected { agent: agent(number), session })
    }

    /// As [`World::heartbeat`], with what the agent says of itself.
    pub fn beat(&mut self, number: u128, status: AgentStatus) -> Output {
        let session = self.session(agent(number));
        self.handle(Event::Heartbeat { agent: agent(number), session, status })
    }

    pub fn heartbeat(&mut self, number: u128) -> Output {
        let session = self.session(agent(number));
        self.handle(Event::Heartbeat { agent: agent(number), session, status: AgentStatus::default() })
    }

    /// The agent that holds the attempt reports next what it did not report yet.
    pub fn report(&mut self, id: AttemptId, body: ReportBody) -> Output {
        let attempt = &self.core.job(id.job).unwrap().attempts[id.number as usize - 1];
        let (agent, sequence) = (attempt.agent, attempt.last_sequence + 1);
        self.report_as(agent, id, sequence, body)
    }

    pub fn report_as(
        &mut self,
        agent: AgentId,
        attempt: AttemptId,
        sequence: u64,
        body: ReportBody,
    ) -> Output {
        let report = Report { attempt, sequence, time: self.now, body };
        let session = self.session(agent);
        self.handle(Event::Report { agent, session, report })
    }

    pub fn session(&self, agent: AgentId) -> Session {
        self.core.agent(agent).and_then(|agent| agent.session).unwrap_or(Session(999))
    }

    pub fn record(&self, number: u128) -> &JobRecord {
        self.core.job(job(number)).unwrap()
    }

    /// The job's events in few words.
    pub fn history(&self, number: u128) -> Vec<String> {
        let body = |event: &EventRecord| match &event.body {
            EventBody::State { state, .. } => format!("{} {state}", event.attempt),
            EventBody::Metrics { epoch, batch, .. } => {
                format!("{} epoch {epoch} batch {batch}", event.attempt)
            }
            EventBody::Log { message, .. } => format!("{} {message}", event.attempt),
        };
        let first = self.record(number).first_event();
        let stored = self.store.events.get(&job(number));
        [&first].into_iter().chain(stored.into_iter().flatten()).map(body).collect()
    }
}

/// Commands in few words: `assign 1/1 to 1`.
pub fn commands(output: &Output) -> Vec<String> {
    let short = |attempt: AttemptId| format!("{}/{}", attempt.job.0.as_u128(), attempt.number);
    let whom = |agent: AgentId| agent.0.as_u128() >> 64;
    let line = |command: &Command| match command {
        Command::Assign { agent, assignment, .. } => {
            let Assignment { attempt, .. } = **assignment;
            format!("assign {} to {}", short(attempt), whom(*agent))
        }
        Command::Stop { agent, attempt, reason, .. } => {
            format!("stop {} at {} {reason}", short(*attempt), whom(*agent))
        }
        Command::ClearGpu { agent, gpu: Some(gpu), .. } => format!("clear {gpu} at {}", whom(*agent)),
        Command::ClearGpu { agent, gpu: None, .. } => format!("clear all at {}", whom(*agent)),
        Command::Prefetch { agent, reference, .. } => {
            format!("prefetch {} at {}", reference.name(), whom(*agent))
        }
        Command::Revoke { agent, attempt, .. } => format!("revoke {} at {}", short(*attempt), whom(*agent)),
        Command::Ack { agent, attempt, sequence, .. } => {
            format!("ack {} #{sequence} to {}", short(*attempt), whom(*agent))
        }
    };
    output.commands.iter().map(line).collect()
}
