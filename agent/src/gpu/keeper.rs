//! The one task that owns what the agent makes of its GPUs: reads them once a second, hears the driver's
//! errors, and tells the connection, the driver of attempts and the metrics page.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use trainyard_types::{
    EndReason, Gpu, GpuTelemetry, GpuUuid, Inventory, Time, Unavailable, UnavailableCause, environment,
};

use super::cards::{Cards, Order, Snapshot};
use super::foreign::ProcFs;
use super::reading::{Answer, ProbeError};
use super::support::Libtorch;
use super::xid::{Effect, policy};
use super::{GpuProbe, XidEvent};
use crate::advert::Advert;
use crate::closings::Closings;
use crate::connection::{CardEnds, Readings};
use crate::core::{Event, Refusal};
use crate::crew::Crew;
use crate::driver::Input;
use crate::guest::Local;
use crate::self_test::Tests;
use crate::telemetry::{self, Batcher};
use crate::transfer::Link;

/// How often the GPUs are read.
pub const READ_EVERY: Duration = Duration::from_secs(1);

/// How long a reading may take before the GPUs count as silent. A sick driver takes its time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long attempts wait for the scheduler to hear that their GPU is closed, so that it does not send them
/// back to where they come from.
const TELL_FIRST: Duration = Duration::from_secs(1);

/// How long the trainer may take to say what libtorch can use.
const ASK_TRAINER: Duration = Duration::from_secs(60);

/// How often new GPUs are asked what they are.
const FIND_EVERY: Duration = Duration::from_secs(5);

/// GPUs that wait to be cleared.
const CLEARS: usize = 16;

/// XIDs that wait to be handled.
const XIDS: usize = 64;

type Read = Result<Vec<Answer>, ProbeError>;

/// The GPUs that answer, and the driver's version.
pub type Found = (Vec<Gpu>, String);

/// What the keeper works with.
pub struct Around {
    /// The machine's GPUs.
    pub probe: Arc<dyn GpuProbe>,
    /// Which trainers are ours.
    pub crew: Crew,
    /// The trainer's binary, which knows libtorch.
    pub trainer: PathBuf,
    /// For Hello and heartbeats.
    pub readings: watch::Sender<Readings>,
    /// The same, for an agent that has nothing to offer.
    pub advert: watch::Sender<Advert>,
    /// Whether the scheduler is there.
    pub link: watch::Receiver<Option<Link>>,
    /// What jobs are kept away from for other reasons than the GPUs' readings.
    pub closings: Closings,
    /// Who tests devices.
    pub tests: Tests,
    /// The driver's inbox.
    pub inbox: mpsc::Sender<Input>,
}

/// See the module.
pub struct Keeper {
    around: Around,
    cards: Cards,
    /// How often they were looked at.
    looks: u64,
    told: watch::Receiver<u64>,
    clears: mpsc::Receiver<GpuUuid>,
    snapshots: watch::Sender<Vec<Snapshot>>,
    batcher: Batcher,
}

impl Keeper {
    /// A keeper that has read nothing yet, the connection's ends of it, and what the metrics page reads.
    pub fn new(cards: Cards, around: Around) -> (Self, CardEnds, watch::Receiver<Vec<Snapshot>>) {
        let (told_sender, told) = watch::channel(0);
        let (clear_sender, clears) = mpsc::channel(CLEARS);
        let (sample_sender, samples) = mpsc::channel(telemetry::WAITING);
        let (snapshots, scraped) = watch::channel(Vec::new());
        let batcher = Batcher::new(sample_sender);
        let ends = CardEnds { told: told_sender, clears: clear_sender, samples };
        (Self { around, cards, looks: 0, told, clears, snapshots, batcher }, ends, scraped)
    }

    /// Takes the first reading, before the agent says Hello.
    pub async fn begin(&mut self) {
        let read = match timeout(PATIENCE, start_reading(&self.around.probe)).await {
            Ok(read) => read.unwrap_or_else(|error| Err(ProbeError::Failed(error.to_string()))),
            Err(_) => Err(hanging()),
        };
        // There are no attempts yet that could be ordered about.
        let _none = self.on_read(read);
        self.cards.close(self.around.closings.gpus());
        self.publish();
        let closed = Event::CardsClosed(self.closed());
        // The driver that takes it does not run yet, and its inbox is empty.
        let _taken = self.around.inbox.try_send(Input::Core(closed));
    }

