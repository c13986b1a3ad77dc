//! An attempt's reports on disk, until the scheduler has them: an append-only file, one record a line.
//!
//! Must not know: the network. The first record holds the number of the first report. What a crash left
//! half-written is cut off when the file is opened; a record that the disk has damaged is replaced by a warning
//! under its number, and counted ([`gaps_total`]). A file that outgrows its quota while nobody takes the
//! reports is thinned out: see [`thinning`].

pub mod pending;
mod record;
#[cfg(test)]
mod tests;
pub mod thinning;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;
use trainyard_types::trainer::{Log, LogLevel, TrainerEvent};
use trainyard_types::{AttemptId, Report, ReportBody, Time};

use record::{ReadRecord, Record, decode, encode};
use thinning::{ReportPriority, SpooledReport};

/// A file whose reports are all acknowledged is replaced by an empty one if it is larger than this.
const TRIM_BYTES: u64 = 1 << 20;

/// Reports that were lost since this process began.
static GAPS: AtomicU64 = AtomicU64::new(0);

/// How many reports were lost since this process began, by damage to the disk or for want of room.
pub fn gaps_total() -> u64 {
    GAPS.load(Ordering::Relaxed)
}

/// Counts reports that were lost.
pub fn count_gaps(lost: u64) {
    GAPS.fetch_add(lost, Ordering::Relaxed);
}

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("spool {path}: {source}")]
pub struct SpoolError {
    path: PathBuf,
    source: io::Error,
}

/// One attempt's spool. Reports are numbered here: without gaps, from 1.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    attempt: AttemptId,
    file: File,
    /// Bytes of the file that are whole records.
    length: u64,
    /// The reports that are not acknowledged.
    reports: VecDeque<RecordPosition>,
    /// Sequence number of the first of them.
    first: u64,
    /// Sequence number of the next report to send.
    next_to_send: u64,
    /// Sequence number of the first report that was never sent. Reports before it keep their numbers.
    first_never_sent: u64,
    /// Whether the last report is the attempt's end.
    ended: bool,
    /// Whether the file's content is on the disk.
    synced: bool,
    /// Above this size the file is thinned out.
    quota_bytes: u64,
}

/// Where a report begins in the file, and how much it matters.
#[derive(Debug, Clone, Copy)]
struct RecordPosition {
    offset: u64,
    priority: ReportPriority,
}

impl Spool {
    /// Opens the spool at `path`, or begins one. Of a file that is there, every report counts as not
    /// acknowledged and not sent.
    ///
    /// # Errors
    /// The disk's error.
    pub fn open(path: &Path, attempt: AttemptId, quota_bytes: u64) -> Result<Self, SpoolError> {
        Self::try_open(path, attempt, quota_bytes)
            .map_err(|source| SpoolError { path: path.to_owned(), source })
    }

    fn try_open(path: &Path, attempt: AttemptId, quota_bytes: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut spool = Self {
            path: path.to_owned(),
            attempt,
            file,
            length: 0,
            reports: VecDeque::new(),
            first: 1,
            next_to_send: 1,
            first_never_sent: 1,
            ended: false,
            synced: false,
            quota_bytes,
        };
        let contents = record::read(&bytes);
        if contents.length < bytes.len() {
            spool.file.set_len(contents.length as u64)?;
        }
        let first = first_number(&contents.records);
        (spool.first, spool.next_to_send) = (first, first);
        if contents.damaged || !is_in_order(first, &contents.records) {
            let (reports, lost) = repaired(attempt, first, contents.records);
            warn!(%attempt, lost, "a spool was damaged; what is left of it is sent");
            count_gaps(lost);
            spool.replace(&reports)?;
        } else {
            for found in contents.records {
                match found {
                    ReadRecord::Whole(Record::Report(report), bytes) => spool.note(&report, bytes),
                    ReadRecord::Whole(Record::First(_), bytes) => spool.length += bytes,
                    ReadRecord::Damaged => {}
                }
            }
        }
        // Whether they were sent is not known.
        spool.first_never_sent = spool.next();
        if spool.length == 0 {
            let head = head(spool.first)?;
            spool.write(&head)?;
            spool.length = head.len() as u64;
        }
        Ok(spool)
    }

    fn note(&mut self, report: &Report, bytes: u64) {
        let priority = ReportPriority::of(report.time, &report.body);
        self.reports.push_back(RecordPosition { offset: self.length, priority });
        self.length += bytes;
        self.ended = matches!(report.body, ReportBody::Ended(_));
    }

