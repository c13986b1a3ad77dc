//! Puts the agent together and runs its tasks until it is asked to stop.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trainyard_proto::route::Route;
use trainyard_service::{ServiceManager, Watchdog};
use trainyard_types::{AttemptId, Fitness, Time};

use crate::agent_status::AgentStatus;
use crate::closed_devices::ClosedDevices;
use crate::config::Config;
use crate::connection::Connection;
use crate::content::{Content, ContentContext, Limits};
use crate::data_check::{DataCheckContext, DataChecker};
use crate::disk::janitor::DiskJanitor;
use crate::disk::path_monitor::PathMonitor;
use crate::driver::{Driver, DriverContext};
use crate::enrolment::Renewal;
use crate::gpu::GpuProbe;
use crate::gpu::monitor::{GpuMonitor, MonitorContext};
use crate::gpu::states::GpuSnapshots;
use crate::host::{self, Host};
use crate::identity::Identity;
use crate::memory::fit_records::FitStore;
use crate::message::{
    DataCheckRequests, Event, Input, Prefetch, Readings, Reloaded, SchedulerLink, SelfTestRequests,
};
use crate::metrics::http::{self, MetricsPages};
use crate::prepare::{GIVE_UP_FACTOR, PrepareContext};
use crate::running_trainers::RunningTrainers;
use crate::self_test::{SelfTestContext, SelfTester};
use crate::startup::{self, Started};
use crate::status_line::StatusLine;
use crate::trainer::child::Spawner;

/// Time that ending takes beside `shutdown_grace`.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// Events that may wait for the driver; a task that has more waits for it.
const INBOX: usize = 256;

/// Who looks after the agent's process, and by what it hears of it.
pub struct Supervised {
    /// The service manager, which is told whether the agent is ready and lives.
    pub service: ServiceManager,
    /// What changes while the agent runs.
    pub reload: watch::Receiver<Reloaded>,
    /// Cancelled to end the agent gently.
    pub stop: CancellationToken,
}

/// Runs an agent until SIGTERM or SIGINT, or until `stop` is cancelled; then hands its jobs back.
///
/// # Errors
/// The data directory cannot be used, or another agent uses it.
pub async fn run(config: Config, probe: Arc<dyn GpuProbe>, supervised: Supervised) -> anyhow::Result<()> {
    let (service, stop) = (supervised.service.clone(), supervised.stop.clone());
    match stop.run_until_cancelled(startup::start(config, &probe, &service)).await {
        Some(started) => work(started?, probe, supervised).await,
        // It waited for its certificate, and its terminal is gone.
        None => Ok(()),
    }
}

