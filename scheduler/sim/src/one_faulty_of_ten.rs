//! What one faulty machine of ten costs: the same queue on nine machines, on ten, and on ten of which one is faulty.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trainyard_scheduler_core::{AgentStatus, Command, Core, CoreConfig, Event, Hello, Policy};
use trainyard_types::trainer::{Epoch, Started, Step, TrainerEvent};
use trainyard_types::{
    AgentId, Assignment, AttemptId, EndReason, Ended, Fitness, Gpu, GpuUuid, Inventory, JobId, JobSpec,
    JobState, ModelScale, Report, ReportBody, Session, SlotReleased, Time, TrainSpec, Unfit, UnfitKind,
};
use uuid::Uuid;

const MACHINES: u64 = 10;
/// Jobs in the queue: more than all machines can do in [`SPAN`].
const JOBS: u64 = 400;
const USERS: u64 = 5;
/// How long a job trains.
const LENGTH: Duration = Duration::from_secs(600);
/// How long the queue runs.
const SPAN: Duration = Duration::from_secs(4 * 3600);
const HEARTBEAT: Duration = Duration::from_secs(10);
const DATA: &str = "/data/data.yaml";
const START: Time = Time(1_000_000_000);

/// What is wrong with the first machine, all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineState {
    Healthy,
    /// The machine is not there.
    Absent,
    /// It lacks the data set.
    LacksPath,
    /// It has no trainer, and does not notice that by itself.
    NoTrainer,
    /// Trainers crash there after two seconds.
    Crashes,
    /// Trainers hang there, and are ended after five and a half minutes.
    Hangs,
    /// It trains, and hands nothing in.
    CannotUpload,
}

impl MachineState {
    /// Every fault of a machine that is there.
    pub const FAULTY: [Self; 5] =
        [Self::LacksPath, Self::NoTrainer, Self::Crashes, Self::Hangs, Self::CannotUpload];
}

/// What became of the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Jobs that have succeeded.
    pub succeeded: usize,
    /// Jobs that have failed, although nothing is wrong with any.
    pub failed: usize,
    /// Attempts of all jobs.
    pub attempts: usize,
}

/// Runs the queue for four hours. With `opens_at_once` whatever the scheduler closes a person opens, as if it
/// noticed nothing.
pub fn run(policy: Policy, first_machine: MachineState, opens_at_once: bool) -> Outcome {
    let mut cluster = Cluster::new(policy, first_machine, opens_at_once);
    cluster.run();
    let count = |state| cluster.core.count(state);
    Outcome {
        succeeded: count(JobState::Succeeded),
        failed: count(JobState::Failed),
        attempts: cluster.core.jobs().map(|job| job.attempts.len()).sum(),
    }
}

enum SimEvent {
    Heartbeat(u64),
    Tell(u64, AttemptId, ReportBody),
}

struct Cluster {
    core: Core,
    now: Time,
    first_machine: MachineState,
    opens_at_once: bool,
    event_queue: BTreeMap<(Time, u64), SimEvent>,
    planned: u64,
    sequences: BTreeMap<AttemptId, u64>,
    missing: BTreeSet<String>,
}

fn id(number: u64) -> AgentId {
    AgentId(Uuid::from_u128(u128::from(number) + 1))
}

fn hello(number: u64) -> Hello {
    let gpu = Gpu {
        uuid: GpuUuid(format!("GPU-{number}")),
        index: 0,
        model: "NVIDIA GeForce RTX 4090".into(),
        memory_total_mib: 24564,
        compute_capability: None,
    };
    let inventory = Inventory { gpus: vec![gpu], memory_total_mib: 65536, ..Inventory::default() };
    Hello::new(id(number), format!("lab-{number}"), "sim".into(), inventory)
}

impl Cluster {
    fn new(policy: Policy, first_machine: MachineState, opens_at_once: bool) -> Self {
        let core = Core::new(CoreConfig { policy, ..CoreConfig::default() });
        let (event_queue, sequences, missing) = Default::default();
        let mut cluster = Self {
            core,
            now: START,
            first_machine,
            opens_at_once,
            event_queue,
            planned: 0,
            sequences,
            missing,
        };
        for number in u64::from(first_machine == MachineState::Absent)..MACHINES {
            cluster.handle(Event::AgentConnected { session: Session(number + 1), hello: hello(number) });
            cluster.plan(HEARTBEAT, SimEvent::Heartbeat(number));
        }
        for number in 0..JOBS {
            let job = JobId(Uuid::from_u128(u128::from(number) + 1));
            let spec = JobSpec::new(TrainSpec::new(ModelScale::N, DATA));
            let user = format!("user-{}", number % USERS);
            cluster.handle(Event::Submit { request_id: None, job, user, spec });
        }
        cluster
    }

    fn run(&mut self) {
        let end = START + SPAN;
        while let Some((&(time, _), _)) = self.event_queue.first_key_value() {
            let due = self.core.next_deadline().filter(|&due| due <= time);
            self.now = self.now.max(due.unwrap_or(time));
            if self.now > end {
                return;
            }
            if due.is_some() {
                self.handle(Event::Tick);
            } else if let Some((_, event)) = self.event_queue.pop_first() {
                self.process(event);
            }
        }
    }

    fn plan(&mut self, after: Duration, event: SimEvent) {
        self.planned += 1;
        self.event_queue.insert((self.now + after, self.planned), event);
    }

