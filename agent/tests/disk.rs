//! An agent on a disk that becomes full and has room again: its process, a disk of its own, and a scheduler that
//! a test controls.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, reason = "tests; not all of the stub is used")]

mod stub;

use std::fs;

use stub::{Stub, World, attempt};
use trainyard_types::{EndReason, Slot};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn under_the_floor_no_new_jobs_come_and_what_nobody_needs_goes() {
    let world = World::new("started\nhead -c 20971520 /dev/zero > $run/pictures\nfinish\n");
    let mut stub = Stub::start().await;
    let agent = world.agent_on_a_disk(100, &stub, &["--disk-floor-mib", "60"]);
    assert_eq!(stub.hello().await.unavailable, "", "{}", world.log());
    stub.assign(attempt(1), &world.data(), Slot::Cpu(0), None).await;
    let (_, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::Completed, "{}", world.log());
    let disk = agent.sees(&world.path("agent"));
    let job = disk.join("jobs").join(attempt(1).job.to_string());
    assert!(job.join("run/pictures").is_file());

    fs::write(disk.join("ballast"), vec![1; 50 * MIB]).unwrap();
    let told = loop {
        let told = stub.heartbeat().await.unavailable;
        if !told.is_empty() {
            break told;
        }
    };
    assert!(told.contains("MiB free, under `disk_floor_mib` = 60; make room there"), "{told}");
    while job.exists() {
        stub.heartbeat().await;
    }
    fs::remove_file(disk.join("ballast")).unwrap();
    while !stub.heartbeat().await.unavailable.is_empty() {}
    assert!(world.log().contains("the disk has room again"), "{}", world.log());
}
