//! An attempt's reports on disk, until the scheduler has them: an append-only file, one record a line.
//!
//! Must not know: the network. A record is a checksum, a space and JSON; the first record holds the number
//! of the first report. What a crash left half-written is cut off when the file is opened.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use trainyard_types::{AttemptId, Report, ReportBody, Time};

#[cfg(test)]
mod tests;

/// Above this size, a file whose reports are all acknowledged is begun anew.
const TRIM_BYTES: u64 = 1 << 20;

const CHECKSUM_DIGITS: usize = 16;

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("spool {path}: {source}")]
pub struct SpoolError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    /// The sequence number of the first report that follows.
    First(u64),
    Report(Report),
}

/// One attempt's spool. Reports are numbered here: without gaps, from 1.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    attempt: AttemptId,
    file: File,
    /// Bytes of whole records.
    length: u64,
    /// Where the reports that are not acknowledged begin.
    offsets: VecDeque<u64>,
    /// Sequence number of the first of them.
    first: u64,
    /// Sequence number of the next report to send.
    unsent: u64,
    ended: bool,
    synced: bool,
}

impl Spool {
    /// Opens the spool at `path`, or begins one. Of a file that is there, every report counts as not
    /// acknowledged and not sent.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(path: &Path, attempt: AttemptId) -> Result<Self, SpoolError> {
        Self::try_open(path, attempt).map_err(|source| SpoolError { path: path.to_owned(), source })
    }

    fn try_open(path: &Path, attempt: AttemptId) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut spool = Self {
            path: path.to_owned(),
            attempt,
            file,
            length: 0,
            offsets: VecDeque::new(),
            first: 1,
            unsent: 1,
            ended: false,
            synced: false,
        };
        spool.replay(&bytes);
        if spool.length < bytes.len() as u64 {
            spool.file.set_len(spool.length)?;
        }
        if spool.length == 0 {
            spool.write(&Record::First(1))?;
        }
        Ok(spool)
    }

    /// Takes whole records up to the first that is torn or out of order.
    fn replay(&mut self, bytes: &[u8]) {
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            match decode(line) {
                Some(Record::First(first)) if self.length == 0 => {
                    (self.first, self.unsent) = (first, first);
                }
                Some(Record::Report(report)) if self.length > 0 && report.sequence == self.next() => {
                    self.ended = matches!(report.body, ReportBody::Ended(_));
                    self.offsets.push_back(self.length);
                }
                _ => return,
            }
            self.length += line.len() as u64;
        }
    }

    /// The sequence number that the next report gets.
    fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }

    /// Whether the last report tells the attempt's end.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether every report is acknowledged.
    pub fn is_acked(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Whether there is something to send.
    pub fn has_unsent(&self) -> bool {
        self.unsent < self.next()
    }

    /// Numbers a report and writes it. After an end nothing is taken any more.
    ///
    /// # Errors
    /// The disk's; the report has no number then and the spool is as before.
    pub fn append(&mut self, time: Time, body: ReportBody) -> Result<(), SpoolError> {
        if self.ended {
            return Ok(());
        }
        let ended = matches!(body, ReportBody::Ended(_));
        let report = Report { attempt: self.attempt, sequence: self.next(), time, body };
        let at = self.length;
        self.write(&Record::Report(report)).map_err(|source| self.error(source))?;
        self.offsets.push_back(at);
        self.ended = ended;
        Ok(())
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let line = encode(record)?;
        if let Err(error) = self.file.write_all(&line) {
            // Whatever arrived of it must not stand before the next record.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += line.len() as u64;
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
        let Some(&from) = self.offsets.get(index) else { return Ok(None) };
        if !self.synced {
            self.file.sync_data()?;
            self.synced = true;
        }
        let to = self.offsets.get(index + 1).copied().unwrap_or(self.length);
        let mut line = vec![0; usize::try_from(to - from).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut line, from)?;
        let Some(Record::Report(report)) = decode(&line) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record does not read back"));
        };
        self.unsent += 1;
        Ok(Some(report))
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
        while self.first <= sequence && self.offsets.pop_front().is_some() {
            self.first += 1;
        }
        self.unsent = self.unsent.max(self.first);
        if self.offsets.is_empty() && !self.ended && self.length > TRIM_BYTES {
            self.begin_anew().map_err(|source| self.error(source))?;
        }
        Ok(())
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        let line = encode(&Record::First(self.next()))?;
        let temporary = self.path.with_extension("new");
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&temporary)?;
        file.set_len(0)?;
        file.write_all(&line)?;
        file.sync_data()?;
        std::fs::rename(&temporary, &self.path)?;
        self.file = file;
        self.length = line.len() as u64;
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

fn checksum(json: &[u8]) -> String {
    hex::encode(&Sha256::digest(json)[..CHECKSUM_DIGITS / 2])
}

fn encode(record: &Record) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(record)?;
    let mut line = checksum(&json).into_bytes();
    line.push(b' ');
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

fn decode(line: &[u8]) -> Option<Record> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, json) = line.split_at_checked(CHECKSUM_DIGITS)?;
    let json = json.strip_prefix(b" ")?;
    if sum != checksum(json).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}
