//! The one task that owns the core: takes what happened from its inbox, lets the core decide, and does what
//! it says, in order. It waits for no network: reports go to the spools and from there to the connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tracing::{error, info, warn};
use trainyard_proto::pb;
use trainyard_proto::pb::agent_message::Message as Said;
use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{Assignment, AttemptId, JobId, ReportBody, Slot, Time};

use crate::advert::Advert;
use crate::banner;
use crate::closings::Closings;
use crate::connection::message;
use crate::core::{Command, Core, Event, Limits};
use crate::fit::FitStore;
use crate::job_dir::{self, JobDir};
use crate::others;
use crate::prepare::{Workshop, prepare};
use crate::self_test::Tests;
use crate::spool::refused::Refused;
use crate::spool::{Spool, SpoolError};
use crate::trainer::child::{Handle, Spawner};
use crate::warm::Warm;

mod handing_in;
mod start;

/// What comes into the driver's inbox.
#[derive(Debug)]
pub enum Input {
    /// For the core.
    Core(Event),
    /// The scheduler has welcomed us; reports go here.
    Up(mpsc::Sender<pb::AgentMessage>),
    /// The connection is gone.
    Down,
    /// Reports of an attempt up to this number are durable.
    Ack(AttemptId, u64),
    /// The disk is short: these jobs' directories go, where nobody needs them.
    Discard(Vec<JobId>),
    /// A trainer ran out of memory while others held so much of its GPU.
    Learned(AttemptId, TrainerEvent, Option<u64>),
    /// It is time to see which caches of decoded images are still there.
    LookAtCaches,
}

/// How soon a report that the disk refused is tried again.
const SPOOL_RETRY: Duration = Duration::from_secs(1);

/// See the module.
pub struct Driver {
    core: Core,
    workshop: Workshop,
    spawner: Spawner,
    inbox: mpsc::Receiver<Input>,
    /// For tasks that tell how they ended.
    sender: mpsc::Sender<Input>,
    held: watch::Sender<Vec<AttemptId>>,
    advert: watch::Sender<Advert>,
    out: Option<mpsc::Sender<pb::AgentMessage>>,
    spools: BTreeMap<AttemptId, Spool>,
    /// Attempts whose spool the disk does not give back; it is opened again and again.
    closed: BTreeSet<AttemptId>,
    /// Reports that the disk refused.
    refused: Refused,
    warm: Warm,
    closings: Closings,
    tests: Tests,
    trainers: BTreeMap<AttemptId, Handle>,
    transfers: BTreeMap<AttemptId, Vec<AbortHandle>>,
    leaving: bool,
}

impl Driver {
    /// A driver with an empty inbox, whose sending end is `sender`.
    pub fn new(
        workshop: Workshop,
        spawner: Spawner,
        (closings, tests): (Closings, Tests),
        (inbox, sender): (mpsc::Receiver<Input>, mpsc::Sender<Input>),
        held: watch::Sender<Vec<AttemptId>>,
        advert: watch::Sender<Advert>,
    ) -> Self {
        let config = &workshop.config;
        let limits = Limits {
            stop_grace: config.stop_grace,
            shutdown_grace: config.shutdown_grace,
            checkpoint_upload_every: config.checkpoint_upload_every,
            stall_after: config.stall_after,
        };
        let warm = Warm::load(&config.data_dir);
        Self {
            core: Core::new(limits),
            workshop,
            spawner,
            inbox,
            sender,
            held,
            advert,
            out: None,
            spools: BTreeMap::new(),
            closed: BTreeSet::new(),
            refused: Refused::default(),
            warm,
            closings,
            tests,
            trainers: BTreeMap::new(),
            transfers: BTreeMap::new(),
            leaving: false,
        }
    }

    /// Takes over what a former process left: its trainers died with it, its reports are on disk.
    pub async fn recover(&mut self) {
        for attempt in job_dir::spooled(&self.workshop.config.data_dir) {
            let ended = match self.open(attempt) {
                Ok(spool) => {
                    let ended = spool.has_ended();
                    self.spools.insert(attempt, spool);
                    ended
                }
                Err(error) => {
                    error!(%attempt, %error, "cannot open a spool; it is tried again");
                    self.closed.insert(attempt);
                    true // As far as is known. It is looked at when it can be read.
                }
            };
            let hand_in = self.job_dir(attempt).hand_in(attempt.number).filter(|_| !ended);
            info!(%attempt, ended, hands_in = hand_in.is_some(), "an attempt of a former agent process");
            self.handle(Event::Recovered { attempt, ended, hand_in }).await;
        }
    }

