//! Event files that TensorBoard reads: the columns of results.csv as scalars under their names.
//!
//! A file is a row of records (TFRecord): length, its checksum, an `Event` message, its checksum.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message;
use trainyard_files::write_atomically;

/// A part of every event file's name.
const MARK: &str = "events.out.tfevents.";

/// Numbers and names are those of TensorFlow's `event.proto`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// The event's time, in seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// Optional, so that a 0 is written, too.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// The name of the event file in `folder`, if there is one.
pub fn event_file(folder: &Path) -> Option<PathBuf> {
    let mut names = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.file_name());
    names.find(|name| name.to_string_lossy().starts_with(MARK)).map(PathBuf::from)
}

/// The numbers of an epoch.
#[derive(Debug, Clone, Copy)]
pub struct Scalars<'a> {
    /// The epoch, from 1.
    pub epoch: u32,
    /// When the epoch ended, seconds since 1970.
    pub wall_time: f64,
    /// The numbers, by tag.
    pub metrics: &'a BTreeMap<String, f64>,
}

/// A run's event file.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
}

impl EventFile {
    /// Makes `folder` have exactly one event file, with `rows`: those of an earlier attempt go, because
    /// epochs that are done again would be there twice.
    ///
    /// # Errors
    /// When a file cannot be written or removed.
    pub fn start(folder: &Path, started: f64, rows: &[Scalars<'_>]) -> io::Result<Self> {
        let second = started.max(0.0) as u64;
        // A run keeps its file's name, so that a resumed one names the same artifacts.
        let name =
            event_file(folder).unwrap_or_else(|| PathBuf::from(format!("{MARK}{second:010}.trainyard")));
        let path = folder.join(name);
        for entry in fs::read_dir(folder)? {
            let other = entry?.path();
            let is_event_file =
                other.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MARK));
            if is_event_file && other != path {
                fs::remove_file(other)?;
            }
        }
        let version = Some("brain.Event:2".to_owned());
        let first = Event { wall_time: started, step: 0, file_version: version, summary: None };
        let mut bytes = record(&first.encode_to_vec());
        for row in rows {
            bytes.extend(record(&event(row).encode_to_vec()));
        }
        write_atomically(&path, &bytes)?;
        Ok(Self { path })
    }

    /// Adds an epoch's numbers.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&self, row: &Scalars<'_>) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().append(true).open(&self.path)?;
        io::Write::write_all(&mut file, &record(&event(row).encode_to_vec()))
    }
}

fn event(row: &Scalars<'_>) -> Event {
    let value = |(tag, value): (&String, &f64)| Value { tag: tag.clone(), simple_value: Some(*value as f32) };
    let summary = Some(Summary { value: row.metrics.iter().map(value).collect() });
    Event { wall_time: row.wall_time, step: row.epoch.into(), file_version: None, summary }
}

/// `data` with its length and both checksums.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = length.to_vec();
    bytes.extend(masked_crc(&length).to_le_bytes());
    bytes.extend(data);
    bytes.extend(masked_crc(data).to_le_bytes());
    bytes
}

/// The checksum of a record: CRC-32C, rotated and shifted so that checksums of checksums differ.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with Castagnoli's polynomial, bit by bit: a record has some hundred bytes.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let lowest = crc & 1;
            crc = (crc >> 1) ^ (0x82f6_3b78 * lowest);
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // The check value of the polynomial's catalogue entry, and 32 zeros of RFC 3720.
        assert_eq!((crc32c(b"123456789"), crc32c(&[0; 32])), (0xe306_9283, 0x8a91_36aa));
    }

    #[test]
    fn a_restarted_run_has_one_file_with_every_epoch_once() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = BTreeMap::from([("metrics/mAP50(B)".to_owned(), 0.0)]);
        let row = |epoch| Scalars { epoch, wall_time: 1000.0 + f64::from(epoch), metrics: &metrics };
        let file = EventFile::start(folder.path(), 1000.0, &[]).unwrap();
        file.append(&row(1)).unwrap();
        file.append(&row(2)).unwrap();
        let file = EventFile::start(folder.path(), 2000.0, &[row(1)]).unwrap();
        file.append(&row(2)).unwrap();
        let paths: Vec<PathBuf> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(paths.len(), 1);
        let mut bytes = fs::read(&paths[0]).unwrap();
        let mut steps = Vec::new();
        while !bytes.is_empty() {
            let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
            let rest = bytes.split_off(16 + length);
            steps.push(Event::decode(&bytes[12..12 + length]).unwrap().step);
            bytes = rest;
        }
        assert_eq!(steps, [0, 1, 2]);
    }
}
