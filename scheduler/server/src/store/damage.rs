//! What stands in Redis and cannot be read: hand-edited, cut off, of another build.

use trainyard_scheduler_core::{AttemptRecord, JobRecord, ProgressRecord, UserRecord, Write};
use trainyard_types::{JobState, LeaderEpoch, Time};

use super::conformance::{
    ME, OTHER, PrivateRedis, agent, attempt, candidate, event, events, job, lead, take, write,
};
use super::{Campaigned, SCHEMA, Store, StoreError, keys};

#[tokio::test]
async fn a_record_that_cannot_be_read_is_set_aside_and_named() {
    let redis = PrivateRedis::start();
    let store = redis.store();
    let leader = lead(&store).await;
    let good = job();
    store.commit(leader, &[write(&good), Write::Agent(agent("a"))]).await.unwrap();
    let running = trainyard_scheduler_core::JobRecord { state: JobState::Running, ..job() };
    let (moved, other) = (job(), job());
    let damaged = [
        (other.id.to_string(), "1 {\"id\":".to_owned()),
        (job().id.to_string(), "no record at all".to_owned()),
        ("no id".to_owned(), format!("1 {}", serde_json::to_string(&moved.status_record()).unwrap())),
        (job().id.to_string(), format!("7 {}", serde_json::to_string(&moved.status_record()).unwrap())),
        // Readable, but a job that runs nowhere would never end.
        (running.id.to_string(), format!("1 {}", serde_json::to_string(&running.status_record()).unwrap())),
    ];
    let submission = serde_json::to_string(&running.submission()).unwrap();
    let _: u64 = redis.run(&["HSET", keys::SPECS, &running.id.to_string(), &submission]).await;
    for (field, value) in &damaged {
        let _: u64 = redis.run(&["HSET", keys::JOBS, field, value]).await;
    }
    assert_eq!(store.peek().await.unwrap().jobs, std::slice::from_ref(&good));
    let mut loaded = store.load(leader).await.unwrap();
    loaded.quarantined.sort();
    let mut named: Vec<String> = damaged.iter().map(|(field, _)| format!("{} {field}", keys::JOBS)).collect();
    named.sort();
    assert_eq!((loaded.jobs, loaded.quarantined), (vec![good], named));
    assert_eq!(store.load(leader).await.unwrap().quarantined, Vec::<String>::new());
    for (field, value) in damaged {
        let aside: String = redis.run(&["HGET", keys::QUARANTINE, &format!("{} {field}", keys::JOBS)]).await;
        assert_eq!(aside, value);
    }
}

#[tokio::test]
async fn a_number_that_cannot_be_counted_on_from_is_set_aside_and_named() {
    let redis = PrivateRedis::start();
    let store = redis.store();
    let leader = lead(&store).await;
    let good = job();
    store.commit(leader, &[write(&good)]).await.unwrap();
    let status = |record: &JobRecord| {
        let json = serde_json::to_string(&record.status_record()).unwrap();
        (keys::JOBS, record.id.to_string(), format!("{} {json}", record.revision))
    };
    let mut told = job();
    told.attempts = vec![AttemptRecord { last_sequence: u64::MAX, ..attempt(told.id, 1) }];
    let damaged_jobs =
        [JobRecord { revision: u64::MAX, ..job() }, JobRecord { last_cursor: u64::MAX - 1, ..job() }, told];
    let user = UserRecord { name: "ada".into(), used: 1, as_of: Time(1), typical_run: Some(u64::MAX) };
    let progress =
        ProgressRecord { job: good.id, attempt: 1, last_sequence: u64::MAX, last_cursor: 1, progress: None };
    let data = r#"{"data":{"path":"/d","images":1,"seen":18446744073709551615}}"#;
    let mut damaged: Vec<(&str, String, String)> = damaged_jobs.iter().map(status).collect();
    damaged.push((keys::USERS, "ada".into(), serde_json::to_string(&user).unwrap()));
    damaged.push((keys::PULSES, good.id.to_string(), serde_json::to_string(&progress).unwrap()));
    damaged.push((keys::LEARNED, "data /d".into(), data.into()));
    for record in &damaged_jobs {
        let submission = serde_json::to_string(&record.submission()).unwrap();
        let _: u64 = redis.run(&["HSET", keys::SPECS, &record.id.to_string(), &submission]).await;
    }
    for (key, field, value) in &damaged {
        let _: u64 = redis.run(&["HSET", key, field, value]).await;
    }
    let mut loaded = store.load(leader).await.unwrap();
    loaded.quarantined.sort();
    let mut named: Vec<String> = damaged.iter().map(|(key, field, _)| format!("{key} {field}")).collect();
    named.sort();
    assert_eq!((loaded.jobs, loaded.quarantined), (vec![good], named));
}