/// Runs the tasks of an agent that has what it needs.
async fn work(mut started: Started, probe: Arc<dyn GpuProbe>, supervised: Supervised) -> anyhow::Result<()> {
    let Supervised { service, reload, stop } = supervised;
    let notices = std::mem::take(&mut started.notices);
    let Started { config, lock: _lock, identity, credentials, renewal, groups, host, gpus, readings, .. } =
        started;
    let (agent, name, cpu_slots) = (identity.agent(), &config.name, config.cpu_slots);
    info!(%agent, name, gpus = readings.inventory.gpus.len(), cpu_slots, "agent");

    let (inbox, received) = mpsc::channel(INBOX);
    let (link_sender, link) = watch::channel(None);
    let (prefetch_sender, prefetch) = watch::channel(None);
    let (held_sender, held) = watch::channel(Vec::new());
    let (readings_sender, readings) = watch::channel(readings);
    let (heartbeats_sender, heartbeats_sent) = watch::channel(0);
    let (self_tests, self_test_requests) = SelfTestRequests::channel();
    let fits = FitStore::load(&config.data_dir);
    let (status_sender, status) = watch::channel(first_status(&fits, notices));
    let paths = PathMonitor::new(config.data_roots.clone(), config.stall_after, status_sender.clone());
    let shared = Shared {
        content: open_content(&config, &paths, &status_sender, (&link, prefetch), &inbox).await,
        trainers: RunningTrainers::default(),
        closed_devices: ClosedDevices::new(status_sender.clone()),
        paths,
        spawner: Spawner::start(identity.clone(), groups).context("cannot start a thread")?,
        status: status_sender,
        config,
        probe,
        identity,
        host,
        self_tests,
        readings,
        link,
        inbox,
    };
    let mut tester = SelfTester::new(shared.self_test_context(heartbeats_sent), self_test_requests);
    tokio::join!(tester.begin(), shared.paths.begin());
    let (mut gpu_monitor, gpu_monitor_link, snapshots) =
        GpuMonitor::new(gpus, shared.monitor_context(readings_sender));
    gpu_monitor.begin().await;
    let janitor = shared.janitor().after_check().await;
    let mut driver = Driver::new(shared.driver_context(fits, received, held_sender, service.watchdog()));
    driver.recover().await;
    let (end, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let connection = Connection {
        route: Route::new(shared.config.schedulers()),
        identity: shared.identity.clone(),
        name: shared.config.name.clone(),
        reload: reload.clone(),
        credentials,
        held,
        readings: shared.readings.clone(),
        status,
        gpu_monitor: gpu_monitor_link,
        data_checks: shared.start_data_checker(&mut tasks, &end),
        prefetch: prefetch_sender,
        inbox: shared.inbox.clone(),
        link: link_sender,
        heartbeats_sent: heartbeats_sender,
        problem: watch::Sender::new(String::new()),
    };

    tasks.spawn(StatusLine::beside(&connection, service.clone()).run(end.clone()));
    tasks.spawn(connection.run(end.clone()));
    tasks.spawn(gpu_monitor.run(end.clone()));
    tasks.spawn(keep_certificate(renewal, reload, service.clone(), end.clone()));
    tasks.spawn(tester.run(end.clone()));
    shared.watch_the_machine(&mut tasks, janitor, snapshots, &end);
    tasks.spawn(forward_signals(shared, service, stop, end.clone()));
    driver.run().await;
    end_all(&end, tasks).await;
    Ok(())
}

/// Ends what runs beside the driver.
async fn end_all(end: &CancellationToken, mut tasks: JoinSet<()>) {
    end.cancel();
    while tasks.join_next().await.is_some() {}
    info!("agent stopped");
}

/// What an agent says of itself from the start.
fn first_status(fits: &FitStore, notices: Vec<String>) -> AgentStatus {
    let fitness = Fitness { notices, checks_data: true, ..Fitness::default() };
    AgentStatus { fit_records: fits.records(Time::now()), fitness, ..AgentStatus::default() }
}

/// Renews the agent's certificate, if it has one.
async fn keep_certificate(
    renewal: Option<Renewal>,
    reload: watch::Receiver<Reloaded>,
    service: ServiceManager,
    end: CancellationToken,
) {
    if let Some(renewal) = renewal {
        renewal.run(reload, service, end).await;
    }
}

/// Opens the store of pushed data sets and weights.
async fn open_content(
    config: &Config,
    paths: &PathMonitor,
    status: &watch::Sender<AgentStatus>,
    (link, prefetch): (&watch::Receiver<Option<SchedulerLink>>, watch::Receiver<Option<Prefetch>>),
    inbox: &mpsc::Sender<Input>,
) -> Content {
    let context = ContentContext {
        cache_dir: config.cache_dir(),
        limits: Limits { quota_gib: config.fetched_quota_gib, floor_gib: config.cache_floor_gib },
        stall_after: config.stall_after,
        give_up_after: config.stall_after * GIVE_UP_FACTOR,
        link: link.clone(),
        prefetch,
        status: status.clone(),
        paths: paths.clone(),
        inbox: inbox.clone(),
    };
    Content::open(context).await
}

/// What several tasks work with.
struct Shared {
    config: Arc<Config>,
    probe: Arc<dyn GpuProbe>,
    identity: Identity,
    host: Host,
    spawner: Spawner,
    trainers: RunningTrainers,
    closed_devices: ClosedDevices,
    self_tests: SelfTestRequests,
    paths: PathMonitor,
    content: Content,
    status: watch::Sender<AgentStatus>,
    readings: watch::Receiver<Readings>,
    link: watch::Receiver<Option<SchedulerLink>>,
    inbox: mpsc::Sender<Input>,
}

impl Shared {
    fn self_test_context(&self, heartbeats_sent: watch::Receiver<u64>) -> SelfTestContext {
        SelfTestContext {
            config: Arc::clone(&self.config),
            identity: self.identity.clone(),
            trainers: self.trainers.clone(),
            readings: self.readings.clone(),
            closed_devices: self.closed_devices.clone(),
            status: self.status.clone(),
            heartbeats_sent,
            inbox: self.inbox.clone(),
        }
    }

    /// Spawns what looks at data sets, and returns the way to it.
    fn start_data_checker(&self, tasks: &mut JoinSet<()>, end: &CancellationToken) -> DataCheckRequests {
        let context = DataCheckContext {
            config: Arc::clone(&self.config),
            identity: self.identity.clone(),
            paths: self.paths.clone(),
        };
        let (asking, requests) = DataCheckRequests::channel();
        tasks.spawn(DataChecker::new(context, requests).run(end.clone()));
        asking
    }

    fn monitor_context(&self, readings: watch::Sender<Readings>) -> MonitorContext {
        MonitorContext {
            probe: Arc::clone(&self.probe),
            trainers: self.trainers.clone(),
            trainer_program: self.config.trainer(),
            readings,
            status: self.status.clone(),
            link: self.link.clone(),
            closed_devices: self.closed_devices.clone(),
            self_tests: self.self_tests.clone(),
            inbox: self.inbox.clone(),
        }
    }

    fn driver_context(
        &self,
        fits: FitStore,
        inbox: mpsc::Receiver<Input>,
        held: watch::Sender<Vec<AttemptId>>,
        watchdog: Watchdog,
    ) -> DriverContext {
        DriverContext {
            prepare: PrepareContext {
                config: Arc::clone(&self.config),
                probe: Arc::clone(&self.probe),
                readings: self.readings.clone(),
                fits: Arc::new(Mutex::new(fits)),
                link: self.link.clone(),
                host: self.host.clone(),
                status: self.status.subscribe(),
                paths: self.paths.clone(),
                content: self.content.clone(),
            },
            spawner: self.spawner.clone(),
            running: self.trainers.clone(),
            closed_devices: self.closed_devices.clone(),
            self_tests: self.self_tests.clone(),
            inbox,
            sender: self.inbox.clone(),
            held,
            status: self.status.clone(),
            watchdog,
        }
    }

    /// Spawns what looks after disks, paths and main memory, and what shows the metrics.
    fn watch_the_machine(
        &self,
        tasks: &mut JoinSet<()>,
        janitor: DiskJanitor,
        snapshots: watch::Receiver<GpuSnapshots>,
        end: &CancellationToken,
    ) {
        tasks.spawn(janitor.run(end.clone()));
        tasks.spawn(self.content.clone().run(end.clone()));
        tasks.spawn(self.paths.clone().run(end.clone()));
        let pages = self.metrics_pages(snapshots);
        tasks.spawn(http::serve(self.config.metrics_listen.clone(), pages, end.clone()));
        tasks.spawn(host::monitor::run(self.host.clone(), self.inbox.clone(), end.clone()));
    }

    fn janitor(&self) -> DiskJanitor {
        DiskJanitor {
            data_dir: self.config.data_dir.clone(),
            limits: self.config.disk_limits(),
            inbox: self.inbox.clone(),
            status: self.status.clone(),
        }
    }

    fn metrics_pages(&self, snapshots: watch::Receiver<GpuSnapshots>) -> MetricsPages {
        let host = hostname::get().map(|name| name.to_string_lossy().into_owned());
        MetricsPages {
            host: host.unwrap_or_else(|_| self.config.name.clone()),
            snapshots,
            trainers: self.trainers.clone(),
            decoded_dir: self.config.decoded_dir(),
            cache: Arc::default(),
            content: self.content.clone(),
        }
    }
}

/// Turns signals, and the caller's own wish, into shutdowns.
async fn forward_signals(
    shared: Shared,
    service: ServiceManager,
    stop: CancellationToken,
    end: CancellationToken,
) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("cannot listen for signals");
        return;
    };
    let mut has_asked = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: jobs are handed back"),
            _ = interrupt.recv() => info!("SIGINT: jobs are handed back"),
            () = stop.cancelled(), if !has_asked => has_asked = true,
            () = end.cancelled() => return,
        }
        service.stopping_within(shared.config.shutdown_grace + STOP_MARGIN);
        if shared.inbox.send(Input::Core(Event::Shutdown)).await.is_err() {
            return;
        }
    }
}
