//! Puts the agent together and runs it until it is asked to stop.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trainyard_proto::route::Route;
use trainyard_types::{Inventory, Time};

use crate::advert::Advert;
use crate::closings::Closings;
use crate::config::Config;
use crate::connection::{Connection, Readings};
use crate::core::Event;
use crate::crew::Crew;
use crate::disk;
use crate::driver::{Driver, Input};
use crate::fit::FitStore;
use crate::gpu::GpuProbe;
use crate::gpu::cards::{Cards, Snapshot};
use crate::gpu::keeper::{Around, Found, Keeper, PATIENCE, start_finding};
use crate::gpu::quarantine::{Ward, boot_id};
use crate::host::{Host, Meter};
use crate::http::{self, Pages};
use crate::identity::Identity;
use crate::job_dir;
use crate::paths::Paths;
use crate::prepare::Workshop;
use crate::self_test::{self, Tester, Tests};
use crate::trainer::child::Spawner;
use crate::trainer::groups::Groups;
use crate::trainer::leftovers;
use crate::transfer::Link;

/// How often main memory and processors are read.
const METER_EVERY: Duration = Duration::from_secs(1);

/// How often it is seen how full the disk is, and after how many times the jobs' directories are measured even
/// so.
const DISK_EVERY: Duration = Duration::from_secs(3);
const MEASURE_AFTER: u32 = 200;

/// Events that wait for the driver; whoever has more waits for it.
const INBOX: usize = 256;

/// Runs an agent until SIGTERM or SIGINT, or until `stop` is cancelled; then hands its jobs back.
///
/// # Errors
/// The data directory cannot be used, or another agent uses it.
pub async fn run(config: Config, probe: Arc<dyn GpuProbe>, stop: CancellationToken) -> anyhow::Result<()> {
    let config = Arc::new(config);
    fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make `data_dir` {}", config.data_dir.display()))?;
    let _lock = lock(&config.data_dir)?;
    let holds_jobs = !job_dir::spooled(&config.data_dir).is_empty();
    let identity = Identity::load(&config.data_dir, &config.machine_id_file, holds_jobs)?;
    let agent = identity.agent();
    warn_of_gaps(&config);
    // Before the GPUs are judged: what a former agent's trainers left is no stranger.
    let groups = end_leftovers(&config, identity.owner()).await;
    let host = Host::new(groups.as_ref());
    let (cards, first) = find_cards(&probe, &config, &host).await?;
    info!(%agent, name = config.name, gpus = first.inventory.gpus.len(), cpu_slots = config.cpu_slots, "agent");

    let start = Start { config, probe, identity, host };
    live(start, groups, cards, first, stop).await
}

/// What is known before anything runs.
struct Start {
    config: Arc<Config>,
    probe: Arc<dyn GpuProbe>,
    identity: Identity,
    host: Host,
}

/// What several of the agent's tasks share.
struct Shared {
    config: Arc<Config>,
    crew: Crew,
    closings: Closings,
    advert: watch::Sender<Advert>,
    inbox: mpsc::Sender<Input>,
}

impl Shared {
    fn tester(
        &self,
        identity: Identity,
        cards: watch::Receiver<Readings>,
        beats: watch::Receiver<u64>,
    ) -> (Tester, Tests) {
        Tester::new(self_test::Around {
            config: Arc::clone(&self.config),
            identity,
            crew: self.crew.clone(),
            cards,
            closings: self.closings.clone(),
            advert: self.advert.clone(),
            beats,
            inbox: self.inbox.clone(),
        })
    }

    fn around_cards(
        &self,
        probe: &Arc<dyn GpuProbe>,
        readings: watch::Sender<Readings>,
        link: watch::Receiver<Option<Link>>,
        tests: Tests,
    ) -> Around {
        Around {
            probe: Arc::clone(probe),
            crew: self.crew.clone(),
            trainer: self.config.trainer(),
            readings,
            advert: self.advert.clone(),
            link,
            closings: self.closings.clone(),
            tests,
            inbox: self.inbox.clone(),
        }
    }
}

