//! The machine proves itself: the trainer does one tiny step on each device, at the agent's start, when the trainer
//! has changed, after a start that failed for want of something, and every hour when nothing runs there. A device
//! that fails takes no jobs until it passes. A job that comes to a device that is open ends the test there.

mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trainyard_types::{GpuUuid, Unfit, UnfitKind};

use crate::advert::Advert;
use crate::closings::{Closings, Device};
use crate::config::Config;
use crate::connection::Readings;
use crate::core::{Event, Refusal};
use crate::crew::Crew;
use crate::driver::Input;
use crate::fit;
use crate::identity::Identity;

use run::run;
pub use run::{Passed, unstarted_lack};

/// How often it is seen what is due, and whether the trainer has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long the disk or share of the trainer may take to answer before the next look.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// From one test that was passed to the next.
const AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// From the first test that failed to the next; doubles up to [`AGAIN_AFTER`].
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// How long the agent's start waits for tests. Devices that take longer take jobs later.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// How long the end of an attempt waits until the scheduler knows that its device is closed.
const TELL_FIRST: Duration = Duration::from_secs(1);

/// Requests that may wait.
const WAITING: usize = 64;

/// The sending end of the tester's requests.
#[derive(Debug, Clone)]
pub struct Tests(mpsc::Sender<Request>);

#[derive(Debug)]
enum Request {
    /// A start has failed there, for want of this.
    Prove(Device, Unfit, oneshot::Sender<()>),
    /// A person says that a device is sound; `None` for all.
    Clear(Option<GpuUuid>),
    /// A job has come there.
    Occupied(Device),
}

impl Tests {
    /// Tests a device on which a start has failed, and closes it where that is in vain; then the scheduler knows, if
    /// it is there.
    pub async fn prove(&self, device: Device, lack: Unfit) {
        let (done, proved) = oneshot::channel();
        if self.0.send(Request::Prove(device, lack, done)).await.is_ok() {
            // The tester is gone when the agent is leaving.
            let _leaving = proved.await;
        }
    }

    /// Tests a GPU now, or with `None` every device.
    pub fn clear(&self, gpu: Option<GpuUuid>) {
        // Full: somebody is clearing very fast, and can do so again.
        let _dropped = self.0.try_send(Request::Clear(gpu));
    }

    /// A job has come to a device: a test that is only due there waits for another hour.
    pub fn occupied(&self, device: Device) {
        // Full: the test goes on, and ends by itself.
        let _dropped = self.0.try_send(Request::Occupied(device));
    }
}

/// What the tester works with.
pub struct Around {
    /// The agent's configuration.
    pub config: Arc<Config>,
    /// Whose processes tests are.
    pub identity: Identity,
    /// Which devices are in use.
    pub crew: Crew,
    /// Which GPUs there are.
    pub cards: watch::Receiver<Readings>,
    /// Where devices are closed.
    pub closings: Closings,
    /// For versions, and a trainer that is missing.
    pub advert: watch::Sender<Advert>,
    /// Counts heartbeats.
    pub beats: watch::Receiver<u64>,
    /// The driver's inbox.
    pub inbox: mpsc::Sender<Input>,
}

/// What is known of a device from its tests.
#[derive(Debug, Default)]
struct Proof {
    /// Failures in a row.
    failures: u32,
    /// When it is tested again; at once when it is not known.
    due: Option<Instant>,
    /// The test that runs.
    running: Option<AbortHandle>,
    /// Who wants to know.
    waiting: Vec<oneshot::Sender<()>>,
}

/// Runs the self-tests and closes devices that fail them.
pub struct Tester {
    around: Around,
    requests: mpsc::Receiver<Request>,
    proofs: BTreeMap<Device, Proof>,
    running: JoinSet<(Device, Result<Passed, Unfit>)>,
    /// The trainer as it was, see [`fit::trainer_identity`]; `None` before that is known.
    trainer: Option<String>,
    /// A look at it that is under way; at a share that does not answer it may be so for ever.
    look: Option<JoinHandle<String>>,
}

impl Tester {
    /// A tester that has tested nothing yet, and what asks it.
    pub fn new(around: Around) -> (Self, Tests) {
        let (sender, requests) = mpsc::channel(WAITING);
        let (proofs, running) = (BTreeMap::new(), JoinSet::new());
        let tester = Self { around, requests, proofs, running, trainer: None, look: None };
        (tester, Tests(sender))
    }

