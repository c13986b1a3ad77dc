//! The task that owns the states of the GPUs: reads them once a second, hears the driver's errors, and tells the
//! connection, the driver of attempts and the metrics page.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use trainyard_types::cuda_support::{Driver, LibtorchBuild};
use trainyard_types::{
    EndReason, Gpu, GpuTelemetry, GpuUuid, Inventory, Time, Unavailable, UnavailableCause, environment,
};

use super::other_processes::ProcFs;
use super::owner_mode::LocalTime;
use super::reading::{GpuAnswer, ProbeError};
use super::states::{GpuSnapshots, GpuStates};
use super::telemetry::{self, TelemetryBuffer};
use super::xid::{XidEffect, policy};
use super::{GpuProbe, XidEvent};
use crate::agent_status::AgentStatus;
use crate::closed_devices::ClosedDevices;
use crate::message::{
    Event, GpuMonitorLink, GpuOrder, Input, Readings, Refusal, SchedulerLink, SelfTestRequests,
};
use crate::running_trainers::RunningTrainers;

/// How often the GPUs are read.
pub const READ_EVERY: Duration = Duration::from_secs(1);

/// Why a machine takes no jobs that has neither.
const NOTHING_TO_OFFER: &str =
    "it has no GPU that NVIDIA's driver tells of (`nvidia-smi` lists them), and `cpu_slots` is 0";

/// How long a reading may take before the GPUs count as unresponsive. A sick driver takes its time.
pub const LONGEST_CALL: Duration = Duration::from_secs(30);

/// How long attempts wait for the scheduler to hear that their GPU is closed, so that it does not place them there
/// again.
const SCHEDULER_HEARS_WITHIN: Duration = Duration::from_secs(1);

/// How long the trainer may take to say what libtorch can use.
const TRAINER_ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// How often GPUs that are not known are looked for.
const FIND_EVERY: Duration = Duration::from_secs(5);

/// Requests to clear a GPU that may wait.
const CLEARS: usize = 16;

/// XIDs that may wait to be handled.
const XIDS: usize = 64;

/// What the GPUs told, or why none could be asked.
type Read = Result<Vec<GpuAnswer>, ProbeError>;

/// The GPUs that answer, and the driver's version.
#[derive(Debug, Default)]
pub struct Found {
    /// The GPUs, by index.
    pub gpus: Vec<Gpu>,
    /// The driver's version; empty without one.
    pub driver_version: String,
}

/// What the monitor works with.
pub struct MonitorContext {
    /// The machine's GPUs.
    pub probe: Arc<dyn GpuProbe>,
    /// The trainers of this agent.
    pub trainers: RunningTrainers,
    /// The trainer's binary, which knows libtorch.
    pub trainer_program: PathBuf,
    /// What Hello and heartbeats tell of the GPUs.
    pub readings: watch::Sender<Readings>,
    /// Tells why there is no GPU, on a machine that has nothing else to offer.
    pub status: watch::Sender<AgentStatus>,
    /// The scheduler, when it is there.
    pub link: watch::Receiver<Option<SchedulerLink>>,
    /// Devices that take no jobs for other reasons than the GPUs' readings.
    pub closed_devices: ClosedDevices,
    /// Where self-tests are asked for.
    pub self_tests: SelfTestRequests,
    /// The driver's inbox.
    pub inbox: mpsc::Sender<Input>,
}

/// The state of the task.
pub struct GpuMonitor {
    context: MonitorContext,
    gpus: GpuStates,
    /// How often the GPUs were read.
    reads: u64,
    /// The newest revision that the scheduler has heard of.
    told: watch::Receiver<u64>,
    clears: mpsc::Receiver<GpuUuid>,
    snapshots: watch::Sender<GpuSnapshots>,
    telemetry: TelemetryBuffer,
}