/// Runs until somebody wants it to end.
async fn live(
    Start { config, probe, identity, host }: Start,
    groups: Option<Groups>,
    cards: Cards,
    first: Readings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (sender, inbox) = mpsc::channel(INBOX);
    let (link_sender, link) = watch::channel(None);
    let (held_sender, held) = watch::channel(Vec::new());
    let (readings_sender, readings) = watch::channel(first);
    let (beats_sender, beats) = watch::channel(0);
    let fits = FitStore::load(&config.data_dir);
    let fit_records = fits.records(Time::now());
    let (advert_sender, advert) = watch::channel(Advert { fit_records, ..Advert::default() });
    let shared = Shared {
        config: Arc::clone(&config),
        crew: Crew::default(),
        closings: Closings::new(advert_sender.clone()),
        advert: advert_sender.clone(),
        inbox: sender.clone(),
    };
    let paths = Paths::new(config.data_roots.clone(), config.stall_after, advert_sender.clone());
    let (mut tester, tests) = shared.tester(identity.clone(), readings.clone(), beats);
    tokio::join!(tester.begin(), paths.begin());
    let around = shared.around_cards(&probe, readings_sender, link.clone(), tests.clone());
    let (mut keeper, card_ends, snapshots) = Keeper::new(cards, around);
    keeper.begin().await;
    let Shared { crew, closings, .. } = shared;
    let workshop = Workshop {
        config: Arc::clone(&config),
        probe,
        cards: readings.clone(),
        crew: crew.clone(),
        fits: Arc::new(Mutex::new(fits)),
        link,
        host: host.clone(),
        advert: advert.clone(),
        paths: paths.clone(),
    };
    let spawner = Spawner::start(identity.clone(), groups).context("cannot start a thread")?;
    let house = House { config: Arc::clone(&config), inbox: sender.clone(), advert: advert_sender.clone() };
    let house = house.look(true).await;
    let ends = (inbox, sender.clone());
    let mut driver = Driver::new(workshop, spawner, (closings, tests), ends, held_sender, advert_sender);
    driver.recover().await;

    let end = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let connection = Connection {
        route: Route::new(config.schedulers()),
        identity,
        name: config.name.clone(),
        held,
        readings,
        advert,
        cards: card_ends,
        inbox: sender.clone(),
        link: link_sender,
        beats: beats_sender,
    };
    tasks.spawn(connection.keep(end.clone()));
    tasks.spawn(keeper.keep(end.clone()));
    tasks.spawn(tester.keep(end.clone()));
    tasks.spawn(paths.keep(end.clone()));
    tasks.spawn(http::serve(config.metrics_listen.clone(), pages(&config, snapshots, crew), end.clone()));
    tasks.spawn(keep_metering(host, sender.clone(), end.clone()));
    tasks.spawn(house.keep(end.clone()));
    tasks.spawn(forward_signals(sender, stop, end.clone()));
    driver.run().await;
    end.cancel();
    while tasks.join_next().await.is_some() {}
    info!("agent stopped");
    Ok(())
}

/// Ends what a former process of this agent has left running, and removes what it has left half-written.
/// Returns where trainers' control groups are made.
async fn end_leftovers(config: &Arc<Config>, owner: String) -> Option<Groups> {
    let config = Arc::clone(config);
    let end = move || {
        let groups = Groups::find(config.cgroup.as_deref());
        if let Some(groups) = &groups {
            groups.end_leftovers();
        }
        let ended = leftovers::end(&owner);
        if ended > 0 {
            warn!(ended, "a former agent's trainers left processes behind: they were killed");
        }
        job_dir::remove_drafts(&config.data_dir);
        groups
    };
    tokio::task::spawn_blocking(end).await.unwrap_or_default()
}

/// Says early what would otherwise surprise the first job.
fn warn_of_gaps(config: &Config) {
    let trainer = config.trainer();
    if !trainer.is_file() {
        warn!(trainer = %trainer.display(), "there is no trainer at `trainer`; no jobs come until there is");
    }
    if config.data_roots.is_empty() {
        warn!("`data_roots` is empty: jobs may read no data set on this agent");
    }
}

