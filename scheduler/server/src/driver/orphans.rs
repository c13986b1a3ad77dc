//! Blobs that no record needs any more, once a report is taken in.

use std::collections::BTreeSet;

use trainyard_scheduler_core::{Core, Event, Output, Write};
use trainyard_types::{JobId, ReportBody};

/// The blobs that a checkpoint's report may make superfluous: the stored one's, and its own.
pub(super) fn blobs_at_stake(core: &Core, event: &Event) -> Option<(JobId, BTreeSet<String>)> {
    let Event::Report { report, .. } = event else { return None };
    let ReportBody::CheckpointStored(reported) = &report.body else { return None };
    let job = core.job(report.attempt.job)?;
    let stored = job.checkpoint.iter().flat_map(|checkpoint| &checkpoint.files);
    Some((job.id, stored.chain(&reported.files).map(|file| file.sha256.clone()).collect()))
}

/// Those that the written record does not name. A report that was not taken in writes none.
pub(super) fn orphaned(job: JobId, mut blobs: BTreeSet<String>, output: &Output) -> Vec<(JobId, String)> {
    let written = output.writes.iter().find_map(|write| match write {
        Write::Job(record) if record.id == job => Some(record),
        _ => None,
    });
    let Some(record) = written else { return Vec::new() };
    let files = record.checkpoint.iter().flat_map(|checkpoint| &checkpoint.files);
    for named in files.chain(&record.artifacts) {
        blobs.remove(&named.sha256);
    }
    blobs.into_iter().map(|blob| (job, blob)).collect()
}
