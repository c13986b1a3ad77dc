//! A spool's records as lines: a checksum, a space, JSON, a line feed.

use std::io;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use trainyard_types::Report;

const CHECKSUM_DIGITS: usize = 16;

/// What one line holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The sequence number of the first report that follows.
    First(u64),
    /// A report.
    Report(Report),
}

/// What a file holds, as it was read.
#[derive(Debug, Default, PartialEq)]
pub struct Contents {
    /// Whole and damaged records, in their order.
    pub records: Vec<ReadRecord>,
    /// Whether some lines are not what was written.
    pub damaged: bool,
    /// Bytes before what a crash has left half-written.
    pub length: usize,
}

/// One record of a file as it was read.
#[derive(Debug, PartialEq)]
pub enum ReadRecord {
    /// The record, and how many bytes of the file it takes.
    Whole(Record, u64),
    /// What is left of a record that is damaged.
    Damaged,
}

fn checksum(json: &[u8]) -> String {
    hex::encode(&Sha256::digest(json)[..CHECKSUM_DIGITS / 2])
}

/// A record as a line.
///
/// # Errors
/// None that is known: a report is always JSON.
pub fn encode(record: &Record) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(record)?;
    let mut line = checksum(&json).into_bytes();
    line.push(b' ');
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

/// The record of a whole line, if it is one.
pub fn decode(line: &[u8]) -> Option<Record> {
    let (record, length) = decode_start(line)?;
    (length == line.len() && line.ends_with(b"\n")).then_some(record)
}

/// The record at the start of `bytes`, and its length with the byte after it, whatever that byte is.
fn decode_start(bytes: &[u8]) -> Option<(Record, usize)> {
    let (sum, rest) = bytes.split_at_checked(CHECKSUM_DIGITS)?;
    let rest = rest.strip_prefix(b" ")?;
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter();
    let record = values.next()?.ok()?;
    let json = &rest[..values.byte_offset()];
    (sum == checksum(json).as_bytes()).then(|| (record, bytes.len() - rest.len() + json.len() + 1))
}

/// Reads a file: what a crash has left half-written at its end is cut; a line that was whole once and is
/// damaged now costs itself and nothing else.
pub fn read(bytes: &[u8]) -> Contents {
    let mut contents = Contents::default();
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        if let Some(record) = decode(line) {
            contents.records.push(ReadRecord::Whole(record, line.len() as u64));
            contents.length += line.len();
            continue;
        }
        let mut rest = line;
        // A line feed that is none any more leaves two records in one line, or one without an end.
        while let Some((record, length)) = decode_start(rest)
            && length <= rest.len()
        {
            contents.records.push(ReadRecord::Whole(record, length as u64));
            contents.damaged = true;
            rest = &rest[length..];
        }
        if rest.ends_with(b"\n") {
            contents.records.push(ReadRecord::Damaged);
            contents.damaged = true;
        } else if !rest.is_empty() {
            return contents; // Torn.
        }
        contents.length += line.len();
    }
    contents
}