impl GpuMonitor {
    /// A monitor that has read nothing yet, the connection's ends of its channels, and what the metrics page reads.
    pub fn new(
        gpus: GpuStates,
        context: MonitorContext,
    ) -> (Self, GpuMonitorLink, watch::Receiver<GpuSnapshots>) {
        let (told_sender, told) = watch::channel(0);
        let (clear_sender, clears) = mpsc::channel(CLEARS);
        let (sample_sender, samples) = mpsc::channel(telemetry::WAITING);
        let (snapshots, scraped) = watch::channel(GpuSnapshots::default());
        let telemetry = TelemetryBuffer::new(sample_sender);
        let link = GpuMonitorLink { told: told_sender, clears: clear_sender, samples };
        (Self { context, gpus, reads: 0, told, clears, snapshots, telemetry }, link, scraped)
    }

    /// Takes the first reading, before the agent says Hello.
    pub async fn begin(&mut self) {
        let read = match timeout(LONGEST_CALL, start_reading(&self.context.probe)).await {
            Ok(read) => read.unwrap_or_else(|error| Err(ProbeError::Failed(error.to_string()))),
            Err(_) => Err(hanging()),
        };
        // There are no attempts yet that could be ordered about.
        let _none = self.on_read(read);
        self.gpus.close(self.context.closed_devices.gpus());
        self.publish();
        let closed = Event::GpusClosed(self.closed());
        // The driver that takes it does not run yet, and its inbox is empty.
        let _taken = self.context.inbox.try_send(Input::Core(closed));
    }

