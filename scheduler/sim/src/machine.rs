//! A modelled agent with its trainers, and its spool, which survives the agent's death.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use trainyard_scheduler_core::{AgentStatus, Hello};
use trainyard_types::trainer::{Epoch, Finished, Started, Step, TrainerEvent};
use trainyard_types::{
    AgentId, Artifact, Assignment, AttemptId, Checkpoint, EndReason, Ended, Fetching, Fitness, Gpu,
    GpuTelemetry, GpuUuid, Inventory, Prefetching, Report, ReportBody, Slot, SlotReleased, Time, Unavailable,
    UnavailableCause, Unfit,
};

use uuid::Uuid;

use crate::machine_fault::MachineFault;
use crate::oracle::Violation;
use crate::rng::Rng;

/// How an attempt will end if nobody stops it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedEnd {
    /// The trainer does all epochs.
    Complete,
    /// It fails for this reason, after so many epochs of this attempt.
    Fail(EndReason, u32),
    /// It ends before its trainer comes up: the machine lacks something.
    Unfit(Unfit),
    /// Not by itself: it is ended as stalled after so many looks.
    Hang(u32),
}

/// A trainer at work.
#[derive(Debug)]
struct Trainer {
    started: bool,
    /// Epochs done, those before a resume included.
    epoch: u32,
    first_epoch: u32,
    epochs: u32,
    planned_end: PlannedEnd,
}

impl Trainer {
    /// What it tells next. The last thing is its end.
    fn advance(&mut self, id: AttemptId, can_upload: bool) -> Vec<ReportBody> {
        match &mut self.planned_end {
            PlannedEnd::Unfit(unfit) => return vec![unfit_end(unfit)],
            PlannedEnd::Hang(0) => return vec![end(EndReason::Stalled)],
            PlannedEnd::Hang(left) => {
                *left -= 1;
                return Vec::new();
            }
            PlannedEnd::Complete | PlannedEnd::Fail(..) => {}
        }
        if !self.started {
            self.started = true;
            return vec![ReportBody::Trainer(TrainerEvent::Started(Started {
                parameters: 1,
                train_images: 10,
                val_images: 1,
                classes: vec![],
                epochs: self.epochs,
                batch_size: 16,
                first_epoch: self.first_epoch,
                device: "cpu".into(),
                ..Started::default()
            }))];
        }
        if let PlannedEnd::Fail(reason, epochs) = self.planned_end
            && self.epoch + 1 >= self.first_epoch + epochs
        {
            return vec![end(reason)];
        }
        if self.epoch == self.epochs {
            let finished =
                Finished { best_epoch: self.epochs, metrics: BTreeMap::new(), artifacts: Vec::new() };
            let mut told = vec![ReportBody::Trainer(TrainerEvent::Finished(finished))];
            if !can_upload {
                let waits_for = "room on the scheduler's disk".to_owned();
                told.push(ReportBody::SlotReleased(SlotReleased { waits_for, is_trained: true }));
                return told;
            }
            // Some take a moment to hand in.
            if id.number.is_multiple_of(2) {
                let waits_for = String::new();
                told.push(ReportBody::SlotReleased(SlotReleased { waits_for, is_trained: true }));
            }
            told.push(completed(id));
            return told;
        }
        self.epoch += 1;
        let mut told =
            vec![ReportBody::Trainer(step(self.epoch)), ReportBody::Trainer(epoch(self.epoch, self.epochs))];
        if self.epoch.is_multiple_of(2) {
            let checkpoint =
                Checkpoint { step: u64::from(self.epoch) * 10, epoch: self.epoch, files: vec![] };
            told.push(ReportBody::CheckpointStored(checkpoint));
        }
        told
    }
}

/// The oracle finds out by the name whose results were committed.
fn completed(id: AttemptId) -> ReportBody {
    let artifacts = vec![Artifact { name: id.to_string(), size_bytes: 1, sha256: String::new() }];
    ReportBody::Ended(Ended { reason: EndReason::Completed, message: String::new(), artifacts, unfit: None })
}

fn unfit_end(unfit: &Unfit) -> ReportBody {
    let (message, unfit) = (unfit.message.clone(), Some(unfit.clone()));
    ReportBody::Ended(Ended { reason: EndReason::AgentUnfit, message, artifacts: Vec::new(), unfit })
}

