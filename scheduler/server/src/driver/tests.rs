//! The driver over a store that fails, and with other schedulers.

use std::sync::atomic::{AtomicBool, Ordering};

use trainyard_scheduler_core::{Content, EventRecord};
use trainyard_types::trainer::{Log, LogLevel, TrainerEvent};
use trainyard_types::{
    AttemptId, DeviceKind, Inventory, JobSpec, JobState, ModelScale, Report, ReportBody, Resources, Time,
    TrainSpec,
};

use super::*;
use crate::objects::Objects;
use crate::store::Pending;
use crate::store::memory::MemoryStore;

/// A store whose commits fail at will.
#[derive(Default)]
struct Flaky {
    inner: MemoryStore,
    broken: AtomicBool,
    /// Whether nobody can lead.
    down: AtomicBool,
    /// Whether a failing commit takes effect all the same, as when only the answer is lost.
    lands: AtomicBool,
}

impl Store for Flaky {
    fn campaign<'a>(&'a self, candidate: &'a Candidate) -> Pending<'a, Campaigned> {
        if self.down.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Unavailable("broken pipe".into())) });
        }
        self.inner.campaign(candidate)
    }

    fn renew<'a>(&'a self, candidate: &'a Candidate, leader: LeaderEpoch) -> Pending<'a, ()> {
        self.inner.renew(candidate, leader)
    }

    fn resign<'a>(&'a self, candidate: &'a Candidate) -> Pending<'a, ()> {
        self.inner.resign(candidate)
    }

    fn claim_blobs(&self, ours: Uuid) -> Pending<'_, Uuid> {
        self.inner.claim_blobs(ours)
    }

    fn peek(&self) -> Pending<'_, crate::store::Loaded> {
        self.inner.peek()
    }

    fn load(&self, leader: LeaderEpoch) -> Pending<'_, crate::store::Loaded> {
        self.inner.load(leader)
    }

    fn commit<'a>(&'a self, leader: LeaderEpoch, writes: &'a [Write]) -> Pending<'a, ()> {
        Box::pin(async move {
            let broken = !writes.is_empty() && self.broken.swap(false, Ordering::SeqCst);
            if !broken || self.lands.load(Ordering::SeqCst) {
                self.inner.commit(leader, writes).await?;
            }
            if broken { Err(StoreError::Unavailable("broken".into())) } else { Ok(()) }
        })
    }

    fn event_history(&self) -> u64 {
        self.inner.event_history()
    }

    fn trim(&self, leader: LeaderEpoch, job: JobId, first: u64) -> Pending<'_, ()> {
        self.inner.trim(leader, job, first)
    }

    fn events(&self, job: JobId, after: u64, limit: usize) -> Pending<'_, Vec<EventRecord>> {
        self.inner.events(job, after, limit)
    }

    fn record<'a>(
        &'a self,
        now: Time,
        samples_of_agents: &'a [crate::sample::AgentSamples],
    ) -> Pending<'a, ()> {
        self.inner.record(now, samples_of_agents)
    }

    fn telemetry(
        &self,
        agent: AgentId,
        resolution: crate::sample::Resolution,
        span: std::ops::Range<Time>,
        limit: usize,
    ) -> Pending<'_, Vec<crate::sample::Sample>> {
        self.inner.telemetry(agent, resolution, span, limit)
    }
}

fn spec() -> JobSpec {
    let resources = Resources { device: DeviceKind::Cpu, ..Resources::default() };
    JobSpec { resources, ..JobSpec::new(TrainSpec::new(ModelScale::N, "/data/d.yaml")) }
}

fn hello() -> Hello {
    let inventory = Inventory { cpu_slots: 1, ..Inventory::default() };
    Hello::new(AgentId(Uuid::from_u128(1)), "a".into(), "1".into(), inventory)
}

const UNAVAILABLE: Unavailable = Unavailable { leader: None, disk_full: false };

fn candidate(instance: u128) -> Candidate {
    Candidate {
        instance: Uuid::from_u128(instance),
        address: format!("http://scheduler-{instance}:7433"),
        lease: Duration::from_secs(2),
        exclusive: false,
        known: LeaderEpoch(0),
    }
}

/// One of several drivers over one store and one directory.
struct Replica {
    handle: Handle,
    role: watch::Receiver<Role>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), Unusable>>,
}

impl Replica {
    async fn start(store: &Arc<Flaky>, dir: &std::path::Path, instance: u128) -> Self {
        let blobs = Blobs::open(Objects::directory(dir).unwrap()).await.unwrap();
        let config = CoreConfig::default();
        let (driver, handle, role) = Driver::new(store.clone(), config, blobs, candidate(instance));
        let stop = CancellationToken::new();
        let task = tokio::spawn(driver.run(stop.clone()));
        Self { handle, role, stop, task }
    }

    async fn leads(&mut self) {
        self.role.wait_for(Role::leads).await.unwrap();
    }