    fn open(&self, attempt: AttemptId) -> Result<Spool, SpoolError> {
        let quota = self.workshop.config.spool_quota_bytes();
        Spool::open(&self.job_dir(attempt).spool(attempt.number), attempt, quota)
    }

    /// Runs until the core says that it is time to leave.
    pub async fn run(mut self) {
        while !self.leaving {
            let deadline = self.core.next_deadline();
            let unsent = self.spools.values().any(Spool::has_unsent);
            tokio::select! {
                input = self.inbox.recv() => match input {
                    Some(input) => self.take(input).await,
                    None => return, // Cannot be: we hold a sender.
                },
                permit = room(self.out.clone(), unsent) => self.send_one(permit),
                () = until(deadline) => self.handle(Event::Tick).await,
                () = tokio::time::sleep(SPOOL_RETRY), if !self.refused.is_empty() || !self.closed.is_empty() => {
                    self.retry().await;
                }
            }
        }
    }

    async fn take(&mut self, input: Input) {
        match input {
            Input::Core(event) => self.handle(event).await,
            Input::Up(out) => {
                self.out = Some(out);
                for spool in self.spools.values_mut() {
                    spool.rewind();
                }
                self.handle(Event::Connected).await;
            }
            Input::Down => {
                self.out = None;
                self.handle(Event::Disconnected).await;
            }
            Input::Discard(jobs) => jobs.into_iter().for_each(|job| self.discard(job)),
            Input::Learned(attempt, event, others_mib) => self.learn(attempt, &event, others_mib),
            Input::LookAtCaches => self.tell_caches(),
            Input::Ack(attempt, sequence) => {
                let Some(spool) = self.spools.get_mut(&attempt) else { return };
                if let Err(error) = spool.ack(sequence) {
                    warn!(%attempt, %error, "cannot trim a spool");
                }
                if spool.is_acked() {
                    self.handle(Event::AllAcked(attempt)).await;
                }
            }
        }
    }