fn step(epoch: u32) -> TrainerEvent {
    TrainerEvent::Step(Step {
        epoch,
        batch: 5,
        batches: 10,
        images_per_second: 10.0,
        loader_wait_ratio: 0.0,
        metrics: BTreeMap::new(),
        phases: None,
    })
}

fn epoch(epoch: u32, epochs: u32) -> TrainerEvent {
    TrainerEvent::Epoch(Epoch {
        epoch,
        epochs,
        seconds: f64::from(epoch),
        images_per_second: 10.0,
        loader_wait_ratio: 0.0,
        best: true,
        metrics: BTreeMap::from([("metrics/mAP50(B)".to_owned(), f64::from(epoch))]),
        phases: None,
        cached: Vec::new(),
    })
}

/// The last report of an attempt that did not complete.
pub fn end(reason: EndReason) -> ReportBody {
    ReportBody::Ended(Ended { reason, message: "as modelled".into(), artifacts: Vec::new(), unfit: None })
}

/// An attempt that the agent holds: it runs, or has reports that were not acknowledged.
#[derive(Debug)]
struct HeldAttempt {
    slot: Slot,
    /// The trainer dies with the agent.
    trainer: Option<Trainer>,
    /// It has trained, and its results are not in yet; survives the agent.
    hands_in: bool,
    next_sequence: u64,
    /// Reports that were told and not acknowledged.
    spool: VecDeque<Report>,
}

/// A machine with an agent.
#[derive(Debug)]
pub struct Machine {
    id: AgentId,
    name: String,
    inventory: Inventory,
    /// Whether the agent's process lives.
    pub up: bool,
    /// Whether it is stopped and hears nothing.
    pub paused: bool,
    /// Counts its processes; what was planned for an earlier one is void.
    pub life: u32,
    /// Its connection, as it believes.
    pub connection: Option<u64>,
    held: BTreeMap<AttemptId, HeldAttempt>,
    /// GPUs that take no job.
    closed: BTreeMap<GpuUuid, UnavailableCause>,
    /// It takes no job at all.
    full: bool,
    /// The fault of the machine, while it has one.
    pub fault: Option<MachineFault>,
    /// Paths that it was asked for in vain.
    pub missing: BTreeSet<String>,
    /// Whether its agent can prefetch.
    pub can_prefetch: bool,
    /// What comes before its job does, as jobs name it.
    pub prefetching: Option<String>,
    /// Versions that it holds.
    held_versions: BTreeSet<String>,
}

impl Machine {
    /// The agent is up, and not connected.
    pub fn new(id: AgentId, name: String, inventory: Inventory) -> Self {
        Self {
            id,
            name,
            inventory,
            up: true,
            paused: false,
            life: 1,
            connection: None,
            held: BTreeMap::new(),
            closed: BTreeMap::new(),
            full: false,
            fault: None,
            missing: BTreeSet::new(),
            can_prefetch: false,
            prefetching: None,
            held_versions: BTreeSet::new(),
        }
    }

    pub fn id(&self) -> AgentId {
        self.id
    }

    /// The first message of a session.
    pub fn hello(&self) -> Hello {
        // It names no instance: its connections overlap, and who is refused for that is the core's own tests' to show.
        Hello {
            attempts: self.held.keys().copied().collect(),
            status: self.status(),
            ..Hello::new(self.id, self.name.clone(), "sim".into(), self.inventory.clone())
        }
    }

    /// What it says of itself.
    pub fn status(&self) -> AgentStatus {
        let reading = |gpu: &Gpu| {
            let cause = self.closed.get(&gpu.uuid).copied();
            let unavailable = cause.map(|cause| Unavailable { cause, message: "as modelled".into() });
            GpuTelemetry { uuid: gpu.uuid.clone(), unavailable, ..GpuTelemetry::default() }
        };
        let telemetry = self.inventory.gpus.iter().map(reading).collect();
        let unavailable = if self.full { "its disk is full".to_owned() } else { String::new() };
        let coming = |what: &String| Fetching {
            what: what.clone(),
            done_bytes: 1 << 30,
            total_bytes: 5 << 30,
            bytes_per_second: 50e6,
        };
        let prefetching = Prefetching { now: self.prefetching.as_ref().map(coming) };
        let fitness = Fitness {
            missing_paths: self.missing.iter().cloned().collect(),
            held_versions: Some(self.held_versions.iter().cloned().collect()),
            prefetching: self.can_prefetch.then_some(prefetching),
            ..Fitness::default()
        };
        AgentStatus { telemetry, unavailable, fitness, ..AgentStatus::default() }
    }