    /// Tests every device before the agent offers any, or closes those that take long.
    pub async fn begin(&mut self) {
        self.look_at_trainer().await;
        self.start_due();
        let all = async {
            while let Some(ended) = self.running.join_next().await {
                if let Ok((device, result)) = ended {
                    self.take(&device, result).await;
                }
            }
        };
        if timeout(START_PATIENCE, all).await.is_err() {
            info!("self-tests take long: devices take jobs when they have passed");
        }
    }

    /// Tests what is due until `end`.
    pub async fn keep(mut self, end: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                _ = ticks.tick() => {
                    self.look_at_trainer().await;
                    self.start_due();
                }
                Some(ended) = self.running.join_next() => {
                    if let Ok((device, result)) = ended {
                        self.take(&device, result).await;
                    }
                }
                Some(request) = self.requests.recv() => self.on_request(request).await,
            }
        }
    }

    async fn on_request(&mut self, request: Request) {
        match request {
            Request::Prove(device, lack, done) if !self.around.config.self_test => {
                self.without_test(&device, &lack);
                let _leaving = done.send(());
            }
            Request::Prove(device, _, done) => {
                self.proofs.entry(device.clone()).or_default().waiting.push(done);
                self.start(device);
            }
            Request::Occupied(device) => self.make_way(&device),
            Request::Clear(gpu) => {
                let devices = self.devices();
                let wanted = |device: &Device| {
                    gpu.is_none() || matches!(device, Device::Gpu(uuid) if Some(uuid) == gpu.as_ref())
                };
                for device in devices.into_iter().filter(wanted) {
                    self.start(device);
                }
            }
        }
    }

    /// What can be known where no trainer may be asked.
    fn without_test(&self, device: &Device, lack: &Unfit) {
        if lack.kind == UnfitKind::TrainerMissing {
            self.tell_trainer(lack.message.clone());
        }
        info!(?device, lack = lack.message, "no self-test, as `self_test` is off");
    }

    /// The devices that the agent offers.
    fn devices(&self) -> Vec<Device> {
        let offered = self.around.cards.borrow();
        let cpu = (offered.inventory.cpu_slots > 0).then_some(Device::Cpu);
        let gpus = offered.inventory.gpus.iter().map(|gpu| Device::Gpu(gpu.uuid.clone()));
        cpu.into_iter().chain(gpus).collect()
    }

    /// Another trainer is another machine. Where its share does not answer, one thread waits for it and nobody else.
    async fn look_at_trainer(&mut self) {
        let program = self.around.config.trainer();
        let path = program.clone();
        let look = self.look.get_or_insert_with(|| spawn_blocking(move || fit::trainer_identity(&path)));
        let Ok(looked) = timeout(LOOK_PATIENCE, look).await else { return };
        self.look = None;
        let Ok(now) = looked else { return };
        let is_there = !now.is_empty();
        let before = self.trainer.replace(now);
        if before.is_none() || before == self.trainer {
            return;
        }
        info!(trainer = %program.display(), "the trainer has changed: devices are tested again");
        if !self.around.config.self_test && is_there {
            self.tell_trainer(String::new());
        }
        self.proofs.values_mut().for_each(|proof| proof.due = None);
    }

    /// Starts the tests of devices whose time has come and on which nothing runs.
    fn start_due(&mut self) {
        if !self.around.config.self_test {
            return;
        }
        let now = Instant::now();
        for device in self.devices() {
            let proof = self.proofs.entry(device.clone()).or_default();
            let due = proof.running.is_none() && proof.due.is_none_or(|due| due <= now);
            if due && !self.around.crew.is_busy(&device) {
                self.start(device);
            }
        }
    }

    fn start(&mut self, device: Device) {
        let proof = self.proofs.entry(device.clone()).or_default();
        if proof.running.is_some() {
            return;
        }
        if proof.due.is_none() && proof.failures == 0 {
            self.around.closings.set_untested(&device, Some("its self-test is running".into()));
        }
        let (config, identity) = (Arc::clone(&self.around.config), self.around.identity.clone());
        let tested = device.clone();
        let test = self.running.spawn(async move {
            let result = run(&config, &identity, &tested).await;
            (tested, result)
        });
        self.proofs.entry(device).or_default().running = Some(test);
    }

    /// Ends the test of a device for which a job has come, unless the device is closed or somebody waits for the test.
    fn make_way(&mut self, device: &Device) {
        let is_open = self.around.closings.get(device).is_none();
        let Some(proof) = self.proofs.get_mut(device).filter(|proof| is_open && proof.waiting.is_empty())
        else {
            return;
        };
        if let Some(test) = proof.running.take() {
            info!(?device, "a job has come: the self-test there is given up");
            test.abort();
            proof.due = Some(Instant::now() + AGAIN_AFTER);
        }
    }

    /// A test has ended.
    async fn take(&mut self, device: &Device, result: Result<Passed, Unfit>) {
        let proof = self.proofs.entry(device.clone()).or_default();
        proof.running = None;
        let waiting = std::mem::take(&mut proof.waiting);
        match result {
            Ok(passed) => {
                (proof.failures, proof.due) = (0, Some(Instant::now() + AGAIN_AFTER));
                // Before the scheduler knows and sends somebody.
                self.tell_core(device, None).await;
                self.on_passed(device, &passed);
            }
            Err(unfit) => {
                let wait = RETRY_AFTER.saturating_mul(1 << proof.failures.min(8)).min(AGAIN_AFTER);
                proof.failures = proof.failures.saturating_add(1);
                proof.due = Some(Instant::now() + wait);
                self.on_failed(device, &unfit);
                self.tell_core(device, Some(unfit)).await;
            }
        }
        if !waiting.is_empty() {
            self.until_told(device).await;
            for done in waiting {
                let _leaving = done.send(());
            }
        }
    }

    fn on_passed(&self, device: &Device, passed: &Passed) {
        if self.around.closings.get(device).is_some() {
            info!(?device, seconds = passed.seconds, "self-test passed: the device takes jobs");
        }
        self.around.closings.set_untested(device, None);
        self.around.advert.send_if_modified(|advert| {
            let fitness = &mut advert.fitness;
            let known = |text: &mut String, now: &String| {
                let changes = !now.is_empty() && text != now;
                if changes {
                    text.clone_from(now);
                }
                changes
            };
            let versions = known(&mut fitness.trainer_version, &passed.trainer)
                | known(&mut fitness.libtorch_version, &passed.libtorch);
            let there = !std::mem::take(&mut advert.no_trainer).is_empty();
            versions || there
        });
    }

    fn on_failed(&self, device: &Device, unfit: &Unfit) {
        let why = format!(
            "the self-test failed: {}; it is repeated when the trainer changes, after a while, and with `yard agents \
             clear`",
            unfit.message
        );
        if self.around.closings.get(device).is_none_or(|closed| closed.message != why) {
            warn!(?device, kind = ?unfit.kind, why, "the device takes no jobs");
        }
        self.around.closings.set_untested(device, Some(why));
        if unfit.kind == UnfitKind::TrainerMissing {
            self.tell_trainer(unfit.message.clone());
        }
    }

    fn tell_trainer(&self, missing: String) {
        self.around.advert.send_if_modified(|advert| {
            let changes = advert.no_trainer != missing;
            advert.no_trainer = missing;
            changes
        });
    }

    /// Attempts that come to a CPU slot all the same go back at once. GPUs are the keeper's to tell of.
    async fn tell_core(&self, device: &Device, failed: Option<Unfit>) {
        if *device == Device::Cpu {
            let refusal = failed.map(Refusal::unfit);
            // The inbox is closed when the agent is leaving.
            let _leaving = self.around.inbox.send(Input::Core(Event::CpuClosed(refusal))).await;
        }
    }

    /// Waits until the scheduler was told how the device stands, if it listens.
    async fn until_told(&self, device: &Device) {
        let (mut cards, mut beats) = (self.around.cards.clone(), self.around.beats.clone());
        let told = async {
            if let Device::Gpu(uuid) = device {
                let closed = self.around.closings.get(device).is_some();
                let is_so = |cards: &Readings| {
                    cards.card(uuid).is_none_or(|card| card.unavailable.is_some() || !closed)
                };
                let _leaving = cards.wait_for(|cards| is_so(cards)).await.map(drop);
            }
            let before = *beats.borrow();
            let _leaving = beats.wait_for(|beats| *beats > before).await.map(drop);
        };
        // A scheduler that does not hear of it keeps away from the slot for a while by itself.
        let _away = timeout(TELL_FIRST, told).await;
    }
}

/// Why files cannot be made in a folder, which is made if it is not there.
fn unwritable(folder: &Path) -> Option<Unfit> {
    // Each device asks for itself, all at once.
    static PROBES: AtomicU64 = AtomicU64::new(0);
    let number = PROBES.fetch_add(1, Ordering::Relaxed);
    let probe = folder.join(format!(".probe-{}-{number}", std::process::id()));
    let write = || {
        std::fs::create_dir_all(folder)?;
        std::fs::write(&probe, b"x")?;
        std::fs::remove_file(&probe)
    };
    let error = write().err()?;
    // A full disk has a reason of its own.
    let full = crate::disk::is_full(&error);
    let message = format!("this agent cannot write {}: {error}", folder.display());
    (!full).then(|| Unfit::of_machine(UnfitKind::FolderUnwritable, message))
}
