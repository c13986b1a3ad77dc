//! Self-tests: the trainer does one tiny step on each device.
//!
//! That happens at the agent's start, when the trainer has changed, after a start that failed because the machine lacks
//! something, and every hour when nothing runs there. A device that fails takes no jobs until it passes. A job that comes
//! to an open device ends the test there.

mod process;
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
use trainyard_types::{Unfit, UnfitKind};

use crate::agent_status::AgentStatus;
use crate::closed_devices::ClosedDevices;
use crate::config::Config;
use crate::device::Device;
use crate::disk::space;
use crate::identity::Identity;
use crate::memory::fit_records::trainer_identity;
use crate::message::{Event, Input, Readings, Refusal, SelfTestRequest};
use crate::running_trainers::RunningTrainers;
pub use process::program_unfit;
use process::{SelfTestReport, run_test};

/// How often it is checked which tests are due, and whether the trainer has changed.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// How long a check waits for the disk or share of the trainer.
const TRAINER_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// From a test that was passed to the next one.
const REPEAT_AFTER: Duration = Duration::from_secs(3600);

/// From the first test that failed to the next one; doubles up to [`REPEAT_AFTER`].
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// How long the agent's start waits for tests. Devices that take longer take jobs later.
const START_WAITS: Duration = Duration::from_secs(10);

/// How long the end of an attempt waits until the scheduler knows that its device is closed.
const SCHEDULER_HEARS_WITHIN: Duration = Duration::from_secs(1);

/// What the tester works with.
pub struct SelfTestContext {
    /// The agent's configuration.
    pub config: Arc<Config>,
    /// The agent to which the processes of tests belong.
    pub identity: Identity,
    /// The trainers that run, which keep devices busy.
    pub trainers: RunningTrainers,
    /// Which devices there are, and which GPUs are closed.
    pub readings: watch::Receiver<Readings>,
    /// Where devices are closed that fail.
    pub closed_devices: ClosedDevices,
    /// Where versions are told, and that the trainer is missing.
    pub status: watch::Sender<AgentStatus>,
    /// Counts the heartbeats that were sent.
    pub heartbeats_sent: watch::Receiver<u64>,
    /// The driver's inbox.
    pub inbox: mpsc::Sender<Input>,
}

/// What is known of a device from its tests.
#[derive(Debug, Default)]
struct DeviceTest {
    /// Failures in a row.
    failures: u32,
    /// When it is tested again; `None` for at once.
    due: Option<Instant>,
    /// The test that runs.
    running: Option<AbortHandle>,
    /// Those who wait for the end of the test.
    waiting: Vec<oneshot::Sender<()>>,
}

/// Runs the self-tests and closes devices that fail them.
pub struct SelfTester {
    context: SelfTestContext,
    requests: mpsc::Receiver<SelfTestRequest>,
    tests: BTreeMap<Device, DeviceTest>,
    running: JoinSet<(Device, Result<SelfTestReport, Unfit>)>,
    /// The trainer as it was at the last check, see [`trainer_identity`].
    trainer: Option<String>,
    /// A check of the trainer that is under way. On a share that does not answer it may never end.
    trainer_check: Option<JoinHandle<String>>,
}

impl SelfTester {
    /// A tester that has tested nothing yet, and takes `requests`.
    pub fn new(context: SelfTestContext, requests: mpsc::Receiver<SelfTestRequest>) -> Self {
        let (tests, running) = (BTreeMap::new(), JoinSet::new());
        Self { context, requests, tests, running, trainer: None, trainer_check: None }
    }

    /// Tests every device before the agent offers any, or closes those that take long.
    pub async fn begin(&mut self) {
        self.check_trainer().await;
        self.start_due();
        let all = async {
            while let Some(ended) = self.running.join_next().await {
                if let Ok((device, result)) = ended {
                    self.take(&device, result).await;
                }
            }
        };
        if timeout(START_WAITS, all).await.is_err() {
            info!("self-tests take long: devices take jobs when they have passed");
        }
    }

