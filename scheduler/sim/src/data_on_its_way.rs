//! What it costs to bring data to machines: jobs on machines of which some hold their data set and others must fetch it,
//! with prefetching and without.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trainyard_scheduler_core::{AgentStatus, Command, Core, CoreConfig, Event, Hello, Policy};
use trainyard_types::trainer::{Epoch, Started, Step, TrainerEvent};
use trainyard_types::{
    AgentId, Assignment, AttemptId, EndReason, Ended, Fetching, Fitness, Gpu, GpuUuid, Inventory, JobId,
    JobSpec, ModelScale, Prefetching, Report, ReportBody, Session, Time, TrainSpec,
};
use uuid::Uuid;

use crate::engine::EventQueue;

const START: Time = Time(1_000_000_000);
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Jobs that teach the scheduler a GPU's rate and the line's speed: as many as its means remember.
const LESSONS: usize = 20;
/// A lesson's bytes: enough to tell the line's speed.
const LESSON_BYTES: u64 = 64 << 20;
const LESSON_EPOCHS: u32 = 2;
/// A scheduler that still places nothing after this has a fault.
const LIMIT: Duration = Duration::from_secs(14 * 24 * 3600);

/// A data set of the cluster's store.
#[derive(Debug, Clone, Copy)]
pub struct DataSet {
    pub bytes: u64,
    pub images: u64,
}

/// A machine with one GPU.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// The GPU's model, which is no other machine's.
    pub model: &'static str,
    /// Images that it trains a second.
    pub rate: f64,
    /// The data sets that it holds, by their numbers.
    pub holds: Vec<usize>,
}

/// The machines, data sets and jobs that are simulated.
#[derive(Debug, Clone)]
pub struct Lab {
    pub policy: Policy,
    /// Bytes a second that one machine fetches.
    pub line: f64,
    pub machines: Vec<MachineSpec>,
    pub data_sets: Vec<DataSet>,
    /// The data set's number and the epochs of each job; all are submitted at once, in this order.
    pub jobs: Vec<(usize, u32)>,
    /// Whether agents can prefetch.
    pub prefetches: bool,
}

/// When and where a job trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub machine: usize,
    pub placed: Time,
    /// When its data set was there.
    pub trains: Time,
    pub ended: Time,
}

impl Lab {
    /// Teaches the scheduler what the machines can do, and then runs the jobs. Returns what became of each, and how often
    /// an agent was told to prefetch.
    ///
    /// # Panics
    /// A job does not end.
    pub fn run(&self) -> (Vec<Run>, usize) {
        let mut cluster = Cluster::new(self);
        for lesson in 0..LESSONS * self.machines.len() {
            cluster.teach(lesson);
            cluster.run_until_all_ended();
        }
        for (at, held) in self.machines.iter().enumerate() {
            // The size of a version is known of the first who has fetched it.
            for &data in &held.holds {
                cluster.submit(Data::Set(data), 1, Some(at));
                cluster.run_until_all_ended();
            }
        }
        let first = cluster.submitted;
        cluster.prefetched = 0;
        for &(data, epochs) in &self.jobs {
            cluster.submit(Data::Set(data), epochs, None);
        }
        cluster.run_until_all_ended();
        let runs = (first..cluster.submitted).filter_map(|job| cluster.runs.get(&job).copied());
        (runs.collect(), cluster.prefetched)
    }

    /// How long the data set comes.
    pub fn fetch(&self, data: usize) -> Duration {
        Duration::from_secs_f64(self.data_sets[data].bytes as f64 / self.line)
    }

    /// How long a machine trains a job.
    pub fn training(&self, machine: usize, data: usize, epochs: u32) -> Duration {
        let images = self.data_sets[data].images as f64 * f64::from(epochs);
        Duration::from_secs_f64(images / self.machines[machine].rate)
    }
}

/// What a job trains on: something to learn from, or one of the data sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Data {
    Lesson(usize),
    Set(usize),
}

impl Data {
    fn version(self) -> String {
        match self {
            Self::Lesson(number) => format!("{:064x}", 0x1000 + number),
            Self::Set(number) => format!("{:064x}", 0x1000_0000 + number),
        }
    }

    fn path(self) -> String {
        format!("data@{}", self.version())
    }
}

enum SimEvent {
    Heartbeat(usize),
    Tell(usize, AttemptId, ReportBody),
    /// A fetch is over; a prefetch has its number.
    Arrived(usize, Data, Option<u64>),
}

/// What comes to a machine before its job does.
#[derive(Debug, Clone, Copy)]
struct Coming {
    data: Data,
    number: u64,
    whole_at: Time,
}

#[derive(Debug, Default)]
struct Machine {
    held: BTreeSet<Data>,
    coming: Option<Coming>,
}

struct Cluster<'a> {
    lab: &'a Lab,
    core: Core,
    event_queue: EventQueue<SimEvent>,
    machines: Vec<Machine>,
    jobs: BTreeMap<u128, (Data, u32)>,
    runs: BTreeMap<u128, Run>,
    sequences: BTreeMap<AttemptId, u64>,
    submitted: u128,
    ended: usize,
    prefetched: usize,
}

