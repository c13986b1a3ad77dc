//! An attempt's reports on disk, until the scheduler has them: an append-only file, one record a line.
//!
//! Must not know: the network. The first record holds the number of the first report. What a crash left
//! half-written is cut off when the file is opened; a record that the disk has damaged is replaced by a warning
//! under its number, and counted ([`gaps_total`]). A file that outgrows its quota while nobody takes the
//! reports is thinned out: see [`thin`].

mod record;
pub mod refused;
#[cfg(test)]
mod tests;
pub mod thin;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;
use trainyard_types::trainer::{Log, LogLevel, TrainerEvent};
use trainyard_types::{AttemptId, Report, ReportBody, Time};

use record::{Found, Record, decode, encode};
use thin::Weight;

/// Above this size, a file whose reports are all acknowledged is begun anew.
const TRIM_BYTES: u64 = 1 << 20;

/// Reports that were lost since this process began.
static GAPS: AtomicU64 = AtomicU64::new(0);

/// How many reports were lost since this process began, by damage to the disk or for want of room.
pub fn gaps_total() -> u64 {
    GAPS.load(Ordering::Relaxed)
}

/// Counts reports that are lost.
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
    /// Bytes of whole records.
    length: u64,
    /// The reports that are not acknowledged.
    reports: VecDeque<Place>,
    /// Sequence number of the first of them.
    first: u64,
    /// Sequence number of the next report to send.
    unsent: u64,
    /// Sequence number of the first report that was never sent: those before it keep their numbers.
    untold: u64,
    ended: bool,
    synced: bool,
    /// Above this size the file is thinned out.
    quota_bytes: u64,
}

/// Where a report lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    weight: Weight,
}