    /// Lets the core decide on `event` and does what it says; what that leads to at once is decided too.
    async fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            match &event {
                Event::Exited(attempt, _) => {
                    self.trainers.remove(attempt);
                    self.workshop.crew.exited(*attempt);
                }
                Event::Line(attempt, _, told) => self.workshop.crew.told(*attempt, told),
                _ => {}
            }
            for command in self.core.handle(Time::now(), event) {
                events.extend(self.execute(command).await);
            }
        }
        self.held.send_if_modified(|held| {
            let now = self.core.held();
            let changed = *held != now;
            *held = now;
            changed
        });
    }

    async fn execute(&mut self, command: Command) -> Option<Event> {
        match command {
            Command::Prepare(assignment) => self.prepare(assignment),
            Command::Announce(lines) => {
                let now = Time::now();
                for line in lines {
                    // As they are, without the log's own prefix: their wording is a contract.
                    trainyard_console::note(banner::stamped(now, &line));
                }
            }
            Command::Spawn(assignment, prepared) => return self.spawn(&assignment, &prepared).await,
            Command::Terminate(attempt) => {
                info!(%attempt, "SIGTERM to the trainer");
                self.trainers.get(&attempt).inspect(|trainer| trainer.terminate());
            }
            Command::Kill(attempt) => {
                warn!(%attempt, "SIGKILL to the trainer's process group");
                self.trainers.get(&attempt).inspect(|trainer| trainer.kill());
            }
            Command::Report(attempt, time, body) => self.report(attempt, time, body),
            Command::UploadCheckpoint(attempt, saved) => self.upload_checkpoint(attempt, saved),
            Command::UploadArtifacts(attempt, names) => self.upload_artifacts(attempt, names),
            Command::KeepHandIn(attempt, hand_in) => {
                if let Err(error) = self.job_dir(attempt).keep_hand_in(attempt.number, &hand_in) {
                    warn!(%attempt, %error, "what is handed in is not remembered: a restart of the agent loses it");
                }
            }
            Command::Examine(attempt) => self.examine(attempt),
            Command::Prove(attempt, slot, lack) => {
                let tests = self.tests.clone();
                self.start_transfer(attempt, async move {
                    tests.prove((&slot).into(), lack).await;
                    Event::Proved(attempt)
                });
            }
            Command::NotePath { what, named, lacking } => {
                self.workshop.paths.note(what, &named, lacking);
            }
            Command::Stuck(stuck) => self.closings.set_stuck(&stuck),
            Command::CancelTransfers(attempt) => {
                for transfer in self.transfers.remove(&attempt).unwrap_or_default() {
                    transfer.abort();
                }
            }
            Command::Control(attempt, asked) => {
                info!(%attempt, ?asked, "asked of the trainer");
                self.trainers.get(&attempt).inspect(|trainer| trainer.ask(asked));
            }
            Command::NoteKill(attempt, killed) => {
                if let Err(error) = self.job_dir(attempt).note_kill(killed) {
                    warn!(%attempt, %error, "cannot note how the trainer was killed");
                }
            }
            Command::Learn(attempt, event) => self.look_and_learn(attempt, event),
            Command::NoteCached { data, imgsz, files } => {
                if let Err(error) = self.warm.note(data, imgsz, files) {
                    warn!(%error, "cannot keep which data sets are decoded");
                }
                self.tell_caches();
            }
            Command::DropReports(attempt) => self.drop_reports(attempt),
            Command::DropCheckpoints(attempt) => {
                let checkpoints = self.job_dir(attempt).checkpoints();
                if let Err(error) = std::fs::remove_dir_all(&checkpoints) {
                    warn!(%attempt, %error, "cannot delete the checkpoints of a job that succeeded");
                }
            }
            Command::Exit => self.leaving = true,
        }
        None
    }

    fn job_dir(&self, attempt: AttemptId) -> JobDir {
        JobDir::new(&self.workshop.config.data_dir, attempt.job)
    }

    fn prepare(&mut self, assignment: Box<Assignment>) {
        let attempt = assignment.attempt;
        info!(%attempt, model = %assignment.spec.train.model, slot = ?assignment.slot, "assigned");
        self.tests.occupied((&assignment.slot).into());
        let prepared = prepare(self.workshop.clone(), assignment);
        self.start_transfer(attempt, async move { Event::Prepared(attempt, prepared.await) });
    }

    /// Runs work for an attempt whose result comes back as an event, and which can be cancelled.
    fn start_transfer(&mut self, attempt: AttemptId, work: impl Future<Output = Event> + Send + 'static) {
        let sender = self.sender.clone();
        let task = tokio::spawn(async move {
            let event = work.await;
            // The inbox is closed when the agent is leaving.
            let _leaving = sender.send(Input::Core(event)).await;
        });
        let running = self.transfers.entry(attempt).or_default();
        running.retain(|transfer| !transfer.is_finished());
        running.push(task.abort_handle());
    }

    fn report(&mut self, attempt: AttemptId, time: Time, body: ReportBody) {
        if let ReportBody::Ended(ended) = &body {
            info!(%attempt, reason = %ended.reason, told = ended.message, "attempt ended");
        }
        // What comes later stays behind what waits.
        let waits = self.refused.waits(attempt);
        let written = if waits { Ok(()) } else { self.try_report(attempt, time, body.clone()) };
        if let Err(error) = &written {
            error!(%attempt, %error, "cannot write a report; it is tried again");
        }
        if waits || written.is_err() {
            self.refused.push(attempt, time, body);
        }
    }

    fn try_report(&mut self, attempt: AttemptId, time: Time, body: ReportBody) -> Result<(), SpoolError> {
        if let Some(spool) = self.spools.get_mut(&attempt) {
            return spool.append(time, body);
        }
        // Fails below if it fails.
        let _made = self.job_dir(attempt).create();
        let mut spool = self.open(attempt)?;
        let appended = spool.append(time, body);
        self.closed.remove(&attempt);
        self.spools.insert(attempt, spool);
        appended
    }

    /// Tries again what the disk refused.
    async fn retry(&mut self) {
        let mut reopened = Vec::new();
        for attempt in self.closed.clone() {
            if let Ok(spool) = self.open(attempt) {
                info!(%attempt, "a spool can be read again");
                self.closed.remove(&attempt);
                self.spools.insert(attempt, spool);
                reopened.push(attempt);
            }
        }
        for (attempt, time, body) in self.refused.take() {
            self.report(attempt, time, body);
        }
        for attempt in reopened {
            let has_end = self.spools.get(&attempt).is_some_and(Spool::has_ended);
            if !has_end && !self.refused.waits(attempt) {
                self.handle(Event::EndLost(attempt)).await;
            }
        }
    }

    /// Removes a job's directory, unless an attempt uses it or has reports that the scheduler does not have.
    fn discard(&self, job: JobId) {
        let held = self.core.held();
        let spools = self.spools.keys().chain(&self.closed);
        let needed = held.iter().chain(spools).chain(self.trainers.keys());
        if needed.into_iter().any(|attempt| attempt.job == job) {
            return;
        }
        match JobDir::new(&self.workshop.config.data_dir, job).set_apart() {
            // A new attempt finds nothing from now on; the files themselves may take their time.
            Ok(apart) => drop(tokio::task::spawn_blocking(move || {
                info!(%job, "the disk is short: the directory of a job that is over is removed");
                if let Err(error) = std::fs::remove_dir_all(&apart) {
                    warn!(%job, %error, "a job's directory cannot be removed");
                }
            })),
            Err(error) => warn!(%job, %error, "a job's directory cannot be removed"),
        }
    }

    fn drop_reports(&mut self, attempt: AttemptId) {
        self.refused.forget(attempt);
        self.transfers.remove(&attempt);
        self.job_dir(attempt).drop_hand_in(attempt.number);
        if self.closed.remove(&attempt)
            && let Err(error) = std::fs::remove_file(self.job_dir(attempt).spool(attempt.number))
        {
            warn!(%attempt, %error, "cannot delete a spool");
        }
        if let Some(spool) = self.spools.remove(&attempt)
            && let Err(error) = spool.delete()
        {
            warn!(%attempt, %error, "cannot delete a spool");
        }
    }

    fn send_one(&mut self, permit: Option<mpsc::OwnedPermit<pb::AgentMessage>>) {
        let Some(permit) = permit else {
            self.out = None; // The connection ended; its Down is in the inbox.
            return;
        };
        let Some((attempt, spool)) = self.spools.iter_mut().find(|(_, spool)| spool.has_unsent()) else {
            return;
        };
        match spool.next_unsent() {
            Ok(Some(report)) => {
                permit.send(message(Said::Report((&report).into())));
            }
            Ok(None) => {}
            Err(error) => {
                // Without the disk nothing can be told of this attempt; the scheduler's lease still holds.
                error!(%attempt, %error, "cannot read a spool; it is opened again");
                let attempt = *attempt;
                self.spools.remove(&attempt);
                self.closed.insert(attempt);
            }
        }
    }

    fn fits(&self) -> MutexGuard<'_, FitStore> {
        self.workshop.fits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from `event`; where it is that memory ran out, once it is known who else was there.
    fn look_and_learn(&self, attempt: AttemptId, event: TrainerEvent) {
        let slot = self.fits().slot(attempt);
        match slot.filter(|slot| matches!(event, TrainerEvent::BatchSize(_)) && matches!(slot, Slot::Gpu(_)))
        {
            Some(slot) => {
                let (cards, sender) = (self.workshop.cards.clone(), self.sender.clone());
                tokio::spawn(async move {
                    let others = others::look(cards, &slot).await;
                    // The inbox is closed when the agent is leaving.
                    let _leaving = sender.send(Input::Learned(attempt, event, others.memory_mib)).await;
                });
            }
            None => self.learn(attempt, &event, None),
        }
    }

    fn learn(&self, attempt: AttemptId, event: &TrainerEvent, others_mib: Option<u64>) {
        let (mut fits, now) = (self.fits(), Time::now());
        let learned = fits.observe(now, attempt, event, others_mib).inspect_err(|error| {
            warn!(%error, "cannot keep what the run was seen to need");
        });
        if !matches!(learned, Ok(false)) {
            self.advert.send_modify(|advert| advert.fit_records = fits.records(now));
        }
    }

    fn tell_caches(&mut self) {
        let present = self.warm.present();
        self.advert.send_if_modified(|advert| {
            let changes = advert.cached_data != present;
            advert.cached_data = present;
            changes
        });
    }
}

/// A place in the connection's queue; waits for ever while there is nothing to send or nobody to send it to.
async fn room(
    out: Option<mpsc::Sender<pb::AgentMessage>>,
    unsent: bool,
) -> Option<mpsc::OwnedPermit<pb::AgentMessage>> {
    match out {
        Some(out) if unsent => out.reserve_owned().await.ok(),
        _ => std::future::pending().await,
    }
}

async fn until(deadline: Option<Time>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline.since(Time::now())).await,
        None => std::future::pending().await,
    }
}