fn id(machine: usize) -> AgentId {
    AgentId(Uuid::from_u128(machine as u128 + 1))
}

fn session(machine: usize) -> Session {
    Session(machine as u64 + 1)
}

impl<'a> Cluster<'a> {
    fn new(lab: &'a Lab) -> Self {
        let core = Core::new(CoreConfig { policy: lab.policy, ..CoreConfig::default() });
        let machines = lab.machines.iter().map(|_| Machine::default()).collect();
        let (jobs, runs, sequences) = Default::default();
        let event_queue = EventQueue::new(START);
        let mut cluster = Self {
            lab,
            core,
            event_queue,
            machines,
            jobs,
            runs,
            sequences,
            submitted: 1,
            ended: 0,
            prefetched: 0,
        };
        for (machine, spec) in lab.machines.iter().enumerate() {
            let gpu = Gpu {
                uuid: GpuUuid(format!("GPU-{machine}")),
                index: 0,
                model: spec.model.into(),
                memory_total_mib: 24564,
                compute_capability: None,
            };
            let inventory = Inventory { gpus: vec![gpu], memory_total_mib: 65536, ..Inventory::default() };
            let hello = Hello {
                status: cluster.status(machine),
                ..Hello::new(id(machine), format!("lab-{machine}"), "sim".into(), inventory)
            };
            cluster.handle(Event::AgentConnected { session: session(machine), hello });
            cluster.event_queue.after(HEARTBEAT, SimEvent::Heartbeat(machine));
        }
        cluster
    }

    fn data_set(&self, data: Data) -> DataSet {
        match data {
            Data::Lesson(_) => DataSet { bytes: LESSON_BYTES, images: 1000 },
            Data::Set(number) => self.lab.data_sets[number],
        }
    }

    /// A short job on one machine, with a data set that nobody else has.
    fn teach(&mut self, lesson: usize) {
        self.submit(Data::Lesson(lesson), LESSON_EPOCHS, Some(lesson % self.machines.len()));
    }

    fn submit(&mut self, data: Data, epochs: u32, only: Option<usize>) {
        let job = self.submitted;
        self.submitted += 1;
        let mut spec = JobSpec::new(TrainSpec::new(ModelScale::N, data.path()));
        spec.train.epochs = epochs;
        spec.resources.gpu_models = only.map(|at| self.lab.machines[at].model.into()).into_iter().collect();
        self.jobs.insert(job, (data, epochs));
        let job = JobId(Uuid::from_u128(job));
        self.handle(Event::Submit { request_id: None, job, user: "ada".into(), spec });
    }

    fn run_until_all_ended(&mut self) {
        let end = self.event_queue.now() + LIMIT;
        while self.ended < self.jobs.len() {
            let due = self.core.next_deadline();
            assert!(self.event_queue.now() < end, "a job never ended");
            match due.filter(|due| *due <= self.event_queue.now()) {
                Some(_) => self.handle(Event::Tick),
                None => match self.event_queue.advance() {
                    Some(event) => self.process(event),
                    None => return,
                },
            }
        }
    }

    fn process(&mut self, event: SimEvent) {
        match event {
            SimEvent::Heartbeat(machine) => {
                self.send_status(machine);
                self.event_queue.after(HEARTBEAT, SimEvent::Heartbeat(machine));
            }
            SimEvent::Tell(machine, attempt, body) => self.tell(machine, attempt, body),
            SimEvent::Arrived(machine, data, number) => {
                let coming = self.machines[machine].coming;
                if number.is_some() {
                    if coming.map(|coming| coming.number) != number {
                        return; // It gave way, or another one took its place.
                    }
                    self.machines[machine].coming = None;
                }
                self.machines[machine].held.insert(data);
                self.send_status(machine);
            }
        }
    }

    fn tell(&mut self, machine: usize, attempt: AttemptId, body: ReportBody) {
        if let ReportBody::Ended(_) = body {
            self.ended += 1;
            if let Some(run) = self.runs.get_mut(&attempt.job.0.as_u128()) {
                run.ended = self.event_queue.now();
            }
        }
        let sequence = self.sequences.entry(attempt).or_default();
        *sequence += 1;
        let report = Report { attempt, sequence: *sequence, time: self.event_queue.now(), body };
        self.handle(Event::Report { agent: id(machine), session: session(machine), report });
    }

    fn status(&self, machine: usize) -> AgentStatus {
        let of = &self.machines[machine];
        let now = of.coming.map(|coming| {
            let total_bytes = self.data_set(coming.data).bytes;
            let left = coming.whole_at.since(self.event_queue.now()).as_secs_f64() * self.lab.line;
            let done_bytes = total_bytes.saturating_sub(left as u64);
            Fetching { what: coming.data.path(), done_bytes, total_bytes, bytes_per_second: self.lab.line }
        });
        let fitness = Fitness {
            data_roots: Some(Vec::new()),
            held_versions: Some(of.held.iter().map(|data| data.version()).collect()),
            prefetching: self.lab.prefetches.then_some(Prefetching { now }),
            ..Fitness::default()
        };
        AgentStatus { fitness, ..AgentStatus::default() }
    }

