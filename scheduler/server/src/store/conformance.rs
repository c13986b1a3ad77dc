//! What every store must do, run on both of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use trainyard_scheduler_core::{AgentRecord, AttemptRecord, EventBody, EventRecord, JobRecord, Write};
use trainyard_types::{
    AgentId, AttemptId, GpuUuid, Inventory, JobId, JobSpec, JobState, LeaderEpoch, ModelScale, Slot, Time,
    TrainSpec,
};
use uuid::Uuid;

use super::memory::MemoryStore;
use super::{Campaigned, Candidate, Loaded, RedisOptions, RedisStore, Store, StoreError, keys};
use crate::embedded::EmbeddedRedis;
use crate::sample::{AgentSamples, Resolution, Sample};

pub(super) const ME: Uuid = Uuid::from_u128(1);
pub(super) const OTHER: Uuid = Uuid::from_u128(2);

/// An attempt that was placed and has told nothing yet.
pub(super) fn attempt(job: JobId, number: u32) -> AttemptRecord {
    AttemptRecord {
        id: AttemptId { job, number },
        agent: AgentId(Uuid::from_u128(7)),
        agent_name: "a".into(),
        slot: Slot::Cpu(0),
        others: Vec::new(),
        device: "CPU".into(),
        choice: None,
        warm: false,
        expected_end: None,
        batch_chosen: None,
        fetching: None,
        setup: None,
        last_sequence: 0,
        placed: Time(6),
        started: None,
        released: None,
        ended: None,
    }
}

/// A job that no other one of this process has the id of.
pub(super) fn job() -> JobRecord {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let spec =
        JobSpec { name: "cells".into(), ..JobSpec::new(TrainSpec::new(ModelScale::N, "/data/d.yaml")) };
    let id = JobId(Uuid::from_u128(NEXT.fetch_add(1, Ordering::Relaxed).into()));
    let queued = JobRecord::queued(id, "ada".into(), spec.into(), Time(5));
    JobRecord { revision: 1, request_id: Some("r".into()), ..queued }
}

pub(super) fn write(job: &JobRecord) -> Write {
    Write::Job(Box::new(job.clone()))
}

pub(super) fn event(cursor: u64) -> EventRecord {
    let body = EventBody::State { state: JobState::Queued, reason: format!("event {cursor}") };
    EventRecord { cursor, time: Time(cursor), attempt: 0, body }
}

pub(super) fn events(job: &JobRecord, cursors: std::ops::RangeInclusive<u64>) -> Write {
    Write::JobEvents { job: job.id, events: cursors.map(event).collect() }
}

pub(super) fn agent(name: &str) -> AgentRecord {
    AgentRecord::new(AgentId(Uuid::from_u128(7)), name.into(), "1".into(), Inventory::default(), Time(1))
}

/// One whose lease outlasts any test.
pub(super) fn candidate(instance: Uuid) -> Candidate {
    Candidate {
        instance,
        address: format!("http://{instance}"),
        lease: Duration::from_secs(3600),
        exclusive: false,
        known: LeaderEpoch(0),
    }
}

