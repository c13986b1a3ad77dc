use std::sync::atomic::{AtomicBool, Ordering};

use trainyard_scheduler_core::EventRecord;
use trainyard_types::trainer::{Log, LogLevel, TrainerEvent};
use trainyard_types::{
    AttemptId, DeviceKind, Inventory, JobSpec, ModelScale, Report, Resources, Time, TrainSpec,
};

use super::*;
use crate::store::Pending;
use crate::store::memory::MemoryStore;

/// A store whose commits fail at will.
#[derive(Default)]
struct Flaky {
    inner: MemoryStore,
    broken: AtomicBool,
    /// Whether a failing commit takes effect all the same, as when only the answer is lost.
    lands: AtomicBool,
}

impl Store for Flaky {
    fn campaign(&self, instance: Uuid, how: Campaign) -> Pending<'_, LeaderEpoch> {
        self.inner.campaign(instance, how)
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

    fn events(&self, job: JobId, after: u64, limit: usize) -> Pending<'_, Vec<EventRecord>> {
        self.inner.events(job, after, limit)
    }
}

fn spec() -> JobSpec {
    JobSpec {
        name: String::new(),
        train: TrainSpec::new(ModelScale::N, "/data/d.yaml"),
        resources: Resources { device: DeviceKind::Cpu, ..Resources::default() },
        priority: 0,
        max_retries: 3,
        labels: BTreeMap::new(),
    }
}

fn hello() -> Hello {
    Hello {
        agent: AgentId(Uuid::from_u128(1)),
        name: "a".into(),
        version: "1".into(),
        inventory: Inventory { cpu_slots: 1, ..Inventory::default() },
        attempts: Vec::new(),
    }
}

/// A driver at work, over a store that the test can break.
fn start() -> (Handle, Arc<Flaky>, watch::Receiver<bool>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Flaky::default());
    let blobs = Blobs::open(dir.path()).unwrap();
    let (driver, handle, serving) = Driver::new(store.clone(), CoreConfig::default(), blobs);
    tokio::spawn(driver.run(CancellationToken::new()));
    (handle, store, serving, dir)
}

async fn submit(handle: &Handle, id: &str) -> Result<JobId, RequestError> {
    handle.submit(Some(id.into()), "ada".into(), spec()).await.map(|view| view.record.id)
}

async fn jobs(handle: &Handle) -> usize {
    handle.ask(|live| live.core.jobs().count()).await.unwrap()
}

#[tokio::test]
async fn what_could_not_be_stored_was_never_there() {
    let (handle, store, mut serving, _dir) = start();
    serving.wait_for(|serving| *serving).await.unwrap();
    let first = submit(&handle, "a").await.unwrap();
    store.broken.store(true, Ordering::SeqCst);
    assert_eq!(submit(&handle, "b").await, Err(Unavailable.into()));
    serving.wait_for(|serving| *serving).await.unwrap();
    assert_eq!(jobs(&handle).await, 1);
    assert_eq!(submit(&handle, "a").await, Ok(first));
    assert!(submit(&handle, "b").await.is_ok());
}

#[tokio::test]
async fn what_was_stored_without_an_answer_is_found_again() {
    let (handle, store, mut serving, _dir) = start();
    serving.wait_for(|serving| *serving).await.unwrap();
    store.broken.store(true, Ordering::SeqCst);
    store.lands.store(true, Ordering::SeqCst);
    assert_eq!(submit(&handle, "a").await, Err(Unavailable.into()));
    serving.wait_for(|serving| *serving).await.unwrap();
    assert!(submit(&handle, "a").await.is_ok());
    assert_eq!(jobs(&handle).await, 1);
}

#[tokio::test]
async fn a_lost_store_ends_sessions_and_watches() {
    let (handle, store, mut serving, _dir) = start();
    serving.wait_for(|serving| *serving).await.unwrap();
    let job = submit(&handle, "a").await.unwrap();
    let mut marks = handle.ask(move |live| live.watch(job)).await.unwrap().unwrap();
    assert_eq!(*marks.borrow_and_update(), Mark { last_cursor: 1, is_final: false });
    let mut opened = handle.open(hello(), Vec::new()).await.unwrap();
    store.broken.store(true, Ordering::SeqCst);
    assert_eq!(submit(&handle, "b").await, Err(Unavailable.into()));
    while opened.commands.recv().await.is_some() {}
    while marks.changed().await.is_ok() {}
}

#[tokio::test]
async fn a_session_that_does_not_drain_is_closed() {
    let (handle, _store, mut serving, _dir) = start();
    serving.wait_for(|serving| *serving).await.unwrap();
    let mut opened = handle.open(hello(), Vec::new()).await.unwrap();
    let job = submit(&handle, "a").await.unwrap();
    let attempt = AttemptId { job, number: 1 };
    let session = opened.session;
    for sequence in 1..=300 {
        let log = Log { level: LogLevel::Info, message: "line".into() };
        let body = ReportBody::Trainer(TrainerEvent::Log(log));
        let report = Report { attempt, sequence, time: Time(1), body };
        handle.report(hello().agent, session, report).await.unwrap();
    }
    let open = move |live: &mut Live<'_>| live.core.agent(hello().agent).unwrap().session;
    while handle.ask(open).await.unwrap() == Some(session) {}
    let mut commands = 0;
    while opened.commands.recv().await.is_some() {
        commands += 1;
    }
    assert_eq!(commands, SESSION_BACKLOG);
}

#[tokio::test]
async fn a_deposed_driver_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Flaky::default());
    let blobs = Blobs::open(dir.path()).unwrap();
    let (driver, handle, mut serving) = Driver::new(store.clone(), CoreConfig::default(), blobs);
    let run = tokio::spawn(driver.run(CancellationToken::new()));
    serving.wait_for(|serving| *serving).await.unwrap();
    store.campaign(Uuid::nil(), Campaign::Take).await.unwrap();
    assert_eq!(submit(&handle, "a").await, Err(Unavailable.into()));
    assert!(matches!(run.await.unwrap(), Err(Deposed(StoreError::Fenced { .. }))));
    assert_eq!(submit(&handle, "a").await, Err(Unavailable.into()));
}