    fn process(&mut self, event: SimEvent) {
        match event {
            SimEvent::Heartbeat(number) => {
                self.send_status(number);
                self.plan(HEARTBEAT, SimEvent::Heartbeat(number));
            }
            SimEvent::Tell(number, attempt, body) => {
                let Some(sequence) = self.sequences.get_mut(&attempt) else { return };
                *sequence += 1;
                let report = Report { attempt, sequence: *sequence, time: self.now, body };
                self.handle(Event::Report { agent: id(number), session: Session(number + 1), report });
            }
        }
    }

    fn send_status(&mut self, number: u64) {
        let missing_paths = if number == 0 { self.missing.iter().cloned().collect() } else { Vec::new() };
        let fitness = Fitness { missing_paths, ..Fitness::default() };
        let status = AgentStatus { fitness, ..AgentStatus::default() };
        self.handle(Event::Heartbeat { agent: id(number), session: Session(number + 1), status });
    }

    fn handle(&mut self, event: Event) {
        let output = self.core.handle(self.now, event);
        for command in output.commands {
            match command {
                Command::Assign { agent, assignment, .. } => self.begin(agent, &assignment),
                Command::Stop { attempt, reason, .. } => self.stop(attempt, reason),
                Command::ClearGpu { .. }
                | Command::Revoke { .. }
                | Command::Ack { .. }
                | Command::Prefetch { .. } => {}
            }
        }
        if self.opens_at_once && self.core.shut_slots() > 0 {
            self.handle(Event::ClearGpu { agent: id(0), gpu: None });
        }
    }

    fn begin(&mut self, agent: AgentId, assignment: &Assignment) {
        let attempt = assignment.attempt;
        let Some(number) = (0..MACHINES).find(|&number| id(number) == agent) else { return };
        self.sequences.insert(attempt, 0);
        let state = if number == 0 { self.first_machine } else { MachineState::Healthy };
        match state {
            MachineState::Healthy | MachineState::Absent | MachineState::CannotUpload => {
                self.train(number, attempt, state);
            }
            MachineState::LacksPath => {
                self.missing.insert(DATA.to_owned());
                self.send_status(number);
                self.tell_end(number, attempt, 200, EndReason::AgentUnfit, Some(UnfitKind::PathMissing));
            }
            MachineState::NoTrainer => {
                self.tell_end(number, attempt, 200, EndReason::AgentUnfit, Some(UnfitKind::TrainerMissing));
            }
            MachineState::Crashes => self.tell_end(number, attempt, 2000, EndReason::TrainerCrash, None),
            MachineState::Hangs => self.tell_end(number, attempt, 330_000, EndReason::Stalled, None),
        }
    }

    fn tell_end(
        &mut self,
        number: u64,
        attempt: AttemptId,
        millis: u64,
        reason: EndReason,
        kind: Option<UnfitKind>,
    ) {
        let unfit = kind.map(|kind| {
            let path = if kind.is_of_path() { DATA.to_owned() } else { String::new() };
            Unfit { kind, path, message: "as modelled".into() }
        });
        let ended = Ended { reason, message: "as modelled".into(), artifacts: Vec::new(), unfit };
        self.plan(Duration::from_millis(millis), SimEvent::Tell(number, attempt, ReportBody::Ended(ended)));
    }

    fn train(&mut self, number: u64, attempt: AttemptId, state: MachineState) {
        let epochs = 10;
        let started =
            Started { epochs, first_epoch: 1, batch_size: 16, train_images: 100, ..Started::default() };
        let step = Step { epoch: 1, batch: 1, batches: 10, ..Step::default() };
        let mut tell = |after: Duration, event| {
            self.plan(after, SimEvent::Tell(number, attempt, ReportBody::Trainer(event)));
        };
        tell(Duration::from_secs(5), TrainerEvent::Started(started));
        tell(Duration::from_secs(10), TrainerEvent::Step(step));
        for epoch in 1..=epochs {
            let seconds = f64::from(epoch) * 59.0;
            let told = Epoch { epoch, epochs, seconds, images_per_second: 2.0, ..Epoch::default() };
            tell(Duration::from_secs(59) * epoch, TrainerEvent::Epoch(told));
        }
        let last = if state == MachineState::CannotUpload {
            ReportBody::SlotReleased(SlotReleased { waits_for: "the network".into(), is_trained: true })
        } else {
            let (message, artifacts) = (String::new(), Vec::new());
            ReportBody::Ended(Ended { reason: EndReason::Completed, message, artifacts, unfit: None })
        };
        self.plan(LENGTH, SimEvent::Tell(number, attempt, last));
    }

    /// The attempt ends at once.
    fn stop(&mut self, attempt: AttemptId, reason: EndReason) {
        let of_attempt = |(_, event): &(&(Time, u64), &SimEvent)| matches!(event, SimEvent::Tell(_, one, _) if *one == attempt);
        let planned: Vec<(Time, u64)> =
            self.event_queue.iter().filter(of_attempt).map(|(key, _)| *key).collect();
        let mut whose = None;
        for key in planned {
            if let Some(SimEvent::Tell(number, ..)) = self.event_queue.remove(&key) {
                whose = Some(number);
            }
        }
        if let Some(number) = whose {
            self.tell_end(number, attempt, 100, reason, None);
        }
    }
}
