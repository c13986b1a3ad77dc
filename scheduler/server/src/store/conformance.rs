//! What every store must do, run on both of them.

use std::sync::atomic::{AtomicU64, Ordering};

use trainyard_scheduler_core::{AgentRecord, EventBody, EventRecord, JobRecord, Write};
use trainyard_types::{
    AgentId, Inventory, JobId, JobSpec, JobState, LeaderEpoch, ModelScale, Time, TrainSpec,
};
use uuid::Uuid;

use super::memory::MemoryStore;
use super::{Campaign, Loaded, RedisStore, Store, StoreError, keys};
use crate::embedded::EmbeddedRedis;

const ME: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);

/// A job that no other one of this process has the id of.
fn job() -> JobRecord {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let train = TrainSpec::new(ModelScale::N, "/data/d.yaml");
    let spec = JobSpec {
        name: "cells".into(),
        train,
        resources: Default::default(),
        priority: 0,
        max_retries: 3,
        labels: Default::default(),
    };
    JobRecord {
        id: JobId(Uuid::from_u128(NEXT.fetch_add(1, Ordering::Relaxed).into())),
        revision: 1,
        user: "ada".into(),
        request_id: Some("r".into()),
        spec,
        state: JobState::Queued,
        state_reason: "submitted".into(),
        attempts: Vec::new(),
        crashes: 0,
        not_before: None,
        cancel_requested: false,
        progress: None,
        checkpoint: None,
        artifacts: Vec::new(),
        last_cursor: 0,
        created: Time(5),
        started: None,
        ended: None,
    }
}

fn write(job: &JobRecord) -> Write {
    Write::Job(Box::new(job.clone()))
}

fn event(cursor: u64) -> EventRecord {
    let body = EventBody::State { state: JobState::Queued, reason: format!("event {cursor}") };
    EventRecord { cursor, time: Time(cursor), attempt: 0, body }
}

fn events(job: &JobRecord, cursors: std::ops::RangeInclusive<u64>) -> Write {
    Write::JobEvents { job: job.id, events: cursors.map(event).collect() }
}

fn agent(name: &str) -> AgentRecord {
    AgentRecord {
        id: AgentId(Uuid::from_u128(7)),
        name: name.into(),
        version: "1".into(),
        inventory: Inventory::default(),
        connected: Time(1),
    }
}

async fn lead(store: &dyn Store) -> LeaderEpoch {
    store.campaign(ME, Campaign::Take).await.unwrap()
}

async fn what_is_committed_is_loaded(store: &dyn Store) {
    let leader = lead(store).await;
    let first = job();
    let second = JobRecord { revision: 2, state: JobState::Running, ..first.clone() };
    let writes = [write(&first), Write::Agent(agent("old")), write(&second), Write::Agent(agent("new"))];
    store.commit(leader, &writes).await.unwrap();
    let loaded = store.load(leader).await.unwrap();
    assert_eq!(loaded, Loaded { jobs: vec![second], agents: vec![agent("new")], quarantined: Vec::new() });
}

async fn a_lower_leader_epoch_changes_nothing(store: &dyn Store) {
    let old = lead(store).await;
    let new = store.campaign(OTHER, Campaign::Take).await.unwrap();
    assert!(new > old);
    let job = job();
    let refused = store.commit(old, &[write(&job), events(&job, 1..=1)]).await;
    assert!(matches!(refused, Err(StoreError::Fenced { ours, current }) if (ours, current) == (old, new)));
    assert!(matches!(store.commit(old, &[]).await, Err(StoreError::Fenced { .. })));
    assert_eq!(store.load(new).await.unwrap(), Loaded::default());
    assert_eq!(store.events(job.id, 0, 10).await.unwrap(), []);
}

async fn a_leader_renews_unless_another_has_led_since(store: &dyn Store) {
    let first = lead(store).await;
    let renewed = store.campaign(ME, Campaign::Renew).await.unwrap();
    assert!(renewed > first);
    assert!(matches!(store.commit(first, &[]).await, Err(StoreError::Fenced { .. })));
    store.commit(renewed, &[]).await.unwrap();
    store.campaign(OTHER, Campaign::Take).await.unwrap();
    assert!(matches!(store.campaign(ME, Campaign::Renew).await, Err(StoreError::Fenced { .. })));
}

async fn one_wrong_revision_stops_the_whole_batch(store: &dyn Store) {
    let leader = lead(store).await;
    let good = job();
    let bad = JobRecord { revision: 3, ..job() };
    let refused = store.commit(leader, &[write(&good), events(&good, 1..=1), write(&bad)]).await;
    assert!(matches!(refused, Err(StoreError::Conflict { stored: 0, expected: 2, .. })), "{refused:?}");
    assert_eq!(store.load(leader).await.unwrap(), Loaded::default());
    assert_eq!(store.events(good.id, 0, 10).await.unwrap(), []);
}

