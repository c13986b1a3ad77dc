//! What is kept of a job that expires: its record and all its events as JSON lines, beside its artifacts.
//!
//! Only once this is durable does the core forget the job.

use std::sync::Arc;

use serde::Serialize;
use tracing::{info, warn};
use trainyard_scheduler_core::{Event, EventRecord, JobRecord, JobStatusRecord, Submission};

use crate::blobs::Blobs;
use crate::event_history::{self, HistoryError};
use crate::store::Store;

/// Events read at a time.
const PAGE: usize = 1000;

/// The first line of an archive.
#[derive(Serialize)]
struct Head<'a> {
    #[serde(flatten)]
    submission: Submission<'a>,
    #[serde(flatten)]
    status: JobStatusRecord<'a>,
}

/// Makes a job's history durable. What the core is to be told of it.
pub async fn archive(store: Arc<dyn Store>, blobs: Blobs, record: JobRecord) -> Event {
    let (job, revision) = (record.id, record.revision);
    match write(&*store, &blobs, &record).await {
        Ok(()) => {
            info!(%job, revision, "history archived, job expires");
            Event::Archived { job, revision: Some(revision) }
        }
        Err(cause) => {
            warn!(%job, %cause, "history cannot be archived, job stays");
            Event::Archived { job, revision: None }
        }
    }
}

async fn write(store: &dyn Store, blobs: &Blobs, record: &JobRecord) -> Result<(), HistoryError> {
    let mut file = blobs.history(record.id).await?;
    let mut spec = record.submission();
    let full = record.full_spec();
    spec.spec = std::borrow::Cow::Borrowed(&full);
    file.line(&serde_json::to_vec(&Head { submission: spec, status: record.status_record() })?).await?;
    let mut events: Vec<EventRecord> = vec![record.first_event()];
    while let Some(last) = events.last().map(|event| event.cursor) {
        for event in &events {
            file.line(&serde_json::to_vec(event)?).await?;
        }
        events = event_history::after(store, blobs, record.id, last, PAGE).await?;
    }
    Ok(file.finish().await?)
}
