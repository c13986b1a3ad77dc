//! Runs a case: modelled agents around the core, which is told what a live one is told, and never the truth.
//!
//! Data sets are known by size, as they are in a cluster that has seen them; how long a job really takes
//! and how fast a GPU is, the core finds out from what its own attempts report.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use trainyard_scheduler_core::{
    Command, Core, CoreConfig, DataRecord, Event, Hello, Output, Stored, ThroughputRecord,
};
use trainyard_types::trainer::{Epoch, Finished, Started, Step, TrainerEvent};
use trainyard_types::{
    AgentId, Assignment, AttemptId, Checkpoint, EndReason, Ended, Gpu, GpuUuid, Inventory, JobId, JobSpec,
    ModelScale, Report, ReportBody, Resources, Session, Time, TrainSpec,
};
use uuid::Uuid;

use crate::cases::{Case, CaseJob, Schedule, ScheduleRow};
use crate::engine::EventQueue;

/// When a case begins.
const START: Time = Time(1_000_000_000);
/// Epochs of a job whose declared work is no whole number of checkpoints.
const FINE_EPOCHS: u32 = 1000;
/// A trainer tells its speed for the first time after this.
const FIRST_PROGRESS: Duration = Duration::from_secs(60);
/// Longer than any case: agents of a case are never silent.
const FOREVER: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// A case that cannot be run to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriveError {
    /// No GPU will do for this job.
    #[error("job {0} fits on no GPU of the cluster")]
    Impossible(String),
    /// Nothing more happens, and jobs are left.
    #[error("{0} jobs wait and nothing more happens")]
    Stuck(usize),
}

#[derive(Debug)]
enum SimEvent {
    Submit(usize),
    FirstProgress(AttemptId),
    Checkpoint(AttemptId),
    Finish(AttemptId),
    Stopped(AttemptId),
    Tick,
}

/// An attempt at work.
struct RunningAttempt {
    attempt: AttemptId,
    job: usize,
    agent: AgentId,
    row: ScheduleRow,
    /// Work before this attempt, work that the newest checkpoint holds.
    base: f64,
    kept: f64,
    /// When its work begins, and how fast it is.
    working_from_ms: u64,
    rate: f64,
    sequence: u64,
}

/// How a job's work is told in epochs and images.
struct TrainingSize {
    epochs: u32,
    images: u64,
}

struct CaseRun<'a> {
    case: &'a Case,
    core: Core,
    event_queue: EventQueue<SimEvent>,
    ticking: Option<Time>,
    nodes: BTreeMap<AgentId, (String, String)>,
    live: BTreeMap<JobId, RunningAttempt>,
    /// Work that the newest checkpoint holds, of jobs that wait.
    kept: BTreeMap<usize, f64>,
    rows: Vec<ScheduleRow>,
    left: usize,
}

/// Runs all jobs of a case under a configuration.
///
/// # Errors
/// A job fits nowhere, or the core leaves jobs waiting for ever.
pub fn drive(case: &Case, config: CoreConfig) -> Result<Schedule, DriveError> {
    if let Some(job) = case.jobs.iter().find(|job| job.rates.is_empty()) {
        return Err(DriveError::Impossible(job.id.clone()));
    }
    let config =
        CoreConfig { lease: FOREVER, keep_finished_for: FOREVER, keep_finished: usize::MAX, ..config };
    let throughput = data_sets(case).into_iter().map(ThroughputRecord::Data).collect();
    let core = Core::load(config, START, Stored { throughput, ..Stored::default() });
    let mut run = CaseRun {
        case,
        core,
        event_queue: EventQueue::new(START),
        ticking: None,
        nodes: BTreeMap::new(),
        live: BTreeMap::new(),
        kept: BTreeMap::new(),
        rows: Vec::new(),
        left: case.jobs.len(),
    };
    run.connect();
    for (index, job) in case.jobs.iter().enumerate() {
        run.event_queue.at(START + Duration::from_secs_f64(job.submit_s), SimEvent::Submit(index));
    }
    while run.left > 0 {
        let Some(event) = run.event_queue.advance() else { return Err(DriveError::Stuck(run.left)) };
        run.process(&event);
    }
    Ok(Schedule { rows: run.rows })
}