async fn a_batch_that_comes_twice_is_applied_once(store: &dyn Store) {
    let leader = lead(store).await;
    let job = job();
    let batch = [write(&job), events(&job, 1..=2)];
    store.commit(leader, &batch).await.unwrap();
    assert!(matches!(store.commit(leader, &batch).await, Err(StoreError::Conflict { stored: 1, .. })));
    let next = JobRecord { revision: 2, ..job.clone() };
    store.commit(leader, &[write(&next), events(&job, 2..=3)]).await.unwrap();
    assert_eq!(store.events(job.id, 0, 10).await.unwrap(), [event(1), event(2), event(3)]);
}

async fn events_are_read_from_a_cursor_in_pages(store: &dyn Store) {
    let leader = lead(store).await;
    let (one, other) = (job(), job());
    let writes = [events(&one, 1..=3), events(&other, 1..=1), events(&one, 4..=5)];
    store.commit(leader, &writes).await.unwrap();
    assert_eq!(store.events(one.id, 1, 2).await.unwrap(), [event(2), event(3)]);
    assert_eq!(store.events(one.id, 3, 10).await.unwrap(), [event(4), event(5)]);
    assert_eq!(store.events(one.id, 5, 10).await.unwrap(), []);
    assert_eq!(store.events(other.id, 0, 10).await.unwrap(), [event(1)]);
}

/// Every promise, each on a store of its own.
macro_rules! conformance {
    ($($promise:ident),*) => {
        mod on_memory {
            use super::*;
            $(#[tokio::test] async fn $promise() { super::$promise(&MemoryStore::default()).await })*
        }
        mod on_redis {
            use super::*;
            $(#[tokio::test] async fn $promise() {
                let redis = PrivateRedis::start();
                super::$promise(&redis.store()).await
            })*
        }
    };
}

conformance!(
    what_is_committed_is_loaded,
    a_lower_leader_epoch_changes_nothing,
    a_leader_renews_unless_another_has_led_since,
    one_wrong_revision_stops_the_whole_batch,
    a_batch_that_comes_twice_is_applied_once,
    events_are_read_from_a_cursor_in_pages
);

/// A server of one test.
struct PrivateRedis {
    server: EmbeddedRedis,
    _dir: tempfile::TempDir,
}

impl PrivateRedis {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { server: EmbeddedRedis::start("redis-server".as_ref(), dir.path()).unwrap(), _dir: dir }
    }

    fn store(&self) -> RedisStore {
        RedisStore::at_socket(self.server.socket(), 50).unwrap()
    }

    async fn run<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let client = redis::Client::open(self.server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]).query_async(&mut connection).await.unwrap()
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_set_aside_and_named() {
    let redis = PrivateRedis::start();
    let store = redis.store();
    let leader = lead(&store).await;
    let good = job();
    store.commit(leader, &[write(&good), Write::Agent(agent("a"))]).await.unwrap();
    let torn = Uuid::from_u128(99).to_string();
    let _: u64 = redis.run(&["HSET", keys::JOBS, &torn, "1 {\"id\":"]).await;
    let loaded = store.load(leader).await.unwrap();
    assert_eq!((loaded.jobs, loaded.quarantined), (vec![good], vec![format!("{} {torn}", keys::JOBS)]));
    assert_eq!(store.load(leader).await.unwrap().quarantined, Vec::<String>::new());
    let aside: String = redis.run(&["HGET", keys::QUARANTINE, &format!("{} {torn}", keys::JOBS)]).await;
    assert_eq!(aside, "1 {\"id\":");
}

#[tokio::test]
async fn a_store_of_another_schema_is_refused() {
    let redis = PrivateRedis::start();
    let _: String = redis.run(&["SET", keys::SCHEMA, "999"]).await;
    let refused = redis.store().campaign(ME, Campaign::Take).await;
    assert!(matches!(refused, Err(StoreError::Schema { found }) if found == "999"));
}

#[tokio::test]
async fn a_jobs_events_are_bounded() {
    let redis = PrivateRedis::start();
    let store = redis.store();
    let leader = lead(&store).await;
    let job = job();
    for start in (1..2000).step_by(100) {
        store.commit(leader, &[events(&job, start..=start + 99)]).await.unwrap();
    }
    let kept: usize = redis.run(&["XLEN", &keys::events(job.id)]).await;
    // Redis trims by whole nodes of 100 entries.
    assert!((50..=200).contains(&kept), "{kept}");
    assert_eq!(store.events(job.id, 1999, 10).await.unwrap(), [event(2000)]);
}

#[tokio::test]
async fn weak_durability_is_noticed() {
    let redis = PrivateRedis::start();
    let store = redis.store();
    assert_eq!(store.weakness().await, None);
    let _: String = redis.run(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    assert_eq!(store.weakness().await.unwrap(), "appendonly is yes and appendfsync is everysec");
}