    fn send_status(&mut self, machine: usize) {
        let status = self.status(machine);
        self.handle(Event::Heartbeat { agent: id(machine), session: session(machine), status });
    }

    fn handle(&mut self, event: Event) {
        let output = self.core.handle(self.event_queue.now(), event);
        for command in output.commands {
            let machine_of = |agent| (0..self.machines.len()).find(|&machine| id(machine) == agent);
            match command {
                Command::Assign { agent, assignment, .. } => {
                    if let Some(machine) = machine_of(agent) {
                        self.begin(machine, &assignment);
                    }
                }
                Command::Prefetch { agent, reference, .. } => {
                    let named = self.jobs.values().find(|(data, _)| data.path() == reference.to_string());
                    if let (Some(machine), Some(&(data, _))) = (machine_of(agent), named) {
                        self.prefetch(machine, data);
                    }
                }
                // Nothing is preempted: no checkpoint is told of.
                Command::Stop { .. }
                | Command::ClearGpu { .. }
                | Command::Revoke { .. }
                | Command::Ack { .. } => {}
            }
        }
    }

    fn prefetch(&mut self, machine: usize, data: Data) {
        self.prefetched += 1;
        let seconds = self.data_set(data).bytes as f64 / self.lab.line;
        self.come(machine, data, Duration::from_secs_f64(seconds));
    }

    fn come(&mut self, machine: usize, data: Data, span: Duration) {
        let number = self.prefetched as u64 * 1000 + self.submitted as u64;
        let whole_at = self.event_queue.now() + span;
        self.machines[machine].coming = Some(Coming { data, number, whole_at });
        self.event_queue.at(whole_at, SimEvent::Arrived(machine, data, Some(number)));
    }

    /// Fetches what is missing, and trains then.
    fn begin(&mut self, machine: usize, assignment: &Assignment) {
        let (attempt, job) = (assignment.attempt, assignment.attempt.job.0.as_u128());
        let Some(&(data, epochs)) = self.jobs.get(&job) else { return };
        let now = self.event_queue.now();
        let of = &mut self.machines[machine];
        let all = self.lab.line;
        let mut missing = Duration::ZERO;
        if !of.held.contains(&data) {
            // It goes on with what was prefetched of the same data set.
            missing = match of.coming.take_if(|coming| coming.data == data) {
                Some(coming) => coming.whole_at.since(now),
                None => Duration::from_secs_f64(self.data_set(data).bytes as f64 / all),
            };
            let total_bytes = (missing.as_secs_f64() * all) as u64;
            let told = |done_bytes, bytes_per_second| {
                let what = data.path();
                ReportBody::Fetching(Fetching { what, done_bytes, total_bytes, bytes_per_second })
            };
            self.tell_after(Duration::ZERO, machine, attempt, told(0, 0.0));
            self.tell_after(missing, machine, attempt, told(total_bytes, all));
            self.event_queue.after(missing, SimEvent::Arrived(machine, data, None));
        }
        let run = Run { machine, placed: now, trains: now + missing, ended: now };
        self.runs.insert(job, run);
        self.train(machine, attempt, data, epochs, missing);
    }

    fn tell_after(&mut self, after: Duration, machine: usize, attempt: AttemptId, body: ReportBody) {
        self.event_queue.after(after, SimEvent::Tell(machine, attempt, body));
    }

    fn train(&mut self, machine: usize, attempt: AttemptId, data: Data, epochs: u32, after: Duration) {
        let images = self.data_set(data).images;
        let rate = self.lab.machines[machine].rate;
        let epoch_takes = Duration::from_secs_f64(images as f64 / rate);
        let event = ReportBody::Trainer;
        let started = Started { epochs, first_epoch: 1, train_images: images, ..Started::default() };
        self.tell_after(after, machine, attempt, event(TrainerEvent::Started(started)));
        let step = Step { epoch: 1, batch: 1, batches: 100, images_per_second: rate, ..Step::default() };
        self.tell_after(after + epoch_takes / 100, machine, attempt, event(TrainerEvent::Step(step)));
        for epoch in 1..=epochs {
            let seconds = epoch_takes.as_secs_f64() * f64::from(epoch);
            let told = Epoch { epoch, epochs, seconds, images_per_second: rate, ..Epoch::default() };
            self.tell_after(after + epoch_takes * epoch, machine, attempt, event(TrainerEvent::Epoch(told)));
        }
        let (message, artifacts) = (String::new(), Vec::new());
        let ended = Ended { reason: EndReason::Completed, message, artifacts, unfit: None };
        self.tell_after(after + epoch_takes * epochs, machine, attempt, ReportBody::Ended(ended));
    }
}