/// The data sets of all jobs, with their sizes.
fn data_sets(case: &Case) -> Vec<DataRecord> {
    let images: std::collections::BTreeSet<u64> =
        case.jobs.iter().map(|job| training_size(job).images).collect();
    let record = |(seen, images): (usize, u64)| DataRecord {
        path: data(images),
        images,
        val_images: 0,
        seen: seen as u64,
    };
    images.into_iter().enumerate().map(record).collect()
}

fn data(images: u64) -> PathBuf {
    PathBuf::from(format!("/data/{images}"))
}

fn training_size(job: &CaseJob) -> TrainingSize {
    let epochs = job.declared_units / job.ckpt_units;
    if (epochs - epochs.round()).abs() < 1e-6 && epochs < 1e6 {
        TrainingSize {
            epochs: (epochs.round() as u32).max(1),
            images: (job.ckpt_units.round() as u64).max(1),
        }
    } else {
        TrainingSize { epochs: FINE_EPOCHS, images: (job.declared_units.round() as u64).max(1) }
    }
}

/// What the user writes. Kinds that are no model of ours are told apart by the image size.
fn spec(case: &Case, job: &CaseJob, kinds: &BTreeMap<&str, u32>) -> JobSpec {
    let TrainingSize { epochs, images } = training_size(job);
    let ours = job
        .kind
        .split_once('-')
        .and_then(|(model, imgsz)| Some((model.parse::<ModelScale>().ok()?, imgsz.parse::<u32>().ok()?)));
    let (model, imgsz) =
        ours.unwrap_or_else(|| (ModelScale::N, 32 * kinds.get(job.kind.as_str()).copied().unwrap_or(1)));
    let mut train = TrainSpec::new(model, data(images));
    (train.epochs, train.imgsz) = (epochs, imgsz);
    let fits = |nodes: &&crate::cases::Nodes| nodes.vram_gb >= job.min_vram_gb;
    let by_memory = case.cluster.iter().filter(fits).count();
    let gpu_models =
        if job.rates.len() < by_memory { job.rates.keys().cloned().collect() } else { Vec::new() };
    let resources = Resources {
        gpus: job.gpus,
        gpu_models,
        min_vram_mib: (job.min_vram_gb * 1024.0) as u64,
        ..Resources::default()
    };
    JobSpec { name: job.id.clone(), resources, priority: job.priority, ..JobSpec::new(train) }
}

