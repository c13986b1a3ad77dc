//! Spools that are written, read back, torn, damaged and thinned out.

use std::fs;

use trainyard_types::trainer::{Epoch, Log, LogLevel, Step, TrainerEvent};
use trainyard_types::{EndReason, Ended, JobId};
use uuid::Uuid;

use super::*;

const QUOTA: u64 = 32 << 20;

fn attempt() -> AttemptId {
    AttemptId { job: JobId(Uuid::from_u128(7)), number: 1 }
}

fn line(text: &str) -> ReportBody {
    ReportBody::Trainer(TrainerEvent::Log(Log { level: LogLevel::Info, message: text.into() }))
}

fn end() -> ReportBody {
    ReportBody::Ended(Ended {
        reason: EndReason::Completed,
        message: String::new(),
        artifacts: Vec::new(),
        unfit: None,
    })
}

fn unsent(spool: &mut Spool) -> Vec<u64> {
    std::iter::from_fn(|| spool.next_unsent().unwrap()).map(|report| report.sequence).collect()
}

#[test]
fn reports_count_from_one_and_come_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let mut spool = Spool::open(&path, attempt(), QUOTA).unwrap();
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
    let mut spool = Spool::open(&folder.path().join("a.spool"), attempt(), QUOTA).unwrap();
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
    let mut spool = Spool::open(&path, attempt(), QUOTA).unwrap();
    spool.append(Time(5), line("a")).unwrap();
    spool.append(Time(5), line("b")).unwrap();
    drop(spool);
    let mut spool = Spool::open(&path, attempt(), QUOTA).unwrap();
    assert!(!spool.has_ended());
    spool.append(Time(6), end()).unwrap();
    assert_eq!(unsent(&mut spool), [1, 2, 3]);
    drop(spool);
    assert!(Spool::open(&path, attempt(), QUOTA).unwrap().has_ended());
}

#[test]
fn a_torn_tail_is_cut_at_every_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let mut spool = Spool::open(&path, attempt(), QUOTA).unwrap();
    spool.append(Time(5), line("a")).unwrap();
    drop(spool);
    let whole = fs::read(&path).unwrap();
    let mut spool = Spool::open(&path, attempt(), QUOTA).unwrap();
    spool.append(Time(5), line("b")).unwrap();
    drop(spool);
    let longer = fs::read(&path).unwrap();
    for length in 0..=longer.len() {
        fs::write(&path, &longer[..length]).unwrap();
        let mut spool = Spool::open(&path, attempt(), QUOTA).unwrap();
        let kept = usize::from(length >= whole.len()) + usize::from(length == longer.len());
        assert_eq!(unsent(&mut spool).len(), kept, "cut at {length}");
        spool.append(Time(6), line("c")).unwrap();
        drop(spool);
        let mut spool = Spool::open(&path, attempt(), QUOTA).unwrap();
        assert_eq!(unsent(&mut spool), (1..=kept as u64 + 1).collect::<Vec<_>>(), "cut at {length}");
    }
}

#[test]
fn a_flipped_bit_costs_its_own_report_and_its_number_stays_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let mut spool = Spool::open(&path, attempt(), QUOTA).unwrap();
    spool.append(Time(5), line("a")).unwrap();
    let at = usize::try_from(spool.length).unwrap() + 40;
    spool.append(Time(5), line("b")).unwrap();
    spool.append(Time(5), line("c")).unwrap();
    drop(spool);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let before = gaps_total();
    let mut spool = Spool::open(&path, attempt(), QUOTA).unwrap();
    assert!(gaps_total() > before);
    let reports: Vec<Report> = std::iter::from_fn(|| spool.next_unsent().unwrap()).collect();
    assert_eq!(reports.iter().map(|report| report.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((&reports[0].body, &reports[2].body), (&line("a"), &line("c")));
    assert!(format!("{:?}", reports[1]).contains("is lost"), "{:?}", reports[1]);
}

/// A generator of numbers for tests (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % below as u64).unwrap()
    }
}

/// A scheduler that takes each number once and in order, as the real one does.
#[derive(Default)]
struct Scheduler(Vec<Report>);

impl Scheduler {
    fn take(&mut self, report: Report) {
        let next = self.0.len() as u64 + 1;
        assert!(report.sequence <= next, "a gap: {} where {next} is due", report.sequence);
        if report.sequence == next {
            self.0.push(report);
        }
    }
}

