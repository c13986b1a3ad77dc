//! What must hold once everything is healed and every job has ended.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use trainyard_proto::pb;

use super::client::Client;
use crate::jobs::{epoch_end, final_state};

/// Checks every job, of which `submitted` holds the names, each with whether somebody cancelled it.
///
/// # Errors
/// What does not hold, and of which job.
pub async fn check(client: &mut Client, submitted: &BTreeMap<String, bool>, epochs: u32) -> Result<()> {
    let jobs = client.list().await?;
    let name = |job: &pb::Job| job.spec.clone().unwrap_or_default().name;
    let names: BTreeSet<String> = jobs.iter().map(name).collect();
    ensure!(names.len() == jobs.len(), "{} jobs have {} names", jobs.len(), names.len());
    ensure!(
        names.iter().eq(submitted.keys()),
        "{} jobs were submitted, {} are there",
        submitted.len(),
        names.len()
    );
    for job in &jobs {
        let cancelled = submitted.get(&name(job)).is_some_and(|cancelled| *cancelled);
        let fine = match job.state() {
            pb::JobState::Succeeded => true,
            pb::JobState::Cancelled => cancelled,
            // The one end of a job that its machines alone can cause, and that says so.
            pb::JobState::Failed => job.state_reason.contains("was cut off"),
            _ => false,
        };
        ensure!(fine, "job {} is {:?}: {}; {:#?}", job.id, job.state(), job.state_reason, job.attempts);
        let events = client.history(&job.id).await?;
        check_events(job, &events, epochs).with_context(|| {
            let told: Vec<String> = events.iter().map(line).collect();
            format!("job {}, told:\n{}\nnamely", job.id, told.join("\n"))
        })?;
    }
    Ok(())
}

fn line(event: &pb::JobEvent) -> String {
    format!("{} attempt {}: {:?}", event.cursor, event.attempt, event.event)
}

/// Nothing is missing, doubled or out of order, and the job ended once.
fn check_events(job: &pb::Job, events: &[pb::JobEvent], epochs: u32) -> Result<()> {
    let gapless = events.iter().zip(1..).all(|(event, cursor)| event.cursor == cursor);
    ensure!(gapless, "cursors have gaps");
    let ends: Vec<pb::JobState> = events.iter().filter_map(final_state).collect();
    ensure!(ends == [job.state()], "ended {} times", ends.len());
    let mut trained: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for event in events {
        if let Some(epoch) = epoch_end(event) {
            trained.entry(event.attempt).or_default().push(epoch);
        }
    }
    for (attempt, told) in &trained {
        let in_order = told.iter().zip(1..).all(|(epoch, expected)| *epoch == expected);
        ensure!(in_order, "attempt {attempt} told epochs {told:?}");
    }
    let completed: Vec<&pb::Attempt> = job
        .attempts
        .iter()
        .filter(|attempt| attempt.end_reason() == pb::attempt::EndReason::Completed)
        .collect();
    let succeeded = job.state() == pb::JobState::Succeeded;
    ensure!(completed.len() == usize::from(succeeded), "{} attempts completed", completed.len());
    for attempt in completed {
        let told = trained.get(&attempt.number).map_or(0, Vec::len);
        ensure!(told == epochs as usize, "attempt {} told {told} of {epochs} epochs", attempt.number);
    }
    Ok(())
}
