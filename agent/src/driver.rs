//! The one task that owns the core: takes events from its inbox, lets the core decide, and does what the core says, in
//! order. It waits for no network: reports go to the spools, and from there to the connection.

mod hand_in;
mod reports;
mod start;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tracing::{info, warn};
use trainyard_service::Watchdog;
use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{Assignment, AttemptId, JobId, Slot, Time};

use crate::agent_status::AgentStatus;
use crate::closed_devices::ClosedDevices;
use crate::core::{Command, Core, Limits};
use crate::disk::decoded_data::DecodedDataSets;
use crate::disk::job_dir::{self, JobDir};
use crate::gpu::oom_cause;
use crate::memory::fit_records::FitStore;
use crate::message::{Event, Input, SelfTestRequests};
use crate::prepare::{PrepareContext, banner, prepare};
use crate::running_trainers::RunningTrainers;
use crate::trainer::child::{Spawner, TrainerHandle};
use reports::{RETRY_AFTER, Reports};

/// What the driver works with.
pub struct DriverContext {
    /// What preparing an attempt needs.
    pub prepare: PrepareContext,
    /// Where trainers are started.
    pub spawner: Spawner,
    /// The trainers that run, for those that read them.
    pub running: RunningTrainers,
    /// Where devices are closed whose trainers do not end.
    pub closed_devices: ClosedDevices,
    /// Where self-tests are asked for.
    pub self_tests: SelfTestRequests,
    /// The driver's inbox.
    pub inbox: mpsc::Receiver<Input>,
    /// The inbox' sending end, for tasks that tell how they ended.
    pub sender: mpsc::Sender<Input>,
    /// The attempts to name in a Hello.
    pub held: watch::Sender<Vec<AttemptId>>,
    /// Where fit records and decoded data sets are told to the scheduler.
    pub status: watch::Sender<AgentStatus>,
    /// Where the task gives signs of life.
    pub watchdog: Watchdog,
}

/// The state of the task.
pub struct Driver {
    context: DriverContext,
    core: Core,
    reports: Reports,
    decoded: DecodedDataSets,
    trainers: BTreeMap<AttemptId, TrainerHandle>,
    /// Preparations, tests and transfers of each attempt.
    tasks: BTreeMap<AttemptId, Vec<AbortHandle>>,
    /// Uploads of pictures that have begun, and whether they are to stop before the next one.
    pictures: BTreeMap<AttemptId, Arc<AtomicBool>>,
    is_leaving: bool,
}

impl Driver {
    /// A driver that has taken nothing from its inbox yet.
    pub fn new(context: DriverContext) -> Self {
        let config = &context.prepare.config;
        let limits = Limits {
            stop_grace: config.stop_grace,
            shutdown_grace: config.shutdown_grace,
            checkpoint_upload_every: config.checkpoint_upload_every,
            stall_after: config.stall_after,
        };
        Self {
            core: Core::new(limits),
            reports: Reports::new(config.data_dir.clone(), config.spool_quota_bytes()),
            decoded: DecodedDataSets::load(&config.data_dir),
            trainers: BTreeMap::new(),
            tasks: BTreeMap::new(),
            pictures: BTreeMap::new(),
            is_leaving: false,
            context,
        }
    }

    /// Takes over what a former process left: its trainers died with it, its reports are on disk.
    pub async fn recover(&mut self) {
        for attempt in job_dir::spooled_attempts(&self.context.prepare.config.data_dir) {
            let ended = self.reports.recover(attempt);
            let hand_in = self.job_dir(attempt).hand_in(attempt.number).filter(|_| !ended);
            info!(%attempt, ended, hands_in = hand_in.is_some(), "an attempt of a former agent process");
            self.handle(Event::Recovered { attempt, ended, hand_in }).await;
        }
    }

    /// Runs until the core says that it is time to leave.
    pub async fn run(mut self) {
        while !self.is_leaving {
            let deadline = self.core.next_deadline();
            tokio::select! {
                input = self.context.inbox.recv() => match input {
                    Some(input) => self.on_input(input).await,
                    None => return, // Cannot be: the driver holds a sender.
                },
                permit = self.reports.next_permit() => self.reports.send_one(permit),
                () = self.context.watchdog.tick() => {}
                () = until(deadline) => self.handle(Event::Tick).await,
                () = tokio::time::sleep(RETRY_AFTER), if self.reports.must_retry() => {
                    for attempt in self.reports.retry() {
                        self.handle(Event::EndLost(attempt)).await;
                    }
                }
            }
        }
    }