impl CaseRun<'_> {
    fn now_ms(&self) -> u64 {
        self.event_queue.now().0 - START.0
    }

    fn connect(&mut self) {
        let mut number = 0;
        for nodes in &self.case.cluster {
            for index in 0..nodes.nodes {
                number += 1;
                let agent = AgentId(Uuid::from_u128(number));
                let name = format!("{}-{index}", nodes.gpu_model);
                let gpu = |slot| Gpu {
                    uuid: GpuUuid(format!("GPU-{name}-{slot}")),
                    index: slot,
                    model: nodes.gpu_model.clone(),
                    memory_total_mib: (nodes.vram_gb * 1024.0) as u64,
                    compute_capability: None,
                };
                let gpus = (0..nodes.gpus_per_node).map(gpu).collect();
                let inventory = Inventory { gpus, ..Inventory::default() };
                self.nodes.insert(agent, (name.clone(), nodes.gpu_model.clone()));
                let hello = Hello::new(agent, name, "sim".into(), inventory);
                self.handle(Event::AgentConnected { session: Session(number as u64), hello });
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let Output { commands, .. } = self.core.handle(self.event_queue.now(), event);
        for command in commands {
            match command {
                Command::Assign { agent, assignment, .. } => self.assign(agent, &assignment),
                Command::Stop { attempt, .. } => {
                    let now = self.event_queue.now();
                    self.event_queue.at(now, SimEvent::Stopped(attempt));
                }
                Command::Revoke { .. }
                | Command::Ack { .. }
                | Command::ClearGpu { .. }
                | Command::Prefetch { .. } => {}
            }
        }
        if let Some(deadline) = self.core.next_deadline()
            && self.ticking.is_none_or(|planned| deadline < planned)
            && deadline < START + FOREVER
        {
            self.ticking = Some(deadline);
            self.event_queue.at(deadline, SimEvent::Tick);
        }
    }

    fn process(&mut self, event: &SimEvent) {
        match event {
            SimEvent::Submit(index) => self.submit(*index),
            SimEvent::Tick => {
                if self.ticking.is_some_and(|planned| planned <= self.event_queue.now()) {
                    self.ticking = None;
                    self.handle(Event::Tick);
                }
            }
            SimEvent::FirstProgress(attempt) => {
                if let Some(live) = self.live.get(&attempt.job).filter(|live| live.attempt == *attempt) {
                    let (epoch, _, images_per_second) = self.told(live, live.base);
                    let step = Step { epoch: epoch + 1, batches: 1, images_per_second, ..Step::default() };
                    self.report(*attempt, ReportBody::Trainer(TrainerEvent::Step(step)));
                }
            }
            SimEvent::Checkpoint(attempt) => self.checkpoint(*attempt),
            SimEvent::Finish(attempt) => self.finish(*attempt),
            SimEvent::Stopped(attempt) => self.stopped(*attempt),
        }
    }

    fn submit(&mut self, index: usize) {
        let mut kinds = BTreeMap::new();
        for job in &self.case.jobs {
            let next = kinds.len() as u32 + 1;
            kinds.entry(job.kind.as_str()).or_insert(next);
        }
        let job = &self.case.jobs[index];
        let spec = spec(self.case, job, &kinds);
        let id = JobId(Uuid::from_u128(index as u128 + 1));
        self.handle(Event::Submit { request_id: None, job: id, user: job.user.clone(), spec });
    }

    /// A trainer starts.
    fn assign(&mut self, agent: AgentId, assignment: &Assignment) {
        let Assignment { attempt, .. } = *assignment;
        let index = (attempt.job.0.as_u128() - 1) as usize;
        let job = &self.case.jobs[index];
        let (node, gpu_model) = self.nodes[&agent].clone();
        let rate = job.rates.get(&gpu_model).copied().unwrap_or(f64::MIN_POSITIVE);
        let base = self.kept.get(&index).copied().unwrap_or(0.0);
        let warm = if attempt.number > 1 { (self.case.restart_s * 1000.0) as u64 } else { 0 };
        let (start_ms, number) = (self.now_ms(), attempt.number);
        let row =
            ScheduleRow { job: index, attempt: number, node, gpu_model, start_ms, end_ms: 0, work_done: 0.0 };
        let live = RunningAttempt {
            attempt,
            job: index,
            agent,
            row,
            base,
            kept: base,
            working_from_ms: start_ms + warm,
            rate,
            sequence: 0,
        };
        let end = self.when(&live, job.work_units);
        self.live.insert(attempt.job, live);
        self.event_queue.at(end, SimEvent::Finish(attempt));
        self.plan_checkpoint(attempt);
        self.event_queue
            .after(FIRST_PROGRESS + Duration::from_millis(warm), SimEvent::FirstProgress(attempt));
        let TrainingSize { epochs, images } = training_size(job);
        let started = Started {
            train_images: images,
            epochs,
            batch_size: 16,
            first_epoch: epoch_at(job, base) + 1,
            ..Started::default()
        };
        self.report(attempt, ReportBody::Trainer(TrainerEvent::Started(started)));
    }

    /// When an attempt has come so far, in whole milliseconds, rounded up.
    fn when(&self, live: &RunningAttempt, work: f64) -> Time {
        let span = ((work - live.base) / live.rate * 1000.0).ceil().max(0.0) as u64;
        Time(START.0 + live.working_from_ms + span)
    }

    fn plan_checkpoint(&mut self, attempt: AttemptId) {
        let Some(live) = self.live.get(&attempt.job) else { return };
        let job = &self.case.jobs[live.job];
        let next = ((live.kept / job.ckpt_units).round() + 1.0) * job.ckpt_units;
        if next < job.work_units * (1.0 - 1e-9) {
            let time = self.when(live, next);
            self.event_queue.at(time, SimEvent::Checkpoint(attempt));
        }
    }

    /// The epoch that is done at `work`, of how many, and the speed in images a second.
    fn told(&self, live: &RunningAttempt, work: f64) -> (u32, u32, f64) {
        let job = &self.case.jobs[live.job];
        let TrainingSize { epochs, images } = training_size(job);
        let images_of_a_unit = f64::from(epochs) * images as f64 / job.declared_units;
        (epoch_at(job, work), epochs, live.rate * images_of_a_unit)
    }

    fn tell_epoch(&mut self, attempt: AttemptId, work: f64) {
        let Some(live) = self.live.get(&attempt.job) else { return };
        let (epoch, epochs, images_per_second) = self.told(live, work);
        let seconds = (self.now_ms() - self.case.jobs[live.job].submit_s as u64 * 1000) as f64 / 1000.0;
        let epoch = Epoch { epoch, epochs, seconds, images_per_second, best: true, ..Epoch::default() };
        self.report(attempt, ReportBody::Trainer(TrainerEvent::Epoch(epoch)));
    }

    fn checkpoint(&mut self, attempt: AttemptId) {
        let Some(live) = self.live.get_mut(&attempt.job).filter(|live| live.attempt == attempt) else {
            return;
        };
        let job = &self.case.jobs[live.job];
        live.kept = ((live.kept / job.ckpt_units).round() + 1.0) * job.ckpt_units;
        let (work, step) = (live.kept, (live.kept / job.ckpt_units).round() as u64);
        let epoch = epoch_at(job, work);
        self.tell_epoch(attempt, work);
        self.plan_checkpoint(attempt);
        let checkpoint = Checkpoint { step, epoch, files: Vec::new() };
        self.report(attempt, ReportBody::CheckpointStored(checkpoint));
    }

    fn finish(&mut self, attempt: AttemptId) {
        let Some(live) = self.live.get(&attempt.job).filter(|live| live.attempt == attempt) else { return };
        let work = self.case.jobs[live.job].work_units;
        self.tell_epoch(attempt, work);
        let finished = Finished { best_epoch: 1, metrics: BTreeMap::new(), artifacts: Vec::new() };
        self.report(attempt, ReportBody::Trainer(TrainerEvent::Finished(finished)));
        self.left -= 1;
        self.end(attempt, work, EndReason::Completed);
    }

    /// The agent was told to stop it.
    fn stopped(&mut self, attempt: AttemptId) {
        let Some(live) = self.live.get(&attempt.job).filter(|live| live.attempt == attempt) else { return };
        let (job, kept) = (live.job, live.kept);
        self.kept.insert(job, kept);
        self.end(attempt, kept, EndReason::Preempted);
    }

    fn end(&mut self, attempt: AttemptId, work: f64, reason: EndReason) {
        let end_ms = self.now_ms();
        if let Some(live) = self.live.get_mut(&attempt.job) {
            live.row.end_ms = end_ms;
            live.row.work_done = work - live.base;
            self.rows.push(live.row.clone());
        }
        let ended = Ended { reason, message: String::new(), artifacts: Vec::new(), unfit: None };
        self.report(attempt, ReportBody::Ended(ended));
    }

    fn report(&mut self, attempt: AttemptId, body: ReportBody) {
        let Some(live) = self.live.get_mut(&attempt.job).filter(|live| live.attempt == attempt) else {
            return;
        };
        live.sequence += 1;
        let (agent, sequence, time) = (live.agent, live.sequence, self.event_queue.now());
        let session = Session(agent.0.as_u128() as u64);
        if matches!(body, ReportBody::Ended(_)) {
            self.live.remove(&attempt.job);
        }
        self.handle(Event::Report { agent, session, report: Report { attempt, sequence, time, body } });
    }
}

/// Whole epochs that are done at `work`.
fn epoch_at(job: &CaseJob, work: f64) -> u32 {
    (work / job.declared_units * f64::from(training_size(job).epochs) + 1e-6).floor() as u32
}