    /// Tests what is due until `end`.
    pub async fn run(mut self, end: CancellationToken) {
        let mut ticks = interval(CHECK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                _ = ticks.tick() => {
                    self.check_trainer().await;
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

    async fn on_request(&mut self, request: SelfTestRequest) {
        match request {
            SelfTestRequest::TestAfterFailure(device, lack, done) if !self.context.config.self_test => {
                self.skip_test(&device, &lack);
                let _leaving = done.send(());
            }
            SelfTestRequest::TestAfterFailure(device, _, done) => {
                self.tests.entry(device.clone()).or_default().waiting.push(done);
                self.start(device);
            }
            SelfTestRequest::JobArrived(device) => self.yield_to_job(&device),
            SelfTestRequest::Clear(gpu) => {
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

    /// Takes what a failed start tells, where self-tests are switched off.
    fn skip_test(&self, device: &Device, lack: &Unfit) {
        if lack.kind == UnfitKind::TrainerMissing {
            self.tell_trainer(lack.message.clone());
        }
        info!(?device, lack = lack.message, "no self-test, as `self_test` is off");
    }

    /// The devices that the agent offers.
    fn devices(&self) -> Vec<Device> {
        let offered = self.context.readings.borrow();
        let cpu = (offered.inventory.cpu_slots > 0).then_some(Device::Cpu);
        let gpus = offered.inventory.gpus.iter().map(|gpu| Device::Gpu(gpu.uuid.clone()));
        cpu.into_iter().chain(gpus).collect()
    }

    /// Has all devices tested again if the trainer has changed. Where its share does not answer, one thread waits for it and
    /// nobody else.
    async fn check_trainer(&mut self) {
        let program = self.context.config.trainer();
        let path = program.clone();
        let check = self.trainer_check.get_or_insert_with(|| spawn_blocking(move || trainer_identity(&path)));
        let Ok(checked) = timeout(TRAINER_ANSWERS_WITHIN, check).await else { return };
        self.trainer_check = None;
        let Ok(now) = checked else { return };
        let is_there = !now.is_empty();
        let before = self.trainer.replace(now);
        if before.is_none() || before == self.trainer {
            return;
        }
        info!(trainer = %program.display(), "the trainer has changed: devices are tested again");
        if !self.context.config.self_test && is_there {
            self.tell_trainer(String::new());
        }
        self.tests.values_mut().for_each(|test_state| test_state.due = None);
    }

    /// Starts the tests of devices whose time has come and on which nothing runs.
    fn start_due(&mut self) {
        if !self.context.config.self_test {
            return;
        }
        let now = Instant::now();
        for device in self.devices() {
            let test_state = self.tests.entry(device.clone()).or_default();
            let due = test_state.running.is_none() && test_state.due.is_none_or(|due| due <= now);
            if due && !self.context.trainers.is_busy(&device) {
                self.start(device);
            }
        }
    }

    fn start(&mut self, device: Device) {
        let test_state = self.tests.entry(device.clone()).or_default();
        if test_state.running.is_some() {
            return;
        }
        if test_state.due.is_none() && test_state.failures == 0 {
            self.context.closed_devices.set_untested(&device, Some("its self-test is running".into()));
        }
        let (config, identity) = (Arc::clone(&self.context.config), self.context.identity.clone());
        let tested = device.clone();
        let test = self.running.spawn(async move {
            let result = run_test(&config, &identity, &tested).await;
            (tested, result)
        });
        self.tests.entry(device).or_default().running = Some(test);
    }

    /// Ends the test of a device for which a job has come, unless the device is closed or somebody waits for the test.
    fn yield_to_job(&mut self, device: &Device) {
        let is_open = self.context.closed_devices.get(device).is_none();
        let Some(test_state) =
            self.tests.get_mut(device).filter(|test_state| is_open && test_state.waiting.is_empty())
        else {
            return;
        };
        if let Some(test) = test_state.running.take() {
            info!(?device, "a job has come: the self-test there is given up");
            test.abort();
            test_state.due = Some(Instant::now() + REPEAT_AFTER);
        }
    }

    /// Takes the result of a test.
    async fn take(&mut self, device: &Device, result: Result<SelfTestReport, Unfit>) {
        let test_state = self.tests.entry(device.clone()).or_default();
        test_state.running = None;
        let waiting = std::mem::take(&mut test_state.waiting);
        match result {
            Ok(passed) => {
                (test_state.failures, test_state.due) = (0, Some(Instant::now() + REPEAT_AFTER));
                // Before the scheduler knows and sends an attempt.
                self.tell_core(device, None).await;
                self.on_passed(device, &passed);
            }
            Err(unfit) => {
                let wait = RETRY_AFTER.saturating_mul(1 << test_state.failures.min(8)).min(REPEAT_AFTER);
                test_state.failures = test_state.failures.saturating_add(1);
                test_state.due = Some(Instant::now() + wait);
                self.on_failed(device, &unfit);
                self.tell_core(device, Some(unfit)).await;
            }
        }
        if !waiting.is_empty() {
            self.wait_until_told(device).await;
            for done in waiting {
                let _leaving = done.send(());
            }
        }
    }

    fn on_passed(&self, device: &Device, passed: &SelfTestReport) {
        if self.context.closed_devices.get(device).is_some() {
            info!(?device, seconds = passed.seconds, "self-test passed: the device takes jobs");
        }
        self.context.closed_devices.set_untested(device, None);
        self.context.status.send_if_modified(|status| {
            let fitness = &mut status.fitness;
            let known = |text: &mut String, now: &String| {
                let changes = !now.is_empty() && text != now;
                if changes {
                    text.clone_from(now);
                }
                changes
            };
            let versions = known(&mut fitness.trainer_version, &passed.trainer)
                | known(&mut fitness.libtorch_version, &passed.libtorch);
            let there = !std::mem::take(&mut status.no_trainer).is_empty();
            versions || there
        });
    }

    fn on_failed(&self, device: &Device, unfit: &Unfit) {
        let why = format!(
            "the self-test failed: {}; it is repeated when the trainer changes, after a while, and with `yard agents \
             clear`",
            unfit.message
        );
        if self.context.closed_devices.get(device).is_none_or(|closed| closed.message != why) {
            warn!(?device, kind = ?unfit.kind, why, "the device takes no jobs");
        }
        self.context.closed_devices.set_untested(device, Some(why));
        if unfit.kind == UnfitKind::TrainerMissing {
            self.tell_trainer(unfit.message.clone());
        }
    }

    fn tell_trainer(&self, missing: String) {
        self.context.status.send_if_modified(|status| {
            let changes = status.no_trainer != missing;
            status.no_trainer = missing;
            changes
        });
    }

    /// Tells the core whether CPU slots are closed: attempts that come all the same go back at once. Of GPUs the GPU
    /// monitor tells.
    async fn tell_core(&self, device: &Device, failed: Option<Unfit>) {
        if *device == Device::Cpu {
            let refusal = failed.map(Refusal::unfit);
            // The inbox is closed when the agent is leaving.
            let _leaving = self.context.inbox.send(Input::Core(Event::CpuClosed(refusal))).await;
        }
    }

    /// Waits until the scheduler was told whether the device is closed, if the scheduler is there.
    async fn wait_until_told(&self, device: &Device) {
        let (mut readings, mut heartbeats) =
            (self.context.readings.clone(), self.context.heartbeats_sent.clone());
        let told = async {
            if let Device::Gpu(uuid) = device {
                let closed = self.context.closed_devices.get(device).is_some();
                let is_known = |readings: &Readings| {
                    readings.gpu(uuid).is_none_or(|gpu| gpu.unavailable.is_some() || !closed)
                };
                let _leaving = readings.wait_for(|readings| is_known(readings)).await.map(drop);
            }
            let before = *heartbeats.borrow();
            let _leaving = heartbeats.wait_for(|sent| *sent > before).await.map(drop);
        };
        // A scheduler that does not hear of it keeps away from the slot for a while by itself.
        let _away = timeout(SCHEDULER_HEARS_WITHIN, told).await;
    }
}

/// Why no file can be written in a folder, which is made if it is not there.
fn folder_unfit(folder: &Path) -> Option<Unfit> {
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
    let full = space::is_full(&error);
    let message = format!("this agent cannot write {}: {error}", folder.display());
    (!full).then(|| Unfit::of_machine(UnfitKind::FolderUnwritable, message))
}
