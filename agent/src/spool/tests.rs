use std::fs;

use trainyard_types::trainer::{Log, LogLevel, TrainerEvent};
use trainyard_types::{EndReason, Ended, JobId};
use uuid::Uuid;

use super::*;

fn attempt() -> AttemptId {
    AttemptId { job: JobId(Uuid::from_u128(7)), number: 1 }
}

fn line(text: &str) -> ReportBody {
    ReportBody::Trainer(TrainerEvent::Log(Log { level: LogLevel::Info, message: text.into() }))
}

fn end() -> ReportBody {
    ReportBody::Ended(Ended { reason: EndReason::Completed, message: String::new(), artifacts: Vec::new() })
}

fn unsent(spool: &mut Spool) -> Vec<u64> {
    std::iter::from_fn(|| spool.next_unsent().unwrap()).map(|report| report.sequence).collect()
}

#[test]
fn reports_count_from_one_and_come_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let mut spool = Spool::open(&path, attempt()).unwrap();
    for text in ["a", "b", "c"] {
        spool.append(Time(5), line(text)).unwrap();
    }
    let first = spool.next_unsent().unwrap().unwrap();
    assert_eq!(first, Report { attempt: attempt(), sequence: 1, time: Time(5), body: line("a") });
    assert_eq!(unsent(&mut spool), [2, 3]);
    assert!(!spool.has_unsent() && !spool.is_acked());
}

#[test]
fn a_new_connection_is_sent_what_was_not_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(&folder.path().join("a.spool"), attempt()).unwrap();
    for text in ["a", "b", "c"] {
        spool.append(Time(5), line(text)).unwrap();
    }
    unsent(&mut spool);
    spool.ack(1).unwrap();
    spool.rewind();
    assert_eq!(unsent(&mut spool), [2, 3]);
    spool.ack(99).unwrap();
    assert!(spool.is_acked());
    spool.append(Time(6), line("d")).unwrap();
    assert_eq!(unsent(&mut spool), [4]);
}

#[test]
fn a_restart_sends_everything_again_and_numbers_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let mut spool = Spool::open(&path, attempt()).unwrap();
    spool.append(Time(5), line("a")).unwrap();
    spool.append(Time(5), line("b")).unwrap();
    drop(spool);
    let mut spool = Spool::open(&path, attempt()).unwrap();
    assert!(!spool.has_ended());
    spool.append(Time(6), end()).unwrap();
    assert_eq!(unsent(&mut spool), [1, 2, 3]);
    drop(spool);
    assert!(Spool::open(&path, attempt()).unwrap().has_ended());
}

#[test]
fn a_torn_tail_is_cut_at_every_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let mut spool = Spool::open(&path, attempt()).unwrap();
    spool.append(Time(5), line("a")).unwrap();
    drop(spool);
    let whole = fs::read(&path).unwrap();
    let mut spool = Spool::open(&path, attempt()).unwrap();
    spool.append(Time(5), line("b")).unwrap();
    drop(spool);
    let longer = fs::read(&path).unwrap();
    for length in 0..=longer.len() {
        fs::write(&path, &longer[..length]).unwrap();
        let mut spool = Spool::open(&path, attempt()).unwrap();
        let kept = usize::from(length >= whole.len()) + usize::from(length == longer.len());
        assert_eq!(unsent(&mut spool).len(), kept, "cut at {length}");
        spool.append(Time(6), line("c")).unwrap();
        drop(spool);
        let mut spool = Spool::open(&path, attempt()).unwrap();
        assert_eq!(unsent(&mut spool), (1..=kept as u64 + 1).collect::<Vec<_>>(), "cut at {length}");
    }
}

#[test]
fn a_flipped_bit_ends_the_spool_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let mut spool = Spool::open(&path, attempt()).unwrap();
    spool.append(Time(5), line("a")).unwrap();
    let at = usize::try_from(spool.length).unwrap() + 40;
    spool.append(Time(5), line("b")).unwrap();
    drop(spool);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(unsent(&mut Spool::open(&path, attempt()).unwrap()), [1]);
}

#[test]
fn a_large_file_that_is_acknowledged_is_begun_anew_and_numbers_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let mut spool = Spool::open(&path, attempt()).unwrap();
    let long = "x".repeat(300_000);
    for _ in 0..4 {
        spool.append(Time(5), line(&long)).unwrap();
    }
    spool.ack(4).unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 100);
    spool.append(Time(6), line("e")).unwrap();
    drop(spool);
    assert_eq!(unsent(&mut Spool::open(&path, attempt()).unwrap()), [5]);
}