    /// The sequence number that the next report gets.
    fn next(&self) -> u64 {
        self.first + self.reports.len() as u64
    }

    /// Whether the last report tells the attempt's end.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether every report is acknowledged.
    pub fn is_acked(&self) -> bool {
        self.reports.is_empty()
    }

    /// Whether there is something to send.
    pub fn has_unsent(&self) -> bool {
        self.next_to_send < self.next()
    }

    /// Bytes that it takes on disk.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Numbers a report and writes it. After the attempt's end no report is taken any more.
    ///
    /// # Errors
    /// The disk's; the spool stays as it was.
    pub fn append(&mut self, time: Time, body: ReportBody) -> Result<(), SpoolError> {
        if self.ended {
            return Ok(());
        }
        if self.length > self.quota_bytes {
            self.thin().map_err(|source| self.error(source))?;
        }
        let report = Report { attempt: self.attempt, sequence: self.next(), time, body };
        let line = encode(&Record::Report(report.clone())).map_err(|source| self.error(source))?;
        self.write(&line).map_err(|source| self.error(source))?;
        self.note(&report, line.len() as u64);
        Ok(())
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(line) {
            // A part of this record must not stand before the next one.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.synced = false;
        Ok(())
    }

    /// The next report to send. It is on the disk before it leaves: otherwise a power cut could make two reports with one
    /// number.
    ///
    /// # Errors
    /// The disk's error.
    pub fn next_unsent(&mut self) -> Result<Option<Report>, SpoolError> {
        self.try_next_unsent().map_err(|source| self.error(source))
    }

    fn try_next_unsent(&mut self) -> io::Result<Option<Report>> {
        let index = usize::try_from(self.next_to_send.saturating_sub(self.first)).unwrap_or(usize::MAX);
        if index >= self.reports.len() {
            return Ok(None);
        }
        if !self.synced {
            self.file.sync_data()?;
            self.synced = true;
        }
        let report = self.read(index)?;
        self.next_to_send += 1;
        self.first_never_sent = self.first_never_sent.max(self.next_to_send);
        Ok(Some(report))
    }

    fn read(&self, index: usize) -> io::Result<Report> {
        let (from, to) = self.span(index);
        let mut line = vec![0; usize::try_from(to - from).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut line, from)?;
        match decode(&line) {
            Some(Record::Report(report)) => Ok(report),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a record does not read back")),
        }
    }

    /// Where a report begins and ends in the file.
    fn span(&self, index: usize) -> (u64, u64) {
        let to = self.reports.get(index + 1).map_or(self.length, |place| place.offset);
        (self.reports[index].offset, to)
    }

    /// Begins to send again with the first report that is not acknowledged, on a new connection.
    pub fn rewind(&mut self) {
        self.next_to_send = self.first;
    }

    /// Takes that the scheduler has stored the reports up to `sequence`.
    ///
    /// # Errors
    /// The disk's, when the file is replaced.
    pub fn ack(&mut self, sequence: u64) -> Result<(), SpoolError> {
        while self.first <= sequence && self.reports.pop_front().is_some() {
            self.first += 1;
        }
        self.next_to_send = self.next_to_send.max(self.first);
        self.first_never_sent = self.first_never_sent.max(self.first);
        if self.reports.is_empty() && !self.ended && self.length > TRIM_BYTES {
            self.replace(&[]).map_err(|source| self.error(source))?;
        }
        Ok(())
    }

    /// Leaves out of the file what is acknowledged, and of what was never sent what matters least. Reports that were sent
    /// keep their numbers; the others get new ones, so that there is no gap.
    fn thin(&mut self) -> io::Result<()> {
        let sent = usize::try_from(self.first_never_sent.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let sent = sent.min(self.reports.len());
        let never_sent: Vec<SpooledReport> = (sent..self.reports.len())
            .map(|index| {
                let (from, to) = self.span(index);
                SpooledReport { priority: self.reports[index].priority, bytes: to - from }
            })
            .collect();
        let sent_bytes = self.reports.get(sent).map_or(0, |place| place.offset)
            - self.reports.front().map_or(0, |place| place.offset);
        let kept = thinning::keep(&never_sent, (self.quota_bytes / 2).saturating_sub(sent_bytes));
        let mut reports = (0..sent).map(|index| self.read(index)).collect::<io::Result<Vec<_>>>()?;
        for (index, _) in kept.iter().enumerate().filter(|(_, kept)| **kept) {
            let sequence = self.first + reports.len() as u64;
            reports.push(Report { sequence, ..self.read(sent + index)? });
        }
        let before = self.length;
        let (first_never_sent, next_to_send) = (self.first_never_sent, self.next_to_send);
        self.replace(&reports)?;
        (self.first_never_sent, self.next_to_send) = (first_never_sent, next_to_send.min(self.next()));
        // What cannot be thinned further is not tried again with every report.
        self.quota_bytes = self.quota_bytes.max(self.length * 2);
        warn!(attempt = %self.attempt, before, after = self.length, "a spool was thinned out");
        Ok(())
    }

    /// Replaces the file by one that holds `reports`, whole or not at all. The first of them has the number `first`.
    fn replace(&mut self, reports: &[Report]) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        let file = OpenOptions::new().read(true).append(true).create(true).open(&temporary)?;
        file.set_len(0)?;
        let mut writer = BufWriter::new(&file);
        let head = head(self.first)?;
        writer.write_all(&head)?;
        let mut lengths = Vec::with_capacity(reports.len());
        for report in reports {
            let line = encode(&Record::Report(report.clone()))?;
            writer.write_all(&line)?;
            lengths.push(line.len() as u64);
        }
        writer.flush()?;
        drop(writer);
        file.sync_data()?;
        std::fs::rename(&temporary, &self.path)?;
        self.file = file;
        self.length = head.len() as u64;
        self.reports.clear();
        for (report, length) in reports.iter().zip(lengths) {
            self.note(report, length);
        }
        self.synced = true;
        Ok(())
    }

    /// Deletes the spool's file.
    ///
    /// # Errors
    /// The disk's error.
    pub fn delete(self) -> Result<(), SpoolError> {
        std::fs::remove_file(&self.path).map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> SpoolError {
        SpoolError { path: self.path.clone(), source }
    }
}

/// What a file begins with: the number of its first report, twice, so that one damaged byte does not lose it.
fn head(first: u64) -> io::Result<Vec<u8>> {
    Ok(encode(&Record::First(first))?.repeat(2))
}

/// The number of the first report, by the first record that is whole.
fn first_number(records: &[ReadRecord]) -> u64 {
    for found in records {
        match found {
            ReadRecord::Whole(Record::First(first), _) => return *first,
            ReadRecord::Whole(Record::Report(report), _) => return report.sequence,
            ReadRecord::Damaged => {}
        }
    }
    1
}

/// Whether the reports are numbered from `first` on without a gap.
fn is_in_order(first: u64, records: &[ReadRecord]) -> bool {
    let mut next = first;
    for found in records {
        if let ReadRecord::Whole(Record::Report(report), _) = found {
            if report.sequence != next {
                return false;
            }
            next += 1;
        }
    }
    true
}

/// The reports from number `first` on, with a warning in the place of each that is lost, and how many are.
fn repaired(attempt: AttemptId, first: u64, records: Vec<ReadRecord>) -> (Vec<Report>, u64) {
    let (mut reports, mut lost) = (Vec::<Report>::new(), 0);
    let mut time = Time(0);
    let placeholder = |sequence, time| {
        let message = "a report was damaged on the agent's disk and is lost".into();
        let body = ReportBody::Trainer(TrainerEvent::Log(Log { level: LogLevel::Warning, message }));
        Report { attempt, sequence, time, body }
    };
    let mut damaged_at_end = 0;
    for (at, found) in records.into_iter().enumerate() {
        match found {
            ReadRecord::Whole(Record::Report(report), _) => {
                let next = first + reports.len() as u64;
                for sequence in next..report.sequence {
                    reports.push(placeholder(sequence, report.time));
                    lost += 1;
                }
                damaged_at_end = 0;
                time = report.time;
                if report.sequence >= next {
                    reports.push(report);
                }
            }
            ReadRecord::Whole(Record::First(_), _) => damaged_at_end = 0,
            ReadRecord::Damaged if at == 0 => {} // The first record.
            ReadRecord::Damaged => damaged_at_end += 1,
        }
    }
    // Damaged ones at the end may have been sent, so their numbers are taken, too.
    for _ in 0..damaged_at_end {
        reports.push(placeholder(first + reports.len() as u64, time));
        lost += 1;
    }
    (reports, lost)
}
