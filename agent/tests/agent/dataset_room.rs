//! Data sets of the cluster's store on a disk that has too little room for them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use trainyard_proto::pb;
use trainyard_types::{AttemptId, EndReason, JobId, ReportBody, Slot, UnfitKind};
use uuid::Uuid;

use crate::stub::{Stub, World};

const CPU: Slot = Slot::Cpu(0);
const MIB: usize = 1 << 20;

fn job(number: u128) -> AttemptId {
    AttemptId { job: JobId(Uuid::from_u128(number)), number: 1 }
}

/// Files of 1 MiB, whose bytes differ by `seed`.
fn mebibytes(count: usize, seed: u8) -> Vec<(String, Vec<u8>)> {
    (0..count)
        .map(|at| (format!("images/{seed}-{at}.png"), [vec![seed; MIB - 1], vec![at as u8]].concat()))
        .collect()
}

fn ids(called: &[&PathBuf]) -> Vec<String> {
    called.iter().map(|called| called.to_str().unwrap().split_once('@').unwrap().1.to_owned()).collect()
}

async fn until_held(stub: &mut Stub, called: &[&PathBuf]) {
    let wanted = ids(called);
    let held = |heartbeat: &pb::Heartbeat| {
        heartbeat.fitness.as_ref().unwrap().held_versions.clone().unwrap().versions
    };
    stub.heartbeat_with(|heartbeat| held(heartbeat) == wanted).await;
}

async fn train(stub: &mut Stub, world: &World, number: u128, called: &Path) {
    stub.assign(job(number), called, CPU, None).await;
    let ended = stub.end().await;
    assert_eq!(ended.reason, EndReason::Completed, "{ended:?}\n{}", world.log());
}

#[tokio::test]
async fn versions_used_longest_ago_go_first_and_never_those_of_running_jobs() {
    let world = World::new(
        "data=$(sed -n 's/.*\"data\": \"\\(.*\\)\".*/\\1/p' \"$spec\")\n\
         [ -e \"$(dirname \"$data\")/runs-on.txt\" ] && log runs-on && hold\nfinish\n",
    );
    let mut stub = Stub::start().await;
    // A quarter of 160 MiB is for versions.
    let limits = ["--cache-floor-gib", "0", "--disk-floor-mib", "1", "--cpu-slots", "2"];
    let agent = world.agent_on_a_disk(160, &stub, &limits);
    stub.hello().await;
    let shared = mebibytes(4, 9);
    let with_shared = |seed| [mebibytes(10, seed), shared.clone()].concat();
    let (a, b) = (stub.push("a", &with_shared(1)), stub.push("b", &with_shared(2)));
    let (c, d) = (stub.push("c", &mebibytes(14, 3)), stub.push("d", &mebibytes(30, 4)));
    train(&mut stub, &world, 1, &a).await;
    train(&mut stub, &world, 2, &b).await;
    train(&mut stub, &world, 3, &a).await;
    until_held(&mut stub, &[&a, &b]).await;
    // 24 MiB are taken; 14 fit beside them. Then the next one needs the room of the oldest.
    train(&mut stub, &world, 4, &c).await;
    until_held(&mut stub, &[&c, &a, &b]).await;
    let e = stub.push("e", &mebibytes(9, 5));
    train(&mut stub, &world, 5, &e).await;
    until_held(&mut stub, &[&e, &c, &a]).await;
    // What the other versions share with it stays.
    let tree = |called: &PathBuf| agent.sees(&world.path("agent/cache/versions")).join(&ids(&[called])[0]);
    assert!(!tree(&b).exists());
    assert_eq!(fs::read(tree(&a).join(&shared[3].0)).unwrap(), shared[3].1);

    // For 30 MiB all goes but what a running job needs, though that was used before.
    let running = stub.push("running", &[("runs-on.txt".to_owned(), Vec::new())]);
    stub.assign(job(6), &running, Slot::Cpu(1), None).await;
    stub.log_line("runs-on").await;
    train(&mut stub, &world, 7, &d).await;
    let f = stub.push("f", &mebibytes(35, 7));
    train(&mut stub, &world, 9, &f).await;
    until_held(&mut stub, &[&f, &running]).await;

    let too_large = stub.push("large", &mebibytes(50, 6));
    stub.assign(job(8), &too_large, CPU, None).await;
    let ended = stub.end().await;
    assert_eq!(ended.reason, EndReason::AgentUnfit);
    assert_eq!(ended.unfit.unwrap().kind, UnfitKind::PathUnreadable);
    assert!(ended.message.contains("`fetched_quota_gib`"), "{}", ended.message);
}

#[tokio::test]
async fn a_job_that_hands_in_gives_its_room_to_the_next_one() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let limits = ["--cache-floor-gib", "0", "--disk-floor-mib", "1"];
    let _agent = world.agent_on_a_disk(160, &stub, &limits);
    stub.hello().await;
    // Either has room alone.
    let (a, b) = (stub.push("a", &mebibytes(30, 1)), stub.push("b", &mebibytes(30, 2)));
    stub.fill_disk(true);
    for (number, called) in [(1, &a), (2, &b)] {
        stub.assign(job(number), called, CPU, None).await;
        loop {
            let report = stub.report().await;
            assert!(!matches!(report.body, ReportBody::Ended(_)), "{report:?}\n{}", world.log());
            if report.attempt == job(number) && matches!(report.body, ReportBody::SlotReleased(_)) {
                break;
            }
        }
    }
    stub.fill_disk(false);
    for _ in 0..2 {
        assert_eq!(stub.end().await.reason, EndReason::Completed, "{}", world.log());
    }
}

#[tokio::test]
async fn a_disk_that_becomes_full_under_a_fetch_sends_the_job_back_for_free() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let limits = ["--cache-floor-gib", "0", "--disk-floor-mib", "1", "--fetched-quota-gib", "1"];
    let agent = world.agent_on_a_disk(60, &stub, &limits);
    stub.hello().await;
    let cells = stub.push("cells", &mebibytes(20, 1));
    stub.hold_up(true);
    stub.assign(job(1), &cells, CPU, None).await;
    stub.streams_wait(1).await;
    let disk = agent.sees(&world.path("agent"));
    let mut ballast = fs::File::create(disk.join("ballast")).unwrap();
    for size in [MIB, 4096, 1] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
    }
    drop(ballast);
    stub.hold_up(false);
    let ended = stub.end().await;
    assert_eq!(ended.reason, EndReason::Preempted, "{ended:?}\n{}", world.log());
    fs::remove_file(disk.join("ballast")).unwrap();
    stub.heartbeat_with(|heartbeat| heartbeat.unavailable.is_empty()).await;
    train(&mut stub, &world, 2, &cells).await;

    // What never fits does not empty the store.
    let too_large = stub.push("large", &mebibytes(70, 2));
    stub.assign(job(3), &too_large, CPU, None).await;
    let ended = stub.end().await;
    assert_eq!(ended.reason, EndReason::AgentUnfit);
    assert!(ended.message.contains("`cache_floor_gib`"), "{}", ended.message);
    until_held(&mut stub, &[&cells]).await;
}