impl Spool {
    /// Opens the spool at `path`, or begins one. Of a file that is there, every report counts as not
    /// acknowledged and not sent.
    ///
    /// # Errors
    /// The disk's.
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
            unsent: 1,
            untold: 1,
            ended: false,
            synced: false,
            quota_bytes,
        };
        let contents = record::read(&bytes);
        if contents.length < bytes.len() {
            spool.file.set_len(contents.length as u64)?;
        }
        let first = first_number(&contents.records);
        (spool.first, spool.unsent) = (first, first);
        if contents.damaged || !is_in_order(first, &contents.records) {
            let (reports, lost) = repaired(attempt, first, contents.records);
            warn!(%attempt, lost, "a spool was damaged; what is left of it is sent");
            count_gaps(lost);
            spool.replace(&reports)?;
        } else {
            for found in contents.records {
                match found {
                    Found::Whole(Record::Report(report), bytes) => spool.note(&report, bytes),
                    Found::Whole(Record::First(_), bytes) => spool.length += bytes,
                    Found::Damaged => {}
                }
            }
        }
        // Whether they were sent is not known.
        spool.untold = spool.next();
        if spool.length == 0 {
            let head = head(spool.first)?;
            spool.write(&head)?;
            spool.length = head.len() as u64;
        }
        Ok(spool)
    }

    fn note(&mut self, report: &Report, bytes: u64) {
        let weight = Weight::of(report.time, &report.body);
        self.reports.push_back(Place { offset: self.length, weight });
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
        self.unsent < self.next()
    }

    /// Bytes on disk.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Numbers a report and writes it. After an end nothing is taken any more.
    ///
    /// # Errors
    /// The disk's; the report has no number then and the spool is as before.
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
            // Whatever arrived of it must not stand before the next record.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.synced = false;
        Ok(())
    }

    /// The next report to send, which must be durable before it leaves: otherwise a power cut could make two
    /// reports with one number.
    ///
    /// # Errors
    /// The disk's.
    pub fn next_unsent(&mut self) -> Result<Option<Report>, SpoolError> {
        self.try_next_unsent().map_err(|source| self.error(source))
    }

    fn try_next_unsent(&mut self) -> io::Result<Option<Report>> {
        let index = usize::try_from(self.unsent.saturating_sub(self.first)).unwrap_or(usize::MAX);
        if index >= self.reports.len() {
            return Ok(None);
        }
        if !self.synced {
            self.file.sync_data()?;
            self.synced = true;
        }
        let report = self.read(index)?;
        self.unsent += 1;
        self.untold = self.untold.max(self.unsent);
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

    /// Where a report begins and ends.
    fn span(&self, index: usize) -> (u64, u64) {
        let to = self.reports.get(index + 1).map_or(self.length, |place| place.offset);
        (self.reports[index].offset, to)
    }

    /// The connection is new: what was not acknowledged is sent again.
    pub fn rewind(&mut self) {
        self.unsent = self.first;
    }

    /// Reports up to `sequence` are durable at the scheduler.
    ///
    /// # Errors
    /// The disk's, when the file is begun anew.
    pub fn ack(&mut self, sequence: u64) -> Result<(), SpoolError> {
        while self.first <= sequence && self.reports.pop_front().is_some() {
            self.first += 1;
        }
        self.unsent = self.unsent.max(self.first);
        self.untold = self.untold.max(self.first);
        if self.reports.is_empty() && !self.ended && self.length > TRIM_BYTES {
            self.replace(&[]).map_err(|source| self.error(source))?;
        }
        Ok(())
    }

    /// Leaves out of the file what is acknowledged, and of what was never sent what matters least. Numbers
    /// that were told stay; the others are given anew, so that there is no gap.
    fn thin(&mut self) -> io::Result<()> {
        let told = usize::try_from(self.untold.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let told = told.min(self.reports.len());
        let items: Vec<thin::Item> = (told..self.reports.len())
            .map(|index| (self.reports[index].weight, self.span(index).1 - self.span(index).0))
            .collect();
        let held = self.reports.get(told).map_or(0, |place| place.offset)
            - self.reports.front().map_or(0, |place| place.offset);
        let kept = thin::keep(&items, (self.quota_bytes / 2).saturating_sub(held));
        let mut reports = (0..told).map(|index| self.read(index)).collect::<io::Result<Vec<_>>>()?;
        for (index, _) in kept.iter().enumerate().filter(|(_, kept)| **kept) {
            let sequence = self.first + reports.len() as u64;
            reports.push(Report { sequence, ..self.read(told + index)? });
        }
        let before = self.length;
        let (untold, unsent) = (self.untold, self.unsent);
        self.replace(&reports)?;
        (self.untold, self.unsent) = (untold, unsent.min(self.next()));
        // What cannot be thinned further is not tried again with every report.
        self.quota_bytes = self.quota_bytes.max(self.length * 2);
        warn!(attempt = %self.attempt, before, after = self.length, "a spool was thinned out");
        Ok(())
    }

    /// Puts another file in the place of this one, whole or not at all. The first of `reports` has the number
    /// `first`.
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

    /// Deletes the file.
    ///
    /// # Errors
    /// The disk's.
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

/// The number of the first report: as the first records say, or as the others let one know.
fn first_number(records: &[Found]) -> u64 {
    for found in records {
        match found {
            Found::Whole(Record::First(first), _) => return *first,
            Found::Whole(Record::Report(report), _) => return report.sequence,
            Found::Damaged => {}
        }
    }
    1
}

/// Whether the reports have the numbers from `first` on.
fn is_in_order(first: u64, records: &[Found]) -> bool {
    let mut next = first;
    for found in records {
        if let Found::Whole(Record::Report(report), _) = found {
            if report.sequence != next {
                return false;
            }
            next += 1;
        }
    }
    true
}

/// The reports from number `first` on, with a warning in the place of each that is lost, and how many are.
fn repaired(attempt: AttemptId, first: u64, records: Vec<Found>) -> (Vec<Report>, u64) {
    let (mut reports, mut lost) = (Vec::<Report>::new(), 0);
    let mut time = Time(0);
    let placeholder = |sequence, time| {
        let message = "a report was damaged on the agent's disk and is lost".into();
        let body = ReportBody::Trainer(TrainerEvent::Log(Log { level: LogLevel::Warning, message }));
        Report { attempt, sequence, time, body }
    };
    let mut damaged_behind = 0;
    for (at, found) in records.into_iter().enumerate() {
        match found {
            Found::Whole(Record::Report(report), _) => {
                let next = first + reports.len() as u64;
                for sequence in next..report.sequence {
                    reports.push(placeholder(sequence, report.time));
                    lost += 1;
                }
                damaged_behind = 0;
                time = report.time;
                if report.sequence >= next {
                    reports.push(report);
                }
            }
            Found::Whole(Record::First(_), _) => damaged_behind = 0,
            Found::Damaged if at == 0 => {} // The first record.
            Found::Damaged => damaged_behind += 1,
        }
    }
    // At the end, too: they may have been sent, so their numbers are taken.
    for _ in 0..damaged_behind {
        reports.push(placeholder(first + reports.len() as u64, time));
        lost += 1;
    }
    (reports, lost)
}
