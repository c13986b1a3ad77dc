//! What becomes of reports while nobody takes them and the disk fails them: the agent's process against a scheduler
//! that a test controls, with shell scripts for trainers.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{EndReason, Report, ReportBody, Slot};

use crate::stub::{Stub, World, attempt};

fn spool(world: &World) -> PathBuf {
    world.path("agent/jobs").join(attempt(1).job.to_string()).join("attempt-1.spool")
}

/// Changes one byte of the record that has `text`.
fn damage(path: &PathBuf, text: &str) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn an_end_that_the_disk_does_not_give_back_is_told_all_the_same() {
    let world = World::new("log one\nlog two\nfinish\n");
    let mut stub = Stub::start().await;
    stub.acknowledge(false);
    let _agent = world.agent(&stub, &[]);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), Slot::Cpu(0), None).await;
    let (reports, ended) = stub.reports_to_the_end(1).await;
    assert_eq!(ended.reason, EndReason::Completed, "{}", world.log());
    // Nothing more will be told of it that could open the file again.
    damage(&spool(&world), "\"two\"");
    stub.acknowledge(true);
    stub.hang_up().await;
    stub.hello().await;
    let mut again: Vec<Report> = Vec::new();
    let ended = loop {
        let report = stub.report().await;
        if let ReportBody::Ended(ended) = report.body {
            break ended;
        }
        // What was sent before the damaged one comes once more.
        again.retain(|other| other.sequence < report.sequence);
        again.push(report);
    };
    assert_eq!(ended.reason, EndReason::Completed, "{}", world.log());
    assert_eq!(again.len(), reports.len());
    assert!(format!("{again:?}").contains("a report was damaged on the agent's disk"), "{again:?}");
}

/// A day of work: a position every four seconds, an epoch every quarter of an hour.
const DAY: &str = r#"log ready
wait_for_test
awk 'BEGIN {
  for (i = 1; i <= 21600; i++) {
    printf "{\"v\":1,\"time\":%d,\"type\":\"step\",\"epoch\":%d,\"batch\":%d,\"batches\":225,\"images_per_second\":5.0,\"loader_wait_ratio\":0.5,\"metrics\":{}}\n", i * 4000, (i - 1) / 225 + 1, (i - 1) % 225 + 1
    if (i % 225 == 0) {
      printf "{\"v\":1,\"time\":%d,\"type\":\"epoch\",\"epoch\":%d,\"epochs\":96,\"seconds\":1.0,\"images_per_second\":5.0,\"loader_wait_ratio\":0.5,\"best\":false,\"metrics\":{}}\n", i * 4000, i / 225
    }
  }
}' > "/proc/self/fd/$fd"
tell '"type":"log","level":"warning","message":"the day is over"'
hold
"#;

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(90);
    let mut poll = tokio::time::interval(Duration::from_millis(100));
    while !is_so() {
        poll.tick().await;
        assert!(Instant::now() < patience, "not so: {what}");
    }
}

fn gaps(world: &World) -> String {
    let log = world.log();
    let (_, rest) = log.rsplit_once("metrics are on http://").expect("the log names the page");
    let mut stream = TcpStream::connect(rest.split_once('/').unwrap().0).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find(|line| line.starts_with("trainyard_spool_gaps_total")).unwrap();
    line.rsplit_once(' ').unwrap().1.to_owned()
}

#[tokio::test]
async fn a_day_without_the_scheduler_costs_bounded_disk_and_keeps_epochs_in_their_order() {
    let world = World::new(DAY);
    let mut stub = Stub::start().await;
    stub.acknowledge(false);
    stub.set_leader_epoch(5);
    let quota = ["--spool-quota-mib", "1", "--metrics-listen", "127.0.0.1:0"];
    let mut agent = world.agent(&stub, &quota);
    stub.hello().await;
    stub.assign(attempt(1), &world.data(), Slot::Cpu(0), None).await;
    stub.log_line("ready").await;
    // A scheduler that is refused is as good as none.
    stub.set_leader_epoch(4);
    stub.hang_up().await;
    world.release().await;
    let path = spool(&world);
    until("the day is over", || {
        fs::read(&path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains("the day is over"))
    })
    .await;
    assert!(world.log().contains("a spool was thinned out"), "{}", world.log());
    let bytes = fs::metadata(&path).unwrap().len();
    assert!(bytes < 3 << 20, "{bytes} bytes");
    assert_eq!(gaps(&world), "0", "what is left out on purpose is no gap");

    agent.kill();
    damage(&path, "\"epoch\":50,\"epochs\":96");
    stub.acknowledge(true);
    stub.set_leader_epoch(6);
    stub.reports.clear();
    let _agent = world.agent(&stub, &quota);
    let end = |stub: &Stub| match stub.reports.last().map(|report| &report.body) {
        Some(ReportBody::Ended(ended)) => Some(ended.reason),
        _ => None,
    };
    while end(&stub).is_none() {
        // What was refused before still comes in between.
        stub.heartbeat().await;
    }
    assert_eq!(end(&stub), Some(EndReason::AgentLost));
    let reports = &stub.reports;
    let numbers: Vec<u64> = reports.iter().map(|report| report.sequence).collect();
    assert_eq!(numbers, (1..=reports.len() as u64).collect::<Vec<_>>());
    let epoch = |report: &Report| match &report.body {
        ReportBody::Trainer(TrainerEvent::Epoch(epoch)) => Some(epoch.epoch),
        _ => None,
    };
    let wanted: Vec<u32> = (1..=96).filter(|epoch| *epoch != 50).collect();
    assert_eq!(reports.iter().filter_map(epoch).collect::<Vec<_>>(), wanted);
    let times: Vec<u64> = reports
        .iter()
        .filter(|report| matches!(report.body, ReportBody::Trainer(TrainerEvent::Step(_))))
        .map(|report| report.time.0)
        .collect();
    assert!(!times.is_empty() && times.is_sorted(), "{} positions", times.len());
    assert_eq!(gaps(&world), "1");
}
