//! Blobs that no record needs any more, once a report is taken in.

use std::collections::BTreeSet;

use trainyard_scheduler_core::{Core, Event, Output, Write};
use trainyard_types::{Artifact, JobId, ReportBody};

/// The blobs that a report may make superfluous: those of what it replaces, and its own.
pub(super) fn blobs_at_stake(core: &Core, event: &Event) -> Option<(JobId, BTreeSet<String>)> {
    let Event::Report { report, .. } = event else { return None };
    let job = core.job(report.attempt.job)?;
    let (replaced, reported): (&[Artifact], &[Artifact]) = match &report.body {
        ReportBody::CheckpointStored(reported) => {
            let stored = job.checkpoint.as_ref();
            (stored.map_or(&[], |checkpoint| &checkpoint.files), &reported.files)
        }
        ReportBody::PicturesStored(reported) => (&job.pictures, reported),
        // What it names may be uploaded again, and is no less needed if it is not taken in.
        ReportBody::Ended(_) if !job.pictures.is_empty() => (&job.pictures, &[]),
        _ => return None,
    };
    Some((job.id, replaced.iter().chain(reported).map(|file| file.sha256.clone()).collect()))
}

/// Those that the written record does not name. A report that was not taken in writes none.
pub(super) fn orphaned(job: JobId, mut blobs: BTreeSet<String>, output: &Output) -> Vec<(JobId, String)> {
    let written = output.writes.iter().find_map(|write| match write {
        Write::Job(record) if record.id == job => Some(record),
        _ => None,
    });
    let Some(record) = written else { return Vec::new() };
    let files = record.checkpoint.iter().flat_map(|checkpoint| &checkpoint.files);
    for named in files.chain(&record.artifacts).chain(&record.pictures) {
        blobs.remove(&named.sha256);
    }
    blobs.into_iter().map(|blob| (job, blob)).collect()
}