    async fn on_input(&mut self, input: Input) {
        match input {
            Input::Core(event) => self.handle(event).await,
            Input::Connected(out) => {
                self.reports.connect(out);
                self.handle(Event::Connected).await;
            }
            Input::Disconnected => {
                self.reports.disconnect();
                self.handle(Event::Disconnected).await;
            }
            Input::RemoveJobDirs(jobs) => jobs.into_iter().for_each(|job| self.remove_job_dir(job)),
            Input::GpuMemoryTold { attempt, event, others_mib } => {
                self.update_fit_records(attempt, &event, others_mib);
            }
            Input::CheckDecodedData => self.tell_decoded_data(),
            Input::Acked(attempt, sequence) => {
                if self.reports.acked(attempt, sequence) {
                    self.handle(Event::AllAcked(attempt)).await;
                }
            }
        }
    }

    /// Lets the core decide on `event` and does what it says. What that leads to at once is decided too.
    async fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            match &event {
                Event::Exited(attempt, _) => {
                    self.trainers.remove(attempt);
                    self.context.running.exited(*attempt);
                }
                Event::Line(attempt, _, told) => self.context.running.told(*attempt, told),
                _ => {}
            }
            let commands = self.core.handle(Time::now(), event);
            // Before the next attempt is prepared: it may need the room of what the last one trained with.
            let (core, trainers) = (&self.core, &self.trainers);
            let reads = |attempt| core.reads_data(attempt) || trainers.contains_key(&attempt);
            self.context.prepare.content.keep_for(reads);
            for command in commands {
                events.extend(self.execute(command).await);
            }
        }
        self.context.held.send_if_modified(|held| {
            let now = self.core.held();
            let changed = *held != now;
            *held = now;
            changed
        });
    }

    async fn execute(&mut self, command: Command) -> Option<Event> {
        match command {
            Command::Prepare(assignment) => self.prepare(assignment),
            Command::Announce(lines) => announce(&lines),
            Command::Spawn(assignment, prepared) => return self.spawn(&assignment, &prepared).await,
            Command::Terminate(attempt) => {
                info!(%attempt, "SIGTERM to the trainer");
                self.trainers.get(&attempt).inspect(|trainer| trainer.terminate());
            }
            Command::Kill(attempt) => {
                warn!(%attempt, "SIGKILL to the trainer's process group");
                self.trainers.get(&attempt).inspect(|trainer| trainer.kill());
            }
            Command::Report(attempt, time, body) => self.reports.write(attempt, time, body),
            Command::UploadCheckpoint(attempt, saved) => self.upload_checkpoint(attempt, saved),
            Command::UploadPictures(attempt, stored) => self.upload_pictures(attempt, stored),
            Command::PausePictures(attempt) => self.pause_pictures(attempt),
            Command::UploadArtifacts(attempt, names) => self.upload_artifacts(attempt, names),
            Command::SaveHandIn(attempt, hand_in) => {
                if let Err(error) = self.job_dir(attempt).save_hand_in(attempt.number, &hand_in) {
                    warn!(%attempt, %error, "what is handed in is not remembered: a restart of the agent loses it");
                }
            }
            Command::DiagnoseStall(attempt) => self.diagnose_stall(attempt),
            Command::TestDevice(attempt, slot, lack) => {
                let self_tests = self.context.self_tests.clone();
                self.spawn_task(attempt, async move {
                    self_tests.test_after_failure((&slot).into(), lack).await;
                    Event::DeviceTested(attempt)
                });
            }
            Command::NoteMissingPath { path_use, named, below } => {
                self.context.prepare.note_missing(path_use, &named, below);
            }
            Command::CloseStuckSlots(stuck) => self.context.closed_devices.set_stuck(&stuck),
            Command::CancelTransfers(attempt) => {
                for task in self.tasks.remove(&attempt).unwrap_or_default() {
                    task.abort();
                }
            }
            Command::Control(attempt, asked) => {
                info!(%attempt, ?asked, "asked of the trainer");
                self.trainers.get(&attempt).inspect(|trainer| trainer.request(asked));
            }
            Command::SaveHostOom(attempt, record) => {
                if let Err(error) = self.job_dir(attempt).save_host_oom(record) {
                    warn!(%attempt, %error, "cannot note how the trainer was killed");
                }
            }
            Command::UpdateFitRecords(attempt, event) => self.on_fit_event(attempt, event),
            Command::NoteDecodedData { data, imgsz, files } => {
                if let Err(error) = self.decoded.note(data, imgsz, files) {
                    warn!(%error, "cannot keep which data sets are decoded");
                }
                self.tell_decoded_data();
            }
            Command::DropReports(attempt) => self.drop_reports(attempt),
            Command::DropCheckpoints(attempt) => {
                let checkpoints = self.job_dir(attempt).checkpoints();
                if let Err(error) = std::fs::remove_dir_all(&checkpoints) {
                    warn!(%attempt, %error, "cannot delete the checkpoints of a job that succeeded");
                }
            }
            Command::Exit => self.is_leaving = true,
        }
        None
    }

    fn drop_reports(&mut self, attempt: AttemptId) {
        self.tasks.remove(&attempt);
        self.pictures.remove(&attempt);
        self.job_dir(attempt).delete_hand_in(attempt.number);
        self.reports.delete(attempt);
    }

    fn job_dir(&self, attempt: AttemptId) -> JobDir {
        JobDir::new(&self.context.prepare.config.data_dir, attempt.job)
    }

    fn prepare(&mut self, assignment: Box<Assignment>) {
        let attempt = assignment.attempt;
        info!(%attempt, model = %assignment.spec.train.model, slot = ?assignment.slot, "assigned");
        self.context.self_tests.job_arrived((&assignment.slot).into());
        let prepared = prepare(self.context.prepare.clone(), assignment);
        self.spawn_task(attempt, async move { Event::Prepared(attempt, prepared.await) });
    }

    /// Runs work for an attempt whose result comes back as an event, and which can be cancelled.
    fn spawn_task(&mut self, attempt: AttemptId, work: impl Future<Output = Event> + Send + 'static) {
        let sender = self.context.sender.clone();
        let task = tokio::spawn(async move {
            let event = work.await;
            // The inbox is closed when the agent is leaving.
            let _leaving = sender.send(Input::Core(event)).await;
        });
        let running = self.tasks.entry(attempt).or_default();
        running.retain(|task| !task.is_finished());
        running.push(task.abort_handle());
    }

    /// Removes a job's directory, unless an attempt uses it or has reports that the scheduler has not stored.
    fn remove_job_dir(&self, job: JobId) {
        let held = self.core.held();
        let is_used = held.iter().chain(self.trainers.keys()).any(|attempt| attempt.job == job);
        if is_used || self.reports.needs(job) {
            return;
        }
        match JobDir::new(&self.context.prepare.config.data_dir, job).rename_for_removal() {
            // No new attempt finds it from now on; its files are removed in the background.
            Ok(renamed) => drop(tokio::task::spawn_blocking(move || {
                info!(%job, "the disk is short: the directory of a job that is over is removed");
                if let Err(error) = std::fs::remove_dir_all(&renamed) {
                    warn!(%job, %error, "a job's directory cannot be removed");
                }
            })),
            Err(error) => warn!(%job, %error, "a job's directory cannot be removed"),
        }
    }

    fn fits(&self) -> MutexGuard<'_, FitStore> {
        self.context.prepare.fits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from what a trainer told. What it tells of a GPU's memory waits until it is known who else used the GPU.
    fn on_fit_event(&self, attempt: AttemptId, event: TrainerEvent) {
        let slot = self.fits().slot(attempt);
        let on_gpu = slot.filter(|slot| matches!(slot, Slot::Gpu(_)));
        let is_of_memory = matches!(event, TrainerEvent::BatchSize(_) | TrainerEvent::Memory(_));
        match on_gpu.filter(|_| is_of_memory) {
            Some(slot) => {
                let (readings, sender) = (self.context.prepare.readings.clone(), self.context.sender.clone());
                tokio::spawn(async move {
                    let others_mib = oom_cause::read_again(readings, &slot).await.memory_mib;
                    // The inbox is closed when the agent is leaving.
                    let _leaving = sender.send(Input::GpuMemoryTold { attempt, event, others_mib }).await;
                });
            }
            None => self.update_fit_records(attempt, &event, None),
        }
    }

    fn update_fit_records(&self, attempt: AttemptId, event: &TrainerEvent, others_mib: Option<u64>) {
        let (mut fits, now) = (self.fits(), Time::now());
        let changed = fits.observe(now, attempt, event, others_mib).inspect_err(|error| {
            warn!(%error, "cannot keep what the run was seen to need");
        });
        if !matches!(changed, Ok(false)) {
            self.context.status.send_modify(|status| status.fit_records = fits.records(now));
        }
    }

    fn tell_decoded_data(&mut self) {
        let present = self.decoded.present();
        self.context.status.send_if_modified(|status| {
            let changes = status.cached_data != present;
            status.cached_data = present;
            changes
        });
    }
}

/// Prints lines as they are, without the log's own prefix: their wording is a contract.
fn announce(lines: &[String]) {
    let now = Time::now();
    for line in lines {
        trainyard_console::note(banner::stamped(now, line));
    }
}

async fn until(deadline: Option<Time>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline.since(Time::now())).await,
        None => std::future::pending().await,
    }
}
