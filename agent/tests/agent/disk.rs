//! An agent on a disk that becomes full and has room again: its process, a disk of its own, and a scheduler that
//! a test controls.

use std::fs;
use std::io::Write;
use std::path::Path;

use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{AttemptId, EndReason, JobId, Report, ReportBody, Slot};
use uuid::Uuid;

use crate::stub::{Stub, World, attempt};

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

/// Fills the disk that has `folder`, to the last byte.
fn fill(folder: &Path) {
    let mut ballast = fs::File::create(folder.join("ballast")).unwrap();
    for size in [MIB, 4096, 1] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
    }
}

#[tokio::test]
async fn a_disk_that_becomes_full_under_a_job_loses_none_of_its_reports() {
    let world = World::new(
        "started\nlog up\nwait_for_test\n\
         for epoch in $(seq 60); do\n\
           tell '\"type\":\"epoch\",\"epoch\":'$epoch',\"epochs\":60,\"seconds\":1.0,\"images_per_second\":1.0,\"loader_wait_ratio\":0.0,\"best\":false,\"metrics\":{}'\n\
         done\nlog told\nwait_for_test\nfinish\n",
    );
    let mut stub = Stub::start().await;
    let agent = world.agent_on_a_disk(20, &stub, &["--disk-floor-mib", "1"]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), Slot::Cpu(0), None).await;
    let disk = agent.sees(&world.path("agent"));
    stub.log_line("up").await;
    fill(&disk);
    world.release().await;
    stub.until_logged(&world, "cannot write a report; it is tried again").await;
    stub.heartbeat_with(|heartbeat| heartbeat.unavailable.contains("`disk_floor_mib` = 1")).await;
    // An attempt that comes all the same goes back for free.
    let other = AttemptId { job: JobId(Uuid::from_u128(8)), number: 1 };
    stub.assign(other, &world.data(), Slot::Cpu(0), None).await;
    fs::remove_file(disk.join("ballast")).unwrap();
    world.release().await;
    let end = |stub: &Stub, of| {
        stub.reports.iter().find_map(|report| match &report.body {
            ReportBody::Ended(ended) if report.attempt == of => Some(ended.reason),
            _ => None,
        })
    };
    while end(&stub, attempt(1)).is_none() || end(&stub, other).is_none() {
        stub.report().await;
    }
    assert_eq!(end(&stub, attempt(1)), Some(EndReason::Completed), "{}", world.log());
    assert_eq!(end(&stub, other), Some(EndReason::Preempted), "{}", world.log());
    let reports: Vec<&Report> = stub.reports.iter().filter(|report| report.attempt == attempt(1)).collect();
    let numbers: Vec<u64> = reports.iter().map(|report| report.sequence).collect();
    assert_eq!(numbers, (1..=reports.len() as u64).collect::<Vec<_>>());
    let epoch = |report: &&Report| match &report.body {
        ReportBody::Trainer(TrainerEvent::Epoch(epoch)) => Some(epoch.epoch),
        _ => None,
    };
    assert_eq!(reports.iter().filter_map(epoch).collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_spool_that_cannot_be_opened_holds_up_its_attempt_and_not_the_agent() {
    let world = World::new("finish\n");
    let mut stub = Stub::start().await;
    let spool = world.path("agent/jobs").join(attempt(1).job.to_string()).join("attempt-1.spool");
    fs::create_dir_all(&spool).unwrap(); // No disk opens a folder for writing.
    let _agent = world.agent(&stub, &[]);
    assert_eq!(stub.hello().await.attempts, [attempt(1)], "{}", world.log());
    stub.until_logged(&world, "cannot open a spool; it is tried again").await;
    let other = AttemptId { job: JobId(Uuid::from_u128(8)), number: 1 };
    stub.assign(other, &world.data(), Slot::Cpu(0), None).await;
    assert_eq!(stub.end().await.reason, EndReason::Completed);
    fs::remove_dir(&spool).unwrap();
    let ended = stub.end().await;
    assert_eq!(ended.reason, EndReason::AgentLost, "{ended:?}");
}