    async fn stands_by(&mut self) {
        self.role.wait_for(|role| matches!(role, Role::Standby(_))).await.unwrap();
    }
}

/// A driver at work, over a store that the test can break.
async fn start() -> (Handle, Arc<Flaky>, watch::Receiver<Role>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Flaky::default());
    let Replica { handle, role, .. } = Replica::start(&store, dir.path(), 1).await;
    (handle, store, role, dir)
}

async fn submit(handle: &Handle, id: &str) -> Result<JobId, RequestError> {
    handle.submit(Some(id.into()), "ada".into(), spec()).await.map(|view| view.record.id)
}

async fn jobs(handle: &Handle) -> usize {
    handle.ask(|state| state.core.jobs().count()).await.unwrap()
}

#[tokio::test]
async fn what_could_not_be_stored_was_never_there() {
    let (handle, store, mut serving, _dir) = start().await;
    serving.wait_for(Role::leads).await.unwrap();
    let first = submit(&handle, "a").await.unwrap();
    store.broken.store(true, Ordering::SeqCst);
    assert_eq!(submit(&handle, "b").await, Err(UNAVAILABLE.into()));
    serving.wait_for(Role::leads).await.unwrap();
    assert_eq!(jobs(&handle).await, 1);
    assert_eq!(submit(&handle, "a").await, Ok(first));
    assert!(submit(&handle, "b").await.is_ok());
}

#[tokio::test]
async fn a_full_disk_under_the_store_is_named_to_all_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Flaky::default());
    let blobs = Blobs::open(Objects::directory(dir.path()).unwrap()).await.unwrap();
    let (driver, handle, mut role) = Driver::new(store.clone(), CoreConfig::default(), blobs, candidate(1));
    let driver = driver.with_disk_problem(Box::new(|| Some("the disk of `/data` is full".to_owned())));
    tokio::spawn(driver.run(CancellationToken::new()));
    role.wait_for(Role::leads).await.unwrap();
    store.down.store(true, Ordering::SeqCst);
    store.broken.store(true, Ordering::SeqCst);
    let full = Unavailable { leader: None, disk_full: true };
    assert_eq!(submit(&handle, "a").await, Err(full.into()));
    assert_eq!(*role.borrow_and_update(), Role::DiskFull("the disk of `/data` is full".into()));
    store.down.store(false, Ordering::SeqCst);
    role.wait_for(Role::leads).await.unwrap();
    assert!(submit(&handle, "a").await.is_ok());
}

#[tokio::test]
async fn what_was_stored_without_an_answer_is_found_again() {
    let (handle, store, mut serving, _dir) = start().await;
    serving.wait_for(Role::leads).await.unwrap();
    store.broken.store(true, Ordering::SeqCst);
    store.lands.store(true, Ordering::SeqCst);
    assert_eq!(submit(&handle, "a").await, Err(UNAVAILABLE.into()));
    serving.wait_for(Role::leads).await.unwrap();
    assert!(submit(&handle, "a").await.is_ok());
    assert_eq!(jobs(&handle).await, 1);
}

#[tokio::test]
async fn a_lost_store_ends_sessions_and_watches() {
    let (handle, store, mut serving, _dir) = start().await;
    serving.wait_for(Role::leads).await.unwrap();
    let job = submit(&handle, "a").await.unwrap();
    let mut marks = handle.ask(move |state| state.watch(job)).await.unwrap().unwrap();
    assert_eq!(*marks.borrow_and_update(), EventMark { last_cursor: 1, is_final: false });
    let mut opened = handle.open(hello()).await.unwrap();
    store.broken.store(true, Ordering::SeqCst);
    assert_eq!(submit(&handle, "b").await, Err(UNAVAILABLE.into()));
    while opened.commands.recv().await.is_some() {}
    while marks.changed().await.is_ok() {}
}

#[tokio::test]
async fn a_session_that_does_not_drain_is_closed() {
    let (handle, _store, mut serving, _dir) = start().await;
    serving.wait_for(Role::leads).await.unwrap();
    let mut opened = handle.open(hello()).await.unwrap();
    let job = submit(&handle, "a").await.unwrap();
    let attempt = AttemptId { job, number: 1 };
    let session = opened.session;
    let places = Arc::new(tokio::sync::Semaphore::new(32));
    let open = move |state: &mut StateView<'_>| state.core.agent(hello().agent).unwrap().session;
    // Asking makes each report a transaction of its own: of one, the last acknowledgement says it all.
    for sequence in 1.. {
        if handle.ask(open).await.unwrap() != Some(session) {
            break;
        }
        let log = Log { level: LogLevel::Info, message: "line".into() };
        let body = ReportBody::Trainer(TrainerEvent::Log(log));
        let report = Report { attempt, sequence, time: Time(1), body };
        let event = Event::Report { agent: hello().agent, session, report };
        handle.say(event, &places).await.unwrap();
    }
    let mut commands = 0;
    while opened.commands.recv().await.is_some() {
        commands += 1;
    }
    assert_eq!(commands, backlog(&hello()));
}

