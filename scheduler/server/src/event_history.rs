//! A job's older events. When there are many, the oldest go from the store into files beside the job's
//! artifacts, piece by piece, and those who watch read them from there.
//!
//! A piece is durable before the store drops what is in it, so that an event is always in one of the two.

use std::sync::Arc;

use tracing::{info, warn};
use trainyard_scheduler_core::EventRecord;
use trainyard_types::{JobId, LeaderEpoch};

use crate::blobs::{BlobError, Blobs};
use crate::store::{Store, StoreError};

/// Events of one piece; one is read as a whole.
const PIECE: usize = 5000;

/// Why events cannot be read, or archived.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store of blobs: {0}")]
    Disk(#[from] BlobError),
    #[error("an event cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

/// Up to which cursor events are to be archived now that these were stored, where a store keeps `most` of a
/// job: whenever half of that has come in, so that a commit rarely costs more than itself.
pub fn archive_upto(events: &[EventRecord], most: u64) -> Option<u64> {
    let step = (most / 2).max(1);
    let (first, last) = (events.first()?.cursor, events.last()?.cursor);
    let has_crossed = last / step > first.saturating_sub(1) / step;
    (has_crossed && last >= most).then(|| last - step)
}

/// Moves a job's events up to a cursor out of the store. What cannot be moved stays, until the next time.
pub async fn archive_events(
    store: Arc<dyn Store>,
    blobs: Blobs,
    leader: LeaderEpoch,
    job: JobId,
    upto: u64,
) -> JobId {
    match try_archive_events(&*store, &blobs, leader, job, upto).await {
        Ok(()) => info!(%job, upto, "older events archived"),
        Err(cause) => warn!(%job, %cause, "older events cannot be archived, they stay"),
    }
    job
}

async fn try_archive_events(
    store: &dyn Store,
    blobs: &Blobs,
    leader: LeaderEpoch,
    job: JobId,
    upto: u64,
) -> Result<(), HistoryError> {
    let mut done = 0;
    loop {
        let mut events = store.events(job, done, PIECE).await?;
        events.retain(|event| event.cursor <= upto);
        let (Some(first), Some(last)) = (events.first(), events.last()) else { break };
        let mut file = blobs.history_piece(job, first.cursor, last.cursor).await?;
        for event in &events {
            file.line(&serde_json::to_vec(event)?).await?;
        }
        file.finish().await?;
        done = last.cursor;
    }
    if done > 0 {
        store.trim(leader, job, done + 1).await?;
    }
    Ok(())
}

/// A job's events after a cursor, oldest first: some `limit` of them, a few thousand where they come from a
/// file. None when there are no more.
///
/// # Errors
/// The store or the disk.
pub async fn after(
    store: &dyn Store,
    blobs: &Blobs,
    job: JobId,
    cursor: u64,
    limit: usize,
) -> Result<Vec<EventRecord>, HistoryError> {
    let stored = store.events(job, cursor, limit).await?;
    let reaches = stored.first().map_or(u64::MAX, |event| event.cursor);
    if reaches == cursor + 1 {
        return Ok(stored);
    }
    let text = blobs.piece_after(job, cursor).await?;
    let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let read = |line: &[u8]| -> Option<EventRecord> {
        serde_json::from_slice(line)
            .inspect_err(|cause| warn!(%job, %cause, "event cannot be read, leaving it out"))
            .ok()
    };
    let older: Vec<EventRecord> =
        lines.filter_map(read).filter(|event| event.cursor > cursor && event.cursor < reaches).collect();
    Ok(if older.is_empty() { stored } else { older })
}

#[cfg(test)]
mod tests {
    use trainyard_scheduler_core::EventBody;
    use trainyard_types::Time;
    use trainyard_types::trainer::LogLevel;

    use super::*;

    fn events(cursors: std::ops::RangeInclusive<u64>) -> Vec<EventRecord> {
        let body = EventBody::Log { level: LogLevel::Info, message: String::new() };
        cursors.map(|cursor| EventRecord { cursor, time: Time(1), attempt: 1, body: body.clone() }).collect()
    }

    #[test]
    fn events_are_archived_whenever_half_of_what_is_kept_has_come_in() {
        let due = |first, last| super::archive_upto(&events(first..=last), 100);
        assert_eq!((due(2, 49), due(2, 99), due(50, 50)), (None, None, None));
        assert_eq!((due(100, 100), due(99, 103), due(101, 149)), (Some(50), Some(53), None));
        assert_eq!((due(150, 150), due(2, 1000)), (Some(100), Some(950)));
        assert_eq!(super::archive_upto(&[], 100), None);
    }
}