#[tokio::test]
async fn a_key_of_the_wrong_type_is_set_aside_and_named() {
    let redis = PrivateRedis::start();
    let store = redis.store();
    for key in [keys::LEADER_EPOCH, keys::LEADER] {
        let _: u64 = redis.run(&["RPUSH", key, "a list"]).await;
    }
    let leader = lead(&store).await;
    for key in [keys::JOBS, keys::AGENTS] {
        let _: String = redis.run(&["SET", key, "a text"]).await;
    }
    let loaded = store.load(leader).await.unwrap();
    assert_eq!(loaded.quarantined, [keys::JOBS, keys::AGENTS]);
    let job = job();
    store.commit(leader, &[write(&job), Write::Agent(agent("a"))]).await.unwrap();
    for key in [keys::LEADER_EPOCH, keys::LEADER, keys::JOBS, keys::AGENTS] {
        let there: u64 = redis.run(&["EXISTS", &format!("{} {key}", keys::QUARANTINE)]).await;
        assert_eq!(there, 1, "{key}");
    }
}

#[tokio::test]
async fn a_stream_that_is_none_is_set_aside_and_the_batch_is_applied_whole() {
    let redis = PrivateRedis::start();
    let store = redis.store();
    let leader = lead(&store).await;
    let (one, other) = (job(), job());
    let _: String = redis.run(&["SET", &keys::events(other.id), "a text"]).await;
    let batch = [write(&one), events(&one, 1..=1), write(&other), events(&other, 1..=2)];
    store.commit(leader, &batch).await.unwrap();
    assert_eq!(store.load(leader).await.unwrap().jobs, [one.clone(), other.clone()]);
    assert_eq!(store.events(one.id, 0, 10).await.unwrap(), [event(1)]);
    assert_eq!(store.events(other.id, 0, 10).await.unwrap(), [event(1), event(2)]);
}

#[tokio::test]
async fn a_hash_that_is_none_stops_the_whole_batch() {
    let redis = PrivateRedis::start();
    let store = redis.store();
    let leader = lead(&store).await;
    let _: String = redis.run(&["SET", keys::AGENTS, "a text"]).await;
    let job = job();
    let refused = store.commit(leader, &[write(&job), Write::Agent(agent("a"))]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert_eq!(store.load(leader).await.unwrap().jobs, []);
}

#[tokio::test]
async fn a_store_of_a_newer_schema_is_refused_and_left_alone() {
    let redis = PrivateRedis::start();
    for schema in ["999", "0", "nonsense"] {
        let _: String = redis.run(&["SET", keys::SCHEMA, schema]).await;
        let refused = redis.store().campaign(&candidate(ME)).await;
        assert!(matches!(refused, Err(StoreError::Schema { found }) if found == schema));
        let epochs: u64 = redis.run(&["EXISTS", keys::LEADER_EPOCH, keys::LEADER]).await;
        assert_eq!(epochs, 0);
    }
}

/// A job and an agent as the first build with a schema number has written them.
const SCHEMA_1: &str = include_str!("fixtures/schema_1.txt");

#[tokio::test]
async fn a_store_of_the_first_schema_is_migrated_with_all_its_records() {
    let redis = PrivateRedis::start();
    for line in SCHEMA_1.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let _: redis::Value = redis.run(&words).await;
    }
    let store = redis.store();
    let before: LeaderEpoch = LeaderEpoch(3);
    // Its leader has no lease and is deposed, however it came to lead.
    let won = store.campaign(&candidate(OTHER)).await.unwrap();
    let Campaigned::Leads(leader) = won else { panic!("{won:?}") };
    assert!(leader > before);
    assert!(matches!(store.commit(before, &[]).await, Err(StoreError::Fenced { .. })));
    let schema: String = redis.run(&["GET", keys::SCHEMA]).await;
    assert_eq!(schema, SCHEMA.to_string());
    let loaded = store.load(leader).await.unwrap();
    assert_eq!((loaded.jobs.len(), loaded.agents.len(), loaded.quarantined.len()), (2, 1, 0));
    let succeeded = loaded.jobs.iter().find(|job| job.state == JobState::Succeeded).unwrap();
    assert_eq!((succeeded.attempts.len(), succeeded.artifacts.len()), (2, 1));
    let events = store.events(succeeded.id, 0, 1000).await.unwrap();
    assert_eq!(events.len() as u64, succeeded.last_cursor);
    assert_eq!((&*succeeded.user, succeeded.spec.train.epochs), ("anonymous", 100));
    // A second migration finds nothing to do.
    assert!(take(&store, ME).await > leader);
}