    /// A data set of the store has come; one that has been there for longer may have to go for it.
    pub fn hold(&mut self, called: &str, goes: bool) {
        let Some((_, version)) = called.split_once('@') else { return };
        if goes {
            self.held_versions.pop_first();
        }
        self.held_versions.insert(version.to_owned());
    }

    /// One of its GPUs.
    pub fn gpu(&self, at: usize) -> Option<GpuUuid> {
        self.inventory.gpus.get(at).map(|gpu| gpu.uuid.clone())
    }

    /// The owner of a GPU comes or goes; of one that is not there, the disk fills or empties. Returns what
    /// is to be told after that.
    pub fn move_owner(&mut self, now: Time, at: usize) -> Vec<Report> {
        let Some(gpu) = self.gpu(at) else {
            self.full = !self.full;
            return Vec::new();
        };
        if self.closed.remove(&gpu).is_some() {
            return Vec::new();
        }
        self.closed.insert(gpu.clone(), UnavailableCause::Owner);
        let slot = Slot::Gpu(gpu);
        let runs = self.held.iter().find(|(_, held)| held.trainer.is_some() && held.slot == slot);
        let attempt = runs.map(|(&attempt, _)| attempt);
        attempt.and_then(|attempt| self.stop(now, attempt, EndReason::Preempted)).into_iter().collect()
    }

    /// All of it can be used.
    pub fn open_all(&mut self) {
        self.closed.clear();
        self.full = false;
    }

    /// Everything that was not acknowledged, in order.
    pub fn unacknowledged(&self) -> Vec<Report> {
        self.held.values().flat_map(|held| held.spool.iter().cloned()).collect()
    }

    /// Starts an attempt.
    pub fn assign(&mut self, assignment: &Assignment, planned_end: PlannedEnd) -> Result<(), Violation> {
        let busy = self.held.iter().find(|(_, held)| held.trainer.is_some() && held.slot == assignment.slot);
        if let Some((&old, _)) = busy {
            return Err(Violation::SlotBusy { old, new: assignment.attempt });
        }
        let done = assignment.resume.as_ref().map_or(0, |checkpoint| checkpoint.epoch);
        let trainer = Trainer {
            started: false,
            epoch: done,
            first_epoch: done + 1,
            epochs: assignment.spec.train.epochs,
            planned_end,
        };
        let held = HeldAttempt {
            slot: assignment.slot.clone(),
            trainer: Some(trainer),
            hands_in: false,
            next_sequence: 1,
            spool: VecDeque::new(),
        };
        self.held.insert(assignment.attempt, held);
        Ok(())
    }

    /// A trainer moves on. Returns what it told, and whether it lives.
    pub fn train(&mut self, now: Time, attempt: AttemptId) -> (Vec<Report>, bool) {
        let Some(held) = self.held.get_mut(&attempt) else { return (Vec::new(), false) };
        let Some(trainer) = &mut held.trainer else { return (Vec::new(), false) };
        let can_upload = self.fault != Some(MachineFault::CannotUpload);
        let told = trainer.advance(attempt, can_upload);
        match told.last() {
            Some(ReportBody::Ended(_)) => held.trainer = None,
            Some(ReportBody::SlotReleased(_)) => {
                held.trainer = None;
                held.hands_in = true;
            }
            _ => {}
        }
        let lives = held.trainer.is_some();
        (told.into_iter().map(|body| held.report(now, attempt, body)).collect(), lives)
    }

    /// Ends an attempt at the scheduler's order or its own. Returns what is to be told.
    pub fn stop(&mut self, now: Time, attempt: AttemptId, reason: EndReason) -> Option<Report> {
        let held = self.held.get_mut(&attempt)?;
        if held.trainer.take().is_none() && !std::mem::take(&mut held.hands_in) {
            return None;
        }
        Some(held.report(now, attempt, end(reason)))
    }

