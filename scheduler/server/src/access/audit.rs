//! Who did what: a bounded stream in the store, and a file with one JSON line each.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;

use super::refusals::Refusals;
use crate::access_records::AuditRecord;
use crate::clock::Clock;
use crate::store::AccessStore;

/// Records that may wait; then calls wait for them.
const BACKLOG: usize = 4096;
/// Records written at a time.
const AT_ONCE: usize = 1024;
/// How long records wait for others: each write costs the disk of Redis as much as a submission's.
const GATHER: Duration = Duration::from_millis(100);
/// How often it is looked whether refusals that were counted are to be told of.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Where a file ends and the next begins; one older file is kept.
const FILE_BYTES: u64 = 64 << 20;

/// What a call was about; among the extensions of its answer.
#[derive(Debug, Clone)]
pub struct Target(pub String);

/// What a stream is about, which is known once its first messages have come; among the extensions of its answer.
#[derive(Debug, Clone, Default)]
pub struct LateTarget(Arc<OnceLock<String>>);

impl LateTarget {
    /// It is about this, unless it is known already.
    pub fn set(&self, target: String) {
        let _known = self.0.set(target);
    }

    pub(super) fn get(&self) -> String {
        self.0.get().cloned().unwrap_or_default()
    }
}

/// The way of records to the audit.
#[derive(Clone)]
pub struct Audit(mpsc::Sender<AuditRecord>);

impl Audit {
    /// The way, and the task that writes what comes until all of the way's clones are gone.
    pub fn new(
        store: Arc<dyn AccessStore>,
        file: PathBuf,
        clock: Clock,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, mut records) = mpsc::channel(BACKLOG);
        let task = async move {
            let (mut writer, mut refusals) = (Writer { store, file, is_lacking: false }, Refusals::default());
            let mut is_over = false;
            while !is_over {
                let mut some = Vec::new();
                match timeout(LOOK_EVERY, records.recv_many(&mut some, AT_ONCE)).await {
                    Ok(0) => is_over = true,
                    Ok(_) => {
                        let gather = async {
                            while some.len() < AT_ONCE && records.recv_many(&mut some, AT_ONCE).await > 0 {}
                        };
                        let _over = timeout(GATHER, gather).await;
                    }
                    Err(_) => {}
                }
                let mut told: Vec<_> = some.into_iter().filter_map(|record| refusals.pass(record)).collect();
                told.extend(if is_over { refusals.all() } else { refusals.due(clock.now()) });
                if !told.is_empty() {
                    writer.write(told).await;
                }
            }
        };
        (Self(sender), task)
    }

    /// Tells of a call.
    pub async fn tell(&self, record: AuditRecord) {
        // The only error is that the scheduler has ended.
        let _ended = self.0.send(record).await;
    }
}

/// Writes records to where they are kept.
struct Writer {
    store: Arc<dyn AccessStore>,
    file: PathBuf,
    /// Whether the file could not be written last: a disk that stays full is told of once.
    is_lacking: bool,
}

impl Writer {
    async fn write(&mut self, records: Vec<AuditRecord>) {
        if let Err(cause) = self.store.append_audit(&records).await {
            warn!(%cause, records = records.len(), "the audit's stream lacks records; its file has them");
        }
        let file = self.file.clone();
        // A disk that hangs must hold up nobody else.
        let written = spawn_blocking(move || append(&file, &records)).await;
        match written {
            Ok(Ok(())) if std::mem::take(&mut self.is_lacking) => {
                warn!("the audit's file can be written again; what came meanwhile is in the stream alone");
            }
            Ok(Err(cause)) if !self.is_lacking => {
                warn!(%cause, "the audit's file cannot be written; what comes is in the stream alone");
                self.is_lacking = true;
            }
            Ok(_) | Err(_) => {}
        }
    }
}

fn append(path: &Path, records: &[AuditRecord]) -> std::io::Result<()> {
    if fs::metadata(path).is_ok_and(|file| file.len() >= FILE_BYTES) {
        fs::rename(path, path.with_extension("jsonl.1"))?;
    }
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
    }
    File::options().create(true).append(true).mode(0o600).open(path)?.write_all(&lines)
}

#[cfg(test)]
mod tests {
    use trainyard_types::Time;

    use super::*;
    use crate::store::memory::MemoryStore;

    fn record(at: u64) -> AuditRecord {
        AuditRecord {
            time: Time(at),
            caller: "ada".into(),
            role: None,
            address: "10.0.0.1".into(),
            action: "JobService/CancelJob".into(),
            target: String::new(),
            outcome: "OK".into(),
        }
    }

    #[tokio::test]
    async fn on_a_full_disk_the_stream_has_it_and_nobody_waits() {
        let store = Arc::new(MemoryStore::default());
        let (audit, task) = Audit::new(store.clone(), "/dev/full".into(), Clock::start());
        let task = tokio::spawn(task);
        for at in 0..3 * BACKLOG as u64 {
            audit.tell(record(at)).await;
        }
        drop(audit);
        task.await.unwrap();
        assert_eq!(store.audit(Some("0"), usize::MAX).await.unwrap().len(), 3 * BACKLOG);
    }

    #[tokio::test]
    async fn a_caller_who_is_refused_on_and_on_fills_no_stream_and_its_calls_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::default());
        let (audit, task) = Audit::new(store.clone(), dir.path().join("audit.jsonl"), Clock::start());
        let task = tokio::spawn(task);
        // Its minute is not over however long this takes.
        let now = Time(u64::MAX / 2);
        for _ in 0..3000 {
            let outcome = "PERMISSION_DENIED".to_owned();
            audit.tell(AuditRecord { time: now, outcome, ..record(0) }).await;
        }
        audit.tell(record(1)).await;
        drop(audit);
        task.await.unwrap();
        let stored = store.audit(Some("0"), usize::MAX).await.unwrap();
        assert_eq!(stored.len(), 62);
        assert_eq!(stored.last().unwrap().1.target, "(2940 more calls)");
    }

    #[tokio::test]
    async fn what_was_told_is_in_the_stream_and_in_the_file_when_the_scheduler_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (store, path) = (Arc::new(MemoryStore::default()), dir.path().join("audit.jsonl"));
        let (audit, task) = Audit::new(store.clone(), path.clone(), Clock::start());
        audit.tell(record(1)).await;
        audit.tell(record(2)).await;
        drop(audit);
        task.await;
        let stored = store.audit(None, 10).await.unwrap();
        assert_eq!(stored.iter().map(|(_, record)| record.time).collect::<Vec<_>>(), [Time(1), Time(2)]);
        let lines = fs::read_to_string(path).unwrap();
        let read = lines.lines().map(|line| serde_json::from_str::<AuditRecord>(line).unwrap());
        assert_eq!(read.collect::<Vec<_>>(), [record(1), record(2)]);
    }
}