/// Keeps a second agent out of the data directory for as long as the file is held.
fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("agent.lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another agent uses {}; give each its own `data_dir`", data_dir.display())
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Tells the driver what the machine does, from the first reading on.
async fn keep_metering(host: Host, inbox: mpsc::Sender<Input>, end: CancellationToken) {
    let mut meter = Meter::new(host);
    let mut ticks = interval(METER_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while end.run_until_cancelled(ticks.tick()).await.is_some() {
        // One that finds the driver busy is not worth waiting for.
        let _busy = inbox.try_send(Input::Core(Event::Host(meter.read())));
    }
}

/// Keeps the disk of `data_dir` from becoming full.
struct House {
    config: Arc<Config>,
    inbox: mpsc::Sender<Input>,
    advert: watch::Sender<Advert>,
}

impl House {
    async fn keep(mut self, end: CancellationToken) {
        let mut ticks = interval(DISK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 0_u32.. {
            if end.run_until_cancelled(ticks.tick()).await.is_none() {
                return;
            }
            self = self.look(tick % MEASURE_AFTER == 0).await;
            let _busy = self.inbox.try_send(Input::LookAtCaches);
        }
    }

    /// Sees how much is free, says whether jobs may come, and has directories removed that are too much.
    async fn look(self, measures: bool) -> Self {
        let (config, limits) = (Arc::clone(&self.config), self.config.disk_limits());
        let refuses = !self.advert.borrow().disk_short.is_empty();
        let look = move || {
            let free = disk::free_bytes(&config.data_dir)?;
            let refusal = disk::refusal(&config.data_dir, free, limits.floor, refuses);
            let is_short = measures || !refusal.is_empty();
            let kept = if is_short { disk::kept(&config.data_dir) } else { Vec::new() };
            std::io::Result::Ok((refusal, disk::surplus(kept, free, limits)))
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok((refusal, surplus))) => {
                if !surplus.is_empty() {
                    // A driver that is busy is asked again.
                    let _busy = self.inbox.try_send(Input::Discard(surplus));
                }
                self.tell(refusal);
            }
            Ok(Err(error)) => warn!(%error, "cannot see how full the disk of `data_dir` is"),
            Err(_) => {} // The agent is leaving.
        }
        self
    }

    fn tell(&self, refusal: String) {
        self.advert.send_if_modified(|advert| {
            let changes = advert.disk_short.is_empty() != refusal.is_empty();
            match (changes, refusal.is_empty()) {
                (true, false) => warn!("no new jobs: {refusal}"),
                (true, true) => info!("the disk has room again: new jobs may come"),
                (false, _) => {}
            }
            // How many MiB exactly is no news.
            if changes {
                advert.disk_short.clone_from(&refusal);
            }
            changes
        });
        // Attempts that cross with the news go back at once. A driver that is busy is told the next time.
        let why = Some(refusal).filter(|why| !why.is_empty());
        let _busy = self.inbox.try_send(Input::Core(Event::DiskShort(why)));
    }
}

/// The GPUs that there are and what the machine offers. A GPU that stops answering keeps its place and loses
/// its readings; one that answers only later is taken in then. A driver that hangs is not waited for for ever.
async fn find_cards(
    probe: &Arc<dyn GpuProbe>,
    config: &Config,
    host: &Host,
) -> anyhow::Result<(Cards, Readings)> {
    let (found, driver_version) = match timeout(PATIENCE, start_finding(probe)).await {
        Ok(found) => found.context("cannot look for GPUs")?,
        Err(_) => {
            warn!("the driver hangs: no GPUs until it answers");
            Found::default()
        }
    };
    let (rules, data_dir) = (config.rules(), config.data_dir.clone());
    let ward = tokio::task::spawn_blocking(move || (Ward::load(&data_dir), boot_id())).await;
    let (ward, boot_id) = ward.context("cannot read which GPUs have failed")?;
    let cards = Cards::new(rules, found, ward, boot_id);
    let inventory = Inventory {
        gpus: cards.gpus(),
        cpu_slots: config.cpu_slots,
        memory_total_mib: host.memory_total_mib(),
        driver_version,
    };
    Ok((cards, Readings { inventory, ..Readings::default() }))
}

fn pages(config: &Config, snapshots: watch::Receiver<Vec<Snapshot>>, crew: Crew) -> Pages {
    let host = hostname::get().map(|name| name.to_string_lossy().into_owned());
    Pages {
        host: host.unwrap_or_else(|_| config.name.clone()),
        snapshots,
        crew,
        cache_dir: config.cache_dir(),
        cache: Arc::default(),
    }
}

/// Turns signals, and the caller's own wish, into shutdowns.
async fn forward_signals(inbox: mpsc::Sender<Input>, stop: CancellationToken, end: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("cannot listen for signals");
        return;
    };
    let mut wished = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: jobs are handed back"),
            _ = interrupt.recv() => info!("SIGINT: jobs are handed back"),
            () = stop.cancelled(), if !wished => wished = true,
            () = end.cancelled() => return,
        }
        if inbox.send(Input::Core(Event::Shutdown)).await.is_err() {
            return;
        }
    }
}