#[tokio::test]
async fn all_slots_of_a_large_agent_are_filled_at_once() {
    let (handle, _store, mut serving, _dir) = start().await;
    serving.wait_for(Role::leads).await.unwrap();
    let large = Hello { inventory: Inventory { cpu_slots: 1000, ..Inventory::default() }, ..hello() };
    let mut opened = handle.open(large).await.unwrap();
    let specs = (0..1000).map(|_| Arc::new(spec())).collect();
    handle.submit_group(None, "ada".into(), Content::Specs(specs)).await.unwrap();
    for _ in 0..1000 {
        assert!(matches!(opened.commands.recv().await, Some(Command::Assign { .. })));
    }
    assert_eq!(opened.commands.try_recv().unwrap_err(), mpsc::error::TryRecvError::Empty);
}

#[tokio::test]
async fn who_watches_a_job_that_has_ended_leaves_nothing_behind() {
    let (handle, _store, mut serving, _dir) = start().await;
    serving.wait_for(Role::leads).await.unwrap();
    let job = submit(&handle, "a").await.unwrap();
    let watched = |state: &mut StateView<'_>| state.watchers.len();
    let mut during = handle.ask(move |state| state.watch(job)).await.unwrap().unwrap();
    assert_eq!(handle.ask(watched).await.unwrap(), 1);
    handle.cancel(job).await.unwrap();
    during.wait_for(|mark| mark.is_final).await.unwrap();
    let after = handle.ask(move |state| state.watch(job)).await.unwrap().unwrap();
    assert!(after.borrow().is_final);
    assert_eq!(handle.ask(watched).await.unwrap(), 0);
}

#[tokio::test]
async fn a_standby_answers_reads_and_names_the_leader_for_the_rest() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(Flaky::default()));
    let mut first = Replica::start(&store, dir.path(), 1).await;
    first.leads().await;
    let job = submit(&first.handle, "a").await.unwrap();
    let mut second = Replica::start(&store, dir.path(), 2).await;
    second.stands_by().await;
    let leader: Arc<str> = "http://scheduler-1:7433".into();
    let elsewhere = Unavailable { leader: Some(leader), disk_full: false };
    assert_eq!(submit(&second.handle, "b").await, Err(elsewhere.clone().into()));
    assert_eq!(second.handle.open(hello()).await.unwrap_err(), elsewhere.clone().into());
    assert_eq!(second.handle.ask_leader(|state| state.census()).await, Err(elsewhere));
    let view = second.handle.ask(move |state| state.job(job)).await.unwrap().unwrap();
    assert_eq!(view.record.state, JobState::Queued);
    assert!(view.waiting.unwrap().reason.contains("only the leader at http://scheduler-1:7433 knows"));
    // Those who watch are told what the leader stores.
    let mut marks = second.handle.ask(move |state| state.watch(job)).await.unwrap().unwrap();
    first.handle.cancel(job).await.unwrap();
    marks.wait_for(|mark| mark.is_final).await.unwrap();
}

#[tokio::test]
async fn a_standby_takes_over_at_once_when_the_leader_stops_and_soon_when_it_dies() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(Flaky::default()));
    let mut first = Replica::start(&store, dir.path(), 1).await;
    first.leads().await;
    let job = submit(&first.handle, "a").await.unwrap();
    let mut second = Replica::start(&store, dir.path(), 2).await;
    second.stands_by().await;
    first.stop.cancel();
    first.task.await.unwrap().unwrap();
    second.leads().await;
    let mut third = Replica::start(&store, dir.path(), 3).await;
    third.stands_by().await;
    second.task.abort();
    third.leads().await;
    assert_eq!(submit(&third.handle, "a").await, Ok(job));
}

#[tokio::test]
async fn a_deposed_driver_writes_nothing_and_stands_by() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(Flaky::default()));
    let mut first = Replica::start(&store, dir.path(), 1).await;
    first.leads().await;
    let lease = Duration::from_secs(3600);
    store.campaign(&Candidate { exclusive: true, lease, ..candidate(2) }).await.unwrap();
    assert!(matches!(submit(&first.handle, "a").await, Err(RequestError::Unavailable(_))));
    first.stands_by().await;
    let leader: Arc<str> = "http://scheduler-2:7433".into();
    assert_eq!(
        submit(&first.handle, "a").await,
        Err(Unavailable { leader: Some(leader), disk_full: false }.into())
    );
    assert_eq!(store.peek().await.unwrap().jobs, []);
}

#[tokio::test]
async fn a_scheduler_with_blobs_of_its_own_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Arc::new(Flaky::default());
    let mut first = Replica::start(&store, dir.path(), 1).await;
    first.leads().await;
    let second = Replica::start(&store, other.path(), 2).await;
    let refused = second.task.await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("all schedulers of one Redis must share one"), "{refused}");
    assert!(first.role.borrow().leads());
}