/// One that takes any lease.
pub(super) async fn take(store: &dyn Store, instance: Uuid) -> LeaderEpoch {
    match store.campaign(&Candidate { exclusive: true, ..candidate(instance) }).await {
        Ok(Campaigned::Leads(epoch)) => epoch,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn lead(store: &dyn Store) -> LeaderEpoch {
    take(store, ME).await
}

async fn what_is_committed_is_loaded(store: &dyn Store) {
    let leader = lead(store).await;
    let first = job();
    let second =
        JobRecord { revision: 2, state: JobState::Cancelled, set_priority: Some(-7), ..first.clone() };
    let writes = [write(&first), Write::Agent(agent("old")), write(&second), Write::Agent(agent("new"))];
    store.commit(leader, &writes).await.unwrap();
    let loaded = store.load(leader).await.unwrap();
    assert_eq!(loaded, Loaded { jobs: vec![second], agents: vec![agent("new")], ..Loaded::default() });
    assert_eq!(store.peek().await.unwrap(), loaded);
}

async fn a_lower_leader_epoch_changes_nothing(store: &dyn Store) {
    let old = lead(store).await;
    let new = take(store, OTHER).await;
    assert!(new > old);
    let job = job();
    let refused = store.commit(old, &[write(&job), events(&job, 1..=1)]).await;
    assert!(matches!(refused, Err(StoreError::Fenced { ours, current }) if (ours, current) == (old, new)));
    assert!(matches!(store.commit(old, &[]).await, Err(StoreError::Fenced { .. })));
    assert_eq!(store.load(new).await.unwrap(), Loaded::default());
    assert_eq!(store.events(job.id, 0, 10).await.unwrap(), []);
}

async fn a_lease_is_renewed_by_its_holder_only(store: &dyn Store) {
    let first = lead(store).await;
    store.renew(&candidate(ME), first).await.unwrap();
    let second = take(store, OTHER).await;
    assert!(second > first);
    let refused = store.renew(&candidate(ME), first).await;
    assert!(
        matches!(refused, Err(StoreError::Fenced { ours, current }) if (ours, current) == (first, second))
    );
    store.renew(&candidate(OTHER), second).await.unwrap();
    store.commit(second, &[]).await.unwrap();
}

async fn who_stands_by_is_told_who_leads_until_the_lease_is_given_back(store: &dyn Store) {
    let epoch = lead(store).await;
    let held = store.campaign(&candidate(OTHER)).await.unwrap();
    let Campaigned::Held { epoch: known, address, left } = held else { panic!("{held:?}") };
    assert_eq!((known, address), (epoch, candidate(ME).address));
    assert!(left > Duration::from_secs(3000) && left <= Duration::from_secs(3600));
    // Nobody gives back what is another's.
    store.resign(&candidate(OTHER)).await.unwrap();
    assert!(matches!(store.campaign(&candidate(OTHER)).await, Ok(Campaigned::Held { .. })));
    store.resign(&candidate(ME)).await.unwrap();
    let won = store.campaign(&candidate(OTHER)).await.unwrap();
    assert!(matches!(won, Campaigned::Leads(won) if won > epoch), "{won:?}");
    assert!(matches!(store.commit(epoch, &[]).await, Err(StoreError::Fenced { .. })));
}

async fn a_holder_that_campaigns_again_leads_on_under_a_new_epoch(store: &dyn Store) {
    let first = lead(store).await;
    let again = store.campaign(&candidate(ME)).await.unwrap();
    assert!(matches!(again, Campaigned::Leads(again) if again > first), "{again:?}");
    assert!(matches!(store.commit(first, &[]).await, Err(StoreError::Fenced { .. })));
}

async fn a_lease_that_has_ended_can_be_taken(store: &dyn Store) {
    let short = Candidate { lease: Duration::from_millis(1), ..candidate(ME) };
    let Ok(Campaigned::Leads(first)) = store.campaign(&short).await else { panic!() };
    loop {
        match store.campaign(&candidate(OTHER)).await.unwrap() {
            Campaigned::Leads(epoch) => break assert!(epoch > first),
            Campaigned::Held { .. } => {}
        }
    }
}

async fn who_has_seen_an_epoch_does_not_lead_an_emptied_store(store: &dyn Store) {
    let known = LeaderEpoch(7);
    let refused = store.campaign(&Candidate { known, ..candidate(ME) }).await;
    assert!(matches!(refused, Err(StoreError::Lost)), "{refused:?}");
    assert!(lead(store).await > LeaderEpoch(0));
    let won = store.campaign(&Candidate { known: LeaderEpoch(1 << 40), ..candidate(ME) }).await.unwrap();
    assert_eq!(won, Campaigned::Leads(LeaderEpoch((1 << 40) + 1)));
}

async fn the_first_directory_of_blobs_stays(store: &dyn Store) {
    assert_eq!(store.claim_blobs(ME).await.unwrap(), ME);
    assert_eq!(store.claim_blobs(OTHER).await.unwrap(), ME);
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

fn sample(second: u64, gpu: u8) -> Sample {
    Sample {
        time: Time(second * 1000),
        gpu: GpuUuid(format!("GPU-{gpu}")),
        utilization_ratio: Some(0.75),
        memory_used_mib: Some(1000 + second),
        power_watts: (gpu == 0).then_some(321.5),
        energy_joules: Some(1234.0),
        temperature_celsius: Some(71),
        clock_mhz: None,
        throttle_reasons: if gpu == 0 { vec!["power".into()] } else { vec![] },
    }
}

fn samples(agent: AgentId, resolution: Resolution, samples: Vec<Sample>) -> AgentSamples {
    AgentSamples { agent, resolution, samples }
}

async fn telemetry_is_read_by_agent_and_time_in_order(store: &dyn Store) {
    let [one, other] = [AgentId(ME), AgentId(OTHER)];
    let (seconds, minutes) = (Resolution::Seconds, Resolution::Minutes);
    let late = samples(one, seconds, vec![sample(103, 0), sample(103, 1), sample(104, 0)]);
    let early = samples(one, seconds, vec![sample(101, 0), sample(102, 0)]);
    let elsewhere = samples(other, seconds, vec![sample(102, 0)]);
    let rough = samples(one, minutes, vec![sample(60, 0)]);
    store.record(Time(105_000), &[late, elsewhere, rough]).await.unwrap();
    // Another scheduler's clock may be behind.
    store.record(Time(104_000), &[early]).await.unwrap();
    let read = async |agent, resolution, from: u64, to: u64, limit| {
        let span = Time(from * 1000)..Time(to * 1000);
        store.telemetry(agent, resolution, span, limit).await.unwrap()
    };
    let all = [sample(101, 0), sample(102, 0), sample(103, 0), sample(103, 1), sample(104, 0)];
    assert_eq!(read(one, seconds, 0, 1000, 10).await, all);
    assert_eq!(read(one, seconds, 102, 104, 10).await, all[1..4]);
    assert_eq!(read(one, seconds, 0, 1000, 2).await, all[..2]);
    assert_eq!(read(one, minutes, 0, 1000, 10).await, [sample(60, 0)]);
    assert_eq!(read(other, seconds, 0, 1000, 10).await, [sample(102, 0)]);
}

async fn telemetry_is_kept_for_as_long_as_it_should(store: &dyn Store) {
    let agent = AgentId(ME);
    let day = 24 * 3600;
    let at = |second| Time(second * 1000);
    for (resolution, second) in [
        (Resolution::Seconds, 10 * day),
        (Resolution::Seconds, 10 * day + 1000),
        (Resolution::Seconds, 10 * day + 3700),
        (Resolution::Minutes, 10 * day),
        (Resolution::Minutes, 16 * day),
        (Resolution::Minutes, 17 * day + 1),
    ] {
        store.record(at(second), &[samples(agent, resolution, vec![sample(second, 0)])]).await.unwrap();
    }
    let read = async |resolution| {
        let all = store.telemetry(agent, resolution, Time(0)..Time(u64::MAX >> 1), 10).await.unwrap();
        all.into_iter().map(|sample| sample.time.0 / 1000 - 10 * day).collect::<Vec<_>>()
    };
    assert_eq!(read(Resolution::Seconds).await, [1000, 3700]);
    assert_eq!(read(Resolution::Minutes).await, [6 * day, 7 * day + 1]);
}

/// Every promise, each on a store of its own, for both kinds of stores.
macro_rules! conformance {
    ($($promise:ident),* $(,)?) => {
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
pub(super) use conformance;

conformance!(
    what_is_committed_is_loaded,
    a_lower_leader_epoch_changes_nothing,
    a_lease_is_renewed_by_its_holder_only,
    who_stands_by_is_told_who_leads_until_the_lease_is_given_back,
    a_holder_that_campaigns_again_leads_on_under_a_new_epoch,
    a_lease_that_has_ended_can_be_taken,
    who_has_seen_an_epoch_does_not_lead_an_emptied_store,
    the_first_directory_of_blobs_stays,
    one_wrong_revision_stops_the_whole_batch,
    a_batch_that_comes_twice_is_applied_once,
    events_are_read_from_a_cursor_in_pages,
    events_before_a_cursor_are_dropped_by_the_leader_only,
    telemetry_is_read_by_agent_and_time_in_order,
    telemetry_is_kept_for_as_long_as_it_should
);

/// A server of one test.
pub(super) struct PrivateRedis {
    server: EmbeddedRedis,
    _dir: tempfile::TempDir,
}

impl PrivateRedis {
    pub(super) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { server: EmbeddedRedis::start("redis-server".as_ref(), dir.path()).unwrap(), _dir: dir }
    }

    pub(super) fn store(&self) -> RedisStore {
        RedisStore::at_socket(self.server.socket(), RedisOptions { event_history: 50, replicas: 0 }).unwrap()
    }

    pub(super) async fn run<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let client = redis::Client::open(self.server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]).query_async(&mut connection).await.unwrap()
    }
}

async fn events_before_a_cursor_are_dropped_by_the_leader_only(store: &dyn Store) {
    let leader = lead(store).await;
    let (one, other) = (job(), job());
    store.commit(leader, &[events(&one, 1..=9), events(&other, 1..=2)]).await.unwrap();
    let refused = store.trim(LeaderEpoch(leader.0 - 1), one.id, 5).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    assert_eq!(store.events(one.id, 0, 10).await.unwrap().len(), 9);
    store.trim(leader, one.id, 8).await.unwrap();
    assert_eq!(store.events(one.id, 0, 10).await.unwrap(), [event(8), event(9)]);
    assert_eq!(store.events(other.id, 0, 10).await.unwrap().len(), 2);
    store.trim(leader, job().id, 8).await.unwrap();
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
    // Redis trims by whole nodes of 100 entries, and only where nobody has put the oldest away.
    assert!((200..=400).contains(&kept), "{kept}");
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
