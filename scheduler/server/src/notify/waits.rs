//! Jobs that wait for longer than was expected.
//!
//! The first expectation that can be told of a job counts, which is that of its submission but for some seconds. It is
//! stored, so that another leader judges by the same.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use trainyard_scheduler_core::JobRecord;
use trainyard_types::{JobId, JobState, Time};

use crate::driver::{Handle, StateView, Unavailable};
use crate::notice_records::{NoticeRecord, Occasion};
use crate::store::{NoticeStore, StoreError};

/// What may be added to an expected wait: a share of it, and at least so long.
const SLACK_SHARE: f64 = 0.5;
const LEAST_SLACK: Duration = Duration::from_secs(10 * 60);
/// Jobs whose wait begins to be watched at one look, and notices of one.
const NEW_AT_ONCE: usize = 200;
const TOLD_AT_ONCE: usize = 20;

/// Why it cannot be told now.
#[derive(Debug, thiserror::Error)]
pub enum WaitsError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Driver(#[from] Unavailable),
}

/// Jobs whose wait one look found to begin, to be over, or to be too long.
#[derive(Default)]
struct Found {
    watched: Vec<(JobId, Time)>,
    over: Vec<JobId>,
    late: Vec<NoticeRecord>,
}

/// When a job that was expected to start at `start` has waited for too long.
fn due(created: Time, start: Time) -> Time {
    start + start.since(created).mul_f64(SLACK_SHARE).max(LEAST_SLACK)
}

/// Of jobs that were submitted together the first speaks for all.
fn speaks_for_others(job: &JobRecord) -> bool {
    job.group.as_ref().is_none_or(|member| member.index == 0)
}

/// Looks at the jobs of those who want to be told of waits, and adds notices of those that wait for too long.
pub async fn look(store: &dyn NoticeStore, driver: &Handle) -> Result<(), WaitsError> {
    let webhooks = store.webhooks().await?;
    let wants = |webhook: &crate::notice_records::WebhookRecord| webhook.on.contains(&Occasion::Waiting);
    let users: BTreeSet<String> = webhooks
        .into_iter()
        .filter(|(webhook, state)| wants(webhook) && state.given_up.is_none())
        .map(|(webhook, _)| webhook.user)
        .collect();
    let known = store.waits().await?;
    if users.is_empty() && known.is_empty() {
        return Ok(());
    }
    let found = driver.ask_leader(move |state| find(state, &users, &known)).await?;
    store.change_waits(&found.watched, &found.over).await?;
    for notice in &found.late {
        store.tell_wait(notice).await?;
    }
    Ok(())
}

fn find(state: &mut StateView<'_>, users: &BTreeSet<String>, known: &HashMap<JobId, Option<Time>>) -> Found {
    let (core, now) = (state.core, state.now);
    let mut found = Found::default();
    let is_queued = |job: &&JobRecord| job.state == JobState::Queued;
    for (id, due) in known {
        match core.job(*id).filter(is_queued).filter(|job| users.contains(&*job.user)) {
            None => found.over.push(*id),
            Some(job) if due.is_some_and(|due| due <= now) && found.late.len() < TOLD_AT_ONCE => {
                let waiting = core.waiting(now, *id);
                let reason = waiting.map_or_else(|| job.state_reason.clone(), |waiting| waiting.reason);
                found.late.push(NoticeRecord::waiting(job, &reason, now));
            }
            Some(_) => {}
        }
    }
    // Nothing is looked through where nobody wants to know.
    if users.is_empty() || core.count(JobState::Queued) == 0 {
        return found;
    }
    // The newest first: of those the expectation is the one that was told.
    let new =
        core.jobs().rev().filter(is_queued).filter(|job| {
            users.contains(&*job.user) && speaks_for_others(job) && !known.contains_key(&job.id)
        });
    for job in new.take(NEW_AT_ONCE) {
        if let Some(start) = core.waiting(now, job.id).and_then(|waiting| waiting.estimated_start) {
            found.watched.push((job.id, due(job.created, start)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_too_long_after_half_as_much_again_and_ten_minutes_at_least() {
        let minutes = |count: u64| Time(count * 60_000);
        assert_eq!(due(minutes(0), minutes(2)), minutes(12));
        assert_eq!(due(minutes(100), minutes(160)), minutes(190));
    }
}