    /// Keeps the GPUs until `end`.
    pub async fn keep(mut self, end: CancellationToken) {
        let (found, mut xids) = mpsc::channel(XIDS);
        self.around.probe.watch_xids(found);
        let mut libtorch = self.start_asking();
        let mut closings = self.around.closings.changes();
        closings.mark_changed();
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
                        reading = Some((Time::now(), start_reading(&self.around.probe)));
                        continue;
                    }
                    Some((since, _)) if Time::now().since(*since) > PATIENCE => self.on_read(Err(hanging())),
                    Some(_) => continue,
                },
                read = finished(&mut reading) => {
                    let orders = self.on_read(read);
                    self.batcher.add(Time::now(), &self.cards.snapshots());
                    if self.cards.has_strangers() && finding.is_none() && find_next <= Time::now() {
                        find_next = Time::now() + FIND_EVERY;
                        finding = Some(start_finding(&self.around.probe));
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
                Ok(()) = closings.changed() => {
                    self.cards.close(self.around.closings.gpus());
                    Vec::new()
                }
                answer = finished_asking(&mut libtorch) => {
                    if let Some(answer) = answer {
                        self.cards.on_libtorch(self.around.probe.cuda_version(), &answer);
                    }
                    Vec::new()
                }
            };
            if self.tell(orders).await.is_none() {
                return;
            }
        }
    }

    /// Somebody says that a GPU is sound, or, without its UUID, that the whole machine is.
    fn on_clear(&mut self, uuid: &GpuUuid) {
        let all = uuid.0.is_empty();
        let gpus = self.cards.gpus().into_iter().map(|gpu| gpu.uuid).filter(|gpu| all || gpu == uuid);
        for gpu in gpus.collect::<Vec<_>>() {
            self.cards.on_clear(&gpu);
        }
        self.around.tests.clear((!all).then(|| uuid.clone()));
    }

    /// Asks what libtorch can use, if there are GPUs.
    fn start_asking(&self) -> Option<JoinHandle<Option<Libtorch>>> {
        let ask = || tokio::spawn(ask_trainer(self.around.trainer.clone()));
        (!self.cards.gpus().is_empty()).then(ask)
    }

    /// Takes GPUs in that did not answer before. Says whether there are any; then the connection greets the
    /// scheduler again.
    fn adopt(&mut self, (gpus, driver_version): Found) -> bool {
        if !self.cards.adopt(gpus) {
            return false;
        }
        let gpus = self.cards.gpus();
        self.around.readings.send_modify(|readings| {
            readings.telemetry = self.cards.telemetry();
            readings.inventory = Inventory { gpus, driver_version, ..readings.inventory.clone() };
        });
        true
    }

    fn on_read(&mut self, read: Read) -> Vec<Order> {
        self.looks += 1;
        let (trainers, agent) = (self.around.crew.by_card(), std::process::id());
        self.cards.on_readings(Time::now(), Local::now(), read, &trainers, agent, &ProcFs)
    }

    async fn on_xid(&mut self, event: &XidEvent) -> Vec<Order> {
        let mut action = None;
        if let (Effect::AskDriver, Some(uuid)) = (policy(event.xid).effect, event.gpu.clone()) {
            let probe = Arc::clone(&self.around.probe);
            let asked = tokio::task::spawn_blocking(move || probe.recovery_action(&uuid));
            action = timeout(PATIENCE, asked).await.ok().and_then(Result::ok).flatten();
        }
        self.cards.on_xid(Time::now(), event, action)
    }

    /// Publishes what the GPUs do; returns the revision if which GPUs take jobs has changed.
    fn publish(&mut self) -> Option<u64> {
        self.snapshots.send_replace(self.cards.snapshots());
        let telemetry = self.cards.telemetry();
        let mut changed = None;
        self.tell_missing();
        self.around.readings.send_modify(|readings| {
            readings.looks = self.looks;
            if causes(&readings.telemetry) != causes(&telemetry) {
                readings.revision += 1;
                changed = Some(readings.revision);
            }
            readings.telemetry = telemetry;
        });
        changed
    }

    /// Says why there are no GPUs, on a machine that has nothing else to offer.
    fn tell_missing(&self) {
        let has_slots =
            self.around.readings.borrow().inventory.cpu_slots > 0 || !self.cards.gpus().is_empty();
        let why = self.cards.silence().filter(|_| !has_slots).unwrap_or_default().to_owned();
        self.around.advert.send_if_modified(|advert| {
            let changes = advert.no_cards != why;
            if changes && !why.is_empty() {
                warn!(why, "no GPUs, and no CPU slots");
            }
            advert.no_cards = why;
            changes
        });
    }

    /// Tells everybody; the scheduler first. `None` when the agent is leaving.
    async fn tell(&mut self, orders: Vec<Order>) -> Option<()> {
        if let Some(revision) = self.publish() {
            let closed = self.closed();
            self.around.inbox.send(Input::Core(Event::CardsClosed(closed))).await.ok()?;
            if !orders.is_empty() && self.around.link.borrow().is_some() {
                let told = timeout(TELL_FIRST, self.told.wait_for(|told| *told >= revision)).await;
                debug!(revision, told = told.is_ok(), "which GPUs are closed");
            }
        }
        for order in orders {
            self.around.inbox.send(Input::Core(Event::Card(order))).await.ok()?;
        }
        Some(())
    }

    fn closed(&self) -> BTreeMap<GpuUuid, Refusal> {
        let readings = self.around.readings.borrow();
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
    ProbeError::Failed(format!("a call has been hanging in it for {} s", PATIENCE.as_secs()))
}

/// Asks for all GPUs on a thread that may block.
pub fn start_finding(probe: &Arc<dyn GpuProbe>) -> JoinHandle<Found> {
    let probe = Arc::clone(probe);
    tokio::task::spawn_blocking(move || (probe.gpus(), probe.driver_version()))
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

async fn finished_asking(asked: &mut Option<JoinHandle<Option<Libtorch>>>) -> Option<Libtorch> {
    let Some(handle) = asked else { return std::future::pending().await };
    let answer = handle.await.unwrap_or_default();
    *asked = None;
    answer
}

/// What libtorch can use, by the trainer's word; `None` if it does not say, which is no reason against a GPU.
async fn ask_trainer(trainer: PathBuf) -> Option<Libtorch> {
    let mut command = tokio::process::Command::new(&trainer);
    command.env_clear().envs(environment::Child::Trainer.environment(std::env::vars_os()));
    command.args(["info", "--libtorch"]).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = timeout(ASK_TRAINER, command.output()).await.ok()?.ok()?;
    let answer: Option<Libtorch> = serde_json::from_slice(&output.stdout).ok();
    match &answer {
        Some(libtorch) => info!(version = libtorch.version, cuda = libtorch.cuda, "libtorch of the trainer"),
        None => info!("the trainer does not say what libtorch can use: GPUs are taken as they are"),
    }
    answer
}