    /// Watches the GPUs until `end`.
    pub async fn run(mut self, end: CancellationToken) {
        let (found, mut xids) = mpsc::channel(XIDS);
        self.context.probe.watch_xids(found);
        let mut libtorch = self.start_asking();
        let mut closures = self.context.closed_devices.changes();
        closures.mark_changed();
        let mut finding: Option<JoinHandle<Found>> = None;
        let mut find_next = Time::now();
        let mut ticks = interval(READ_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reading: Option<(Time, JoinHandle<Read>)> = None;
        loop {
            let orders = tokio::select! {
                () = end.cancelled() => return,
                _ = ticks.tick() => match &reading {
                    None => {
                        reading = Some((Time::now(), start_reading(&self.context.probe)));
                        continue;
                    }
                    Some((since, _)) if Time::now().since(*since) > LONGEST_CALL => self.on_read(Err(hanging())),
                    Some(_) => continue,
                },
                read = finished(&mut reading) => {
                    let orders = self.on_read(read);
                    self.telemetry.add(Time::now(), &self.gpus.snapshots());
                    if self.gpus.has_unknown() && finding.is_none() && find_next <= Time::now() {
                        find_next = Time::now() + FIND_EVERY;
                        finding = Some(start_finding(&self.context.probe));
                    }
                    orders
                }
                found = finished_finding(&mut finding) => {
                    if self.adopt(found) {
                        libtorch = self.start_asking();
                    }
                    Vec::new()
                }
                // Without an event thread the driver tells none.
                Some(event) = xids.recv() => self.on_xid(&event).await,
                Some(uuid) = self.clears.recv() => {
                    self.on_clear(&uuid);
                    Vec::new()
                }
                Ok(()) = closures.changed() => {
                    self.gpus.close(self.context.closed_devices.gpus());
                    Vec::new()
                }
                answer = finished_asking(&mut libtorch) => {
                    if let Some(answer) = answer {
                        let probe = &self.context.probe;
                        let driver = Driver { version: probe.driver_version(), cuda: probe.cuda_version() };
                        self.gpus.on_libtorch(&driver, &answer);
                    }
                    Vec::new()
                }
            };
            if self.tell(orders).await.is_none() {
                return;
            }
        }
    }

    /// A person says that a GPU is sound, or, with an empty UUID, that the whole machine is.
    fn on_clear(&mut self, uuid: &GpuUuid) {
        let all = uuid.0.is_empty();
        let gpus = self.gpus.gpus().into_iter().map(|gpu| gpu.uuid).filter(|gpu| all || gpu == uuid);
        for gpu in gpus.collect::<Vec<_>>() {
            self.gpus.on_clear(&gpu);
        }
        self.context.self_tests.clear((!all).then(|| uuid.clone()));
    }

    /// Asks what libtorch can use, if there are GPUs.
    fn start_asking(&self) -> Option<JoinHandle<Option<LibtorchBuild>>> {
        let ask = || tokio::spawn(ask_trainer(self.context.trainer_program.clone()));
        (!self.gpus.gpus().is_empty()).then(ask)
    }

    /// Takes in GPUs that did not answer before. Returns whether there are any; then the connection greets the scheduler
    /// again.
    fn adopt(&mut self, Found { gpus, driver_version }: Found) -> bool {
        if !self.gpus.adopt(gpus) {
            return false;
        }
        let gpus = self.gpus.gpus();
        self.context.readings.send_modify(|readings| {
            readings.telemetry = self.gpus.telemetry();
            readings.inventory = Inventory { gpus, driver_version, ..readings.inventory.clone() };
        });
        true
    }

    fn on_read(&mut self, read: Read) -> Vec<GpuOrder> {
        self.reads += 1;
        let (trainers, agent) = (self.context.trainers.by_gpu(), std::process::id());
        self.gpus.on_readings(Time::now(), LocalTime::now(), read, &trainers, agent, &ProcFs)
    }

    async fn on_xid(&mut self, event: &XidEvent) -> Vec<GpuOrder> {
        let mut action = None;
        if let (XidEffect::AskDriver, Some(uuid)) = (policy(event.xid).effect, event.gpu.clone()) {
            let probe = Arc::clone(&self.context.probe);
            let asked = tokio::task::spawn_blocking(move || probe.recovery_action(&uuid));
            action = timeout(LONGEST_CALL, asked).await.ok().and_then(Result::ok).flatten();
        }
        self.gpus.on_xid(Time::now(), event, action)
    }

    /// Publishes what the GPUs do; returns the revision if which GPUs take jobs has changed.
    fn publish(&mut self) -> Option<u64> {
        let needs_restart = self.gpus.needs_restart(Time::now()).map(str::to_owned);
        self.snapshots.send_replace(GpuSnapshots { gpus: self.gpus.snapshots(), needs_restart });
        let telemetry = self.gpus.telemetry();
        let mut changed = None;
        self.tell_no_gpus();
        self.context.readings.send_modify(|readings| {
            readings.reads = self.reads;
            if causes(&readings.telemetry) != causes(&telemetry) {
                readings.revision += 1;
                changed = Some(readings.revision);
            }
            readings.telemetry = telemetry;
        });
        changed
    }

    /// Says why there are no GPUs, on a machine that has nothing else to offer.
    fn tell_no_gpus(&self) {
        let has_slots =
            self.context.readings.borrow().inventory.cpu_slots > 0 || !self.gpus.gpus().is_empty();
        let why = match self.gpus.unresponsive() {
            _ if has_slots => String::new(),
            Some(why) => why.to_owned(),
            None => NOTHING_TO_OFFER.to_owned(),
        };
        self.context.status.send_if_modified(|status| {
            let changes = status.no_gpus != why;
            if changes && !why.is_empty() {
                warn!(why, "no GPUs, and no CPU slots");
            }
            status.no_gpus = why;
            changes
        });
    }

    /// Tells the scheduler first, then the driver of attempts. `None` when the agent is leaving.
    async fn tell(&mut self, orders: Vec<GpuOrder>) -> Option<()> {
        if let Some(revision) = self.publish() {
            let closed = self.closed();
            self.context.inbox.send(Input::Core(Event::GpusClosed(closed))).await.ok()?;
            if !orders.is_empty() && self.context.link.borrow().is_some() {
                let told =
                    timeout(SCHEDULER_HEARS_WITHIN, self.told.wait_for(|told| *told >= revision)).await;
                debug!(revision, told = told.is_ok(), "which GPUs are closed");
            }
        }
        for order in orders {
            self.context.inbox.send(Input::Core(Event::Gpu(order))).await.ok()?;
        }
        Some(())
    }

    fn closed(&self) -> BTreeMap<GpuUuid, Refusal> {
        let readings = self.context.readings.borrow();
        let closed =
            |reading: &GpuTelemetry| Some((reading.uuid.clone(), refusal(reading.unavailable.as_ref()?)));
        readings.telemetry.iter().filter_map(closed).collect()
    }
}

/// Why each GPU takes no job.
fn causes(telemetry: &[GpuTelemetry]) -> Vec<Option<UnavailableCause>> {
    telemetry.iter().map(|reading| reading.unavailable.as_ref().map(|because| because.cause)).collect()
}

/// How an attempt ends that comes to a closed GPU all the same: for free.
fn refusal(unavailable: &Unavailable) -> Refusal {
    let reason = match unavailable.cause {
        UnavailableCause::Quarantined => EndReason::GpuFault,
        // Nothing has failed.
        UnavailableCause::Owner
        | UnavailableCause::ForeignUse
        | UnavailableCause::Unsupported
        | UnavailableCause::SelfTest
        | UnavailableCause::Duplicate
        | UnavailableCause::Stuck => EndReason::Preempted,
    };
    Refusal::new(reason, unavailable.message.clone())
}

fn hanging() -> ProbeError {
    ProbeError::Failed(format!("a call has been hanging in it for {} s", LONGEST_CALL.as_secs()))
}

/// Asks for all GPUs on a thread that may block.
pub fn start_finding(probe: &Arc<dyn GpuProbe>) -> JoinHandle<Found> {
    let probe = Arc::clone(probe);
    tokio::task::spawn_blocking(move || Found { gpus: probe.gpus(), driver_version: probe.driver_version() })
}

async fn finished_finding(finding: &mut Option<JoinHandle<Found>>) -> Found {
    let Some(handle) = finding else { return std::future::pending().await };
    let found = handle.await.unwrap_or_default();
    *finding = None;
    found
}

/// Reads on a thread that may block.
fn start_reading(probe: &Arc<dyn GpuProbe>) -> JoinHandle<Read> {
    let probe = Arc::clone(probe);
    tokio::task::spawn_blocking(move || probe.readings())
}

/// Ends with the reading that is under way; never while there is none.
async fn finished(reading: &mut Option<(Time, JoinHandle<Read>)>) -> Read {
    let Some((_, handle)) = reading else { return std::future::pending().await };
    let read = handle.await.unwrap_or_else(|error| Err(ProbeError::Failed(error.to_string())));
    *reading = None;
    read
}

async fn finished_asking(asked: &mut Option<JoinHandle<Option<LibtorchBuild>>>) -> Option<LibtorchBuild> {
    let Some(handle) = asked else { return std::future::pending().await };
    let answer = handle.await.unwrap_or_default();
    *asked = None;
    answer
}

/// What libtorch can use, as the trainer says; `None` if it does not say, which is no reason against a GPU.
async fn ask_trainer(trainer: PathBuf) -> Option<LibtorchBuild> {
    let mut command = tokio::process::Command::new(&trainer);
    command.env_clear().envs(environment::Child::Trainer.environment(std::env::vars_os()));
    command.args(["info", "--libtorch"]).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = timeout(TRAINER_ANSWERS_WITHIN, command.output()).await.ok()?.ok()?;
    let answer: Option<LibtorchBuild> = serde_json::from_slice(&output.stdout).ok();
    match &answer {
        Some(libtorch) => info!(version = libtorch.version, cuda = libtorch.cuda, "libtorch of the trainer"),
        None => info!("the trainer does not say what libtorch can use: GPUs are taken as they are"),
    }
    answer
}
