//! What is prefetched for a job that is expected: an agent's process against a scheduler that a test controls.

use std::path::Path;
use std::sync::atomic::Ordering;

use trainyard_proto::pb;
use trainyard_proto::pb::scheduler_message::Message as FromScheduler;
use trainyard_types::{AttemptId, EndReason, JobId, ReportBody, Slot};
use uuid::Uuid;

use crate::datasets::partial;
use crate::stub::{Stub, World, attempt};

const CPU: Slot = Slot::Cpu(0);
const NO_FLOOR: [&str; 2] = ["--cache-floor-gib", "0"];

fn other(job: u128) -> AttemptId {
    AttemptId { job: JobId(Uuid::from_u128(job)), number: 1 }
}

fn files(count: usize, seed: usize) -> Vec<(String, Vec<u8>)> {
    (0..count).map(|at| (format!("images/{at:05}.jpg"), format!("{seed} {at} ").repeat(400).into())).collect()
}

async fn prefetch(stub: &Stub, called: &Path) {
    let (kind, reference) = (pb::DatasetKind::Dataset.into(), called.to_str().unwrap().to_owned());
    stub.tell(FromScheduler::Prefetch(pb::Prefetch { kind, reference })).await;
}

fn prefetching(heartbeat: &pb::Heartbeat) -> Option<pb::Fetching> {
    heartbeat.fitness.as_ref().unwrap().prefetching.clone().unwrap().now
}

fn holds(heartbeat: &pb::Heartbeat, called: &Path) -> bool {
    let version = called.to_str().unwrap().split_once('@').unwrap().1;
    heartbeat.fitness.as_ref().unwrap().held_versions.clone().unwrap().versions.contains(&version.to_owned())
}

fn asked(stub: &Stub) -> u64 {
    stub.datasets().asked_files.load(Ordering::SeqCst)
}

#[tokio::test]
async fn what_was_prefetched_is_held_and_its_job_fetches_nothing() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &NO_FLOOR);
    assert!(stub.hello().await.fitness.prefetching.is_some_and(|prefetching| prefetching.now.is_none()));
    let cells = stub.push("cells", &files(100, 1));
    stub.hold_up(true);
    prefetch(&stub, &cells).await;
    stub.streams_wait(1).await;
    // It is told how far that is, and no attempt is.
    let coming = |heartbeat: &pb::Heartbeat| prefetching(heartbeat).is_some_and(|now| now.total_bytes > 0);
    stub.heartbeat_with(coming).await;
    assert_eq!(*stub.datasets().waiting.borrow(), 1, "one stream, not four");
    // Said again, it goes on.
    prefetch(&stub, &cells).await;
    stub.hold_up(false);
    stub.heartbeat_with(|heartbeat| holds(heartbeat, &cells) && prefetching(heartbeat).is_none()).await;
    assert_eq!(asked(&stub), 101);
    stub.assign(attempt(1), &cells, CPU, None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed, "{}", world.log());
    assert_eq!(asked(&stub), 101);
    assert!(!stub.reports.iter().any(|report| matches!(report.body, ReportBody::Fetching(_))));
}

#[tokio::test]
async fn a_prefetch_gives_way_to_an_attempt_which_goes_on_with_what_has_come() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &NO_FLOOR);
    stub.hello().await;
    // A large file has come in part when its own job comes, and nothing of it comes twice.
    let large: Vec<u8> = (0..9_000_000_u32).map(|at| (at / 7) as u8).collect();
    let (tiny, files_of_large) = (stub.push("tiny", &[]), [("images/large.png".to_owned(), large.clone())]);
    let cells = stub.push("cells", &files_of_large);
    prefetch(&stub, &tiny).await;
    stub.heartbeat_with(|heartbeat| holds(heartbeat, &tiny)).await;
    stub.hold_up(true);
    prefetch(&stub, &cells).await;
    while partial(&world, &large).1 == 0 {
        stub.heartbeat().await;
    }
    stub.assign(attempt(1), &cells, CPU, None).await;
    let fetching = |body: &ReportBody| matches!(body, ReportBody::Fetching(_));
    while !stub.reports.iter().any(|report| report.attempt == attempt(1) && fetching(&report.body)) {
        stub.report().await;
    }
    stub.hold_up(false);
    assert_eq!(stub.end().await.reason, EndReason::Completed, "{}", world.log());
    let offsets = stub.datasets().offsets.lock().unwrap().clone();
    assert!(offsets.last().unwrap() > &0, "{offsets:?}");

    // Another job's fetch comes first, and then the prefetch goes on.
    let (cars, others) = (stub.push("cars", &files(50, 2)), stub.push("others", &files(50, 3)));
    stub.hold_up(true);
    prefetch(&stub, &cars).await;
    stub.streams_wait(1).await;
    stub.assign(other(8), &others, CPU, None).await;
    stub.until_logged(&world, "gives way").await;
    stub.hold_up(false);
    assert_eq!(stub.end().await.reason, EndReason::Completed, "{}", world.log());
    stub.heartbeat_with(|heartbeat| holds(heartbeat, &cars) && holds(heartbeat, &others)).await;
}

#[tokio::test]
async fn a_prefetch_that_fails_concerns_no_job_and_the_next_one_takes_its_place() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let _agent = world.agent(&stub, &NO_FLOOR);
    stub.hello().await;
    let (gone, cells) = (stub.push("gone", &files(5, 4)), stub.push("cells", &files(5, 5)));
    stub.forget(&gone);
    prefetch(&stub, &gone).await;
    prefetch(&stub, &cells).await;
    stub.heartbeat_with(|heartbeat| {
        assert_eq!(heartbeat.fitness.as_ref().unwrap().missing_paths, [""; 0]);
        holds(heartbeat, &cells)
    })
    .await;
    // One that stands still is replaced at once.
    let (slow, cars) = (stub.push("slow", &files(5, 6)), stub.push("cars", &files(5, 7)));
    stub.hold_up(true);
    prefetch(&stub, &slow).await;
    stub.streams_wait(1).await;
    prefetch(&stub, &cars).await;
    let mut waiting = stub.datasets().waiting.subscribe();
    stub.heartbeat_with(|heartbeat| prefetching(heartbeat).is_some_and(|now| Path::new(&now.what) == cars))
        .await;
    stub.hold_up(false);
    waiting.wait_for(|waiting| *waiting == 0).await.unwrap();
    stub.heartbeat_with(|heartbeat| holds(heartbeat, &cars) && !holds(heartbeat, &slow)).await;
}