#[test]
fn whatever_tears_and_flips_numbers_have_no_gaps_and_none_is_used_twice() {
    let seed = std::env::var("TRAINYARD_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("TRAINYARD_SEED={seed}");
    for round in 0..150 {
        let mut random = Random(seed.wrapping_add(round));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.spool");
        let mut scheduler = Scheduler::default();
        let (mut told, mut flips) = (0, 0);
        for _ in 0..4 {
            let mut spool = Spool::open(&path, attempt(), QUOTA).unwrap();
            for _ in 0..random.next(6) {
                told += 1;
                spool.append(Time(told), line(&format!("line {told}"))).unwrap();
            }
            for _ in 0..random.next(5) {
                if let Some(report) = spool.next_unsent().unwrap() {
                    let sequence = report.sequence;
                    scheduler.take(report);
                    if random.next(2) == 0 {
                        spool.ack(sequence).unwrap();
                    }
                }
            }
            // What was sent is on the disk; behind it a crash may tear, and any byte may flip.
            let index = usize::try_from(spool.first_never_sent - spool.first).unwrap();
            let safe = spool.reports.get(index).map_or(spool.length, |place| place.offset);
            drop(spool);
            let mut bytes = fs::read(&path).unwrap();
            let safe = usize::try_from(safe).unwrap();
            bytes.truncate(safe + random.next(bytes.len() - safe + 1));
            if random.next(2) == 0 && !bytes.is_empty() {
                let at = random.next(bytes.len());
                bytes[at] ^= 1 << random.next(8);
                flips += 1;
            }
            fs::write(&path, bytes).unwrap();
        }
        let mut spool = Spool::open(&path, attempt(), QUOTA).unwrap();
        spool.append(Time(9), end()).unwrap();
        while let Some(report) = spool.next_unsent().unwrap() {
            scheduler.take(report);
        }
        let last = scheduler.0.last().unwrap();
        assert_eq!(last.body, end(), "seed {seed}, round {round}: the end is not told");
        let lost = scheduler.0.iter().filter(|report| format!("{report:?}").contains("is lost")).count();
        assert!(lost <= flips, "seed {seed}, round {round}: {lost} lost by {flips} flips");
        let whole = scheduler.0.iter().filter(|report| !format!("{report:?}").contains("is lost"));
        let mut lines: Vec<u64> = whole.map(|report| report.time.0).collect();
        lines.pop();
        assert!(lines.is_sorted(), "seed {seed}, round {round}: {lines:?}");
    }
}

fn step(second: u64) -> ReportBody {
    let metrics = [("train/box_loss", 1.0), ("train/cls_loss", 2.0), ("train/dfl_loss", 3.0)];
    let metrics = metrics.map(|(name, value)| (name.to_owned(), value)).into();
    let batch = u32::try_from(second % 600).unwrap();
    ReportBody::Trainer(TrainerEvent::Step(Step {
        epoch: 1,
        batch,
        batches: 600,
        metrics,
        ..Step::default()
    }))
}

#[test]
fn a_day_without_a_scheduler_costs_bounded_disk_and_nothing_that_matters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let quota = 2 << 20;
    let mut spool = Spool::open(&path, attempt(), quota).unwrap();
    // The scheduler has the first ten, and was sent five more.
    for second in 0..15 {
        spool.append(Time(second * 1000), step(second)).unwrap();
    }
    assert_eq!(unsent(&mut spool).len(), 15);
    spool.ack(10).unwrap();
    let mut largest = 0;
    for second in 15..86_400_u64 {
        spool.append(Time(second * 1000), step(second)).unwrap();
        if second % 600 == 0 {
            let epoch =
                Epoch { epoch: u32::try_from(second / 600).unwrap(), epochs: 144, ..Epoch::default() };
            spool.append(Time(second * 1000), ReportBody::Trainer(TrainerEvent::Epoch(epoch))).unwrap();
            largest = largest.max(fs::metadata(&path).unwrap().len());
        }
    }
    spool.append(Time(86_400_000), end()).unwrap();
    assert!(largest <= quota + 100_000, "{largest} bytes");
    spool.rewind();
    let reports: Vec<Report> = std::iter::from_fn(|| spool.next_unsent().unwrap()).collect();
    let numbers: Vec<u64> = reports.iter().map(|report| report.sequence).collect();
    assert_eq!(numbers, (11..11 + reports.len() as u64).collect::<Vec<_>>(), "no gap");
    for (at, report) in reports[..5].iter().enumerate() {
        assert_eq!(report.body, step(10 + at as u64), "what was sent keeps its number");
    }
    let epochs = |report: &&Report| matches!(report.body, ReportBody::Trainer(TrainerEvent::Epoch(_)));
    assert_eq!(reports.iter().filter(epochs).count(), 143);
    let minutes: std::collections::BTreeSet<u64> =
        reports.iter().map(|report| report.time.0 / 60_000).collect();
    assert!(minutes.len() >= 1440, "a position of every minute is left: {}", minutes.len());
    assert_eq!(reports.last().unwrap().body, end());
    // A restart finds the same.
    drop(spool);
    assert_eq!(unsent(&mut Spool::open(&path, attempt(), quota).unwrap()), numbers);
}

#[test]
fn a_large_file_that_is_acknowledged_is_begun_anew_and_numbers_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.spool");
    let mut spool = Spool::open(&path, attempt(), QUOTA).unwrap();
    let long = "x".repeat(300_000);
    for _ in 0..4 {
        spool.append(Time(5), line(&long)).unwrap();
    }
    spool.ack(4).unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 200);
    spool.append(Time(6), line("e")).unwrap();
    drop(spool);
    assert_eq!(unsent(&mut Spool::open(&path, attempt(), QUOTA).unwrap()), [5]);
}