    /// Ends all attempts.
    pub fn drain(&mut self, now: Time) -> Vec<Report> {
        let runs = self.held.iter().filter(|(_, held)| held.trainer.is_some());
        let attempts: Vec<AttemptId> = runs.map(|(&attempt, _)| attempt).collect();
        attempts.into_iter().filter_map(|attempt| self.stop(now, attempt, EndReason::Drained)).collect()
    }

    /// Hands in what it could not.
    pub fn hand_in(&mut self, now: Time) -> Vec<Report> {
        let waiting = self.held.iter_mut().filter(|(_, held)| held.hands_in);
        waiting
            .map(|(&attempt, held)| {
                held.hands_in = false;
                held.report(now, attempt, completed(attempt))
            })
            .collect()
    }

    /// Forgets an attempt that is no longer its own.
    pub fn revoke(&mut self, attempt: AttemptId) {
        self.held.remove(&attempt);
    }

    /// Reports up to `sequence` are durable.
    pub fn acknowledge(&mut self, attempt: AttemptId, sequence: u64) {
        let Some(held) = self.held.get_mut(&attempt) else { return };
        held.spool.retain(|report| report.sequence > sequence);
        if held.trainer.is_none() && !held.hands_in && held.spool.is_empty() {
            self.held.remove(&attempt);
        }
    }

    /// The process dies, and its trainers with it. The spool stays, unless the disk is lost, too.
    pub fn kill(&mut self, now: Time, disk_lost: bool) {
        self.up = false;
        self.paused = false;
        self.life += 1;
        self.connection = None;
        self.prefetching = None;
        if disk_lost {
            self.held_versions.clear();
            self.held.clear();
        }
        // What it will say when it is back.
        for (&attempt, held) in &mut self.held {
            if held.trainer.take().is_some() {
                held.report(now, attempt, end(EndReason::AgentLost));
            }
        }
    }
}

impl HeldAttempt {
    fn report(&mut self, time: Time, attempt: AttemptId, body: ReportBody) -> Report {
        let report = Report { attempt, sequence: self.next_sequence, time, body };
        self.next_sequence += 1;
        self.spool.push_back(report.clone());
        report
    }
}

/// Draws how an attempt ends; without faults it completes, unless the job itself is bad.
pub fn draw_planned_end(rng: &mut Rng, faults: bool, job_name: &str) -> PlannedEnd {
    match job_name {
        "bad spec" => return PlannedEnd::Fail(EndReason::BadSpec, 1),
        "too large" => return PlannedEnd::Fail(EndReason::GpuOom, 1),
        _ => {}
    }
    let after = u32::try_from(1 + rng.below(4)).unwrap_or(1);
    match rng.below(12) {
        0 if faults => PlannedEnd::Fail(EndReason::TrainerCrash, after),
        1 if faults => PlannedEnd::Fail(EndReason::GpuFault, after),
        2 if faults => PlannedEnd::Fail(EndReason::HostOom, after),
        _ => PlannedEnd::Complete,
    }
}

/// How long an epoch takes.
pub fn epoch_time(rng: &mut Rng) -> Duration {
    rng.millis(500, 6000)
}

/// A machine with random GPUs.
pub fn draw_machine(rng: &mut Rng, number: u64) -> Machine {
    const GPUS: [(&str, u64); 3] = [
        ("NVIDIA GeForce RTX 4090", 24564),
        ("NVIDIA GeForce RTX 5070", 12227),
        ("NVIDIA GeForce RTX 4060", 8188),
    ];
    let gpu = |index: u64| {
        // The first machine can run every job.
        let (model, memory_total_mib) = GPUS[usize::try_from((number + index) % 3).unwrap_or(0)];
        Gpu {
            uuid: GpuUuid(format!("GPU-{number}-{index}")),
            index: u32::try_from(index).unwrap_or(0),
            model: model.into(),
            memory_total_mib,
            compute_capability: None,
        }
    };
    let gpus = (0..1 + rng.below(3)).map(gpu).collect();
    let cpu_slots = u32::from(number == 0 || rng.once_in(2));
    let inventory = Inventory { gpus, cpu_slots, memory_total_mib: 65536, driver_version: "580".into() };
    let id = AgentId(Uuid::from_u128(u128::from(number) + 1));
    // One agent of three is too old to prefetch.
    Machine { can_prefetch: !rng.once_in(3), ..Machine::new(id, format!("lab-{number}"), inventory) }
}
