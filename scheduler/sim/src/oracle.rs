//! What must hold over time, seen from outside: one small check per promise.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_scheduler_core::invariants::Broken;
use trainyard_scheduler_core::{EventBody, JobRecord};
use trainyard_types::{AttemptId, EndReason, JobId, JobState};

use crate::store::Store;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The core contradicts itself.
    #[error("the core is inconsistent: {0}")]
    Core(#[from] Broken),
    /// A write that does not follow the stored one.
    #[error("job {job} is written at revision {revision}, which does not follow what is stored")]
    Revision {
        /// Which.
        job: JobId,
        /// As written.
        revision: u64,
    },
    /// An event is missing or doubled.
    #[error("event {cursor} of job {job} does not follow the stored ones")]
    EventGap {
        /// Whose.
        job: JobId,
        /// The event's.
        cursor: u64,
    },
    /// A job knows more events than are stored, or fewer.
    #[error("job {0} does not know its newest event")]
    EventCount(JobId),
    /// A final state was left other than by a retry, or results changed.
    #[error("job {0} had ended and was changed")]
    FinalStateLeft(JobId),
    /// History was changed.
    #[error("an ended attempt of job {0} was changed")]
    AttemptRewritten(JobId),
    /// An attempt was given out twice.
    #[error("attempt {0} was assigned twice")]
    AttemptReused(AttemptId),
    /// An agent was given an attempt for a slot on which another one still runs.
    #[error("attempt {new} was assigned to a slot on which {old} runs")]
    SlotBusy {
        /// The one that runs.
        old: AttemptId,
        /// The one assigned.
        new: AttemptId,
    },
    /// Promise 1.
    #[error("job {0} was acknowledged and is not there")]
    Lost(JobId),
    /// Promise 1.
    #[error("request {0} made more than one job")]
    Doubled(String),
    /// Promise 2.
    #[error("job {0} has results of more than one attempt, or of the wrong one")]
    Results(JobId),
    /// Promise 3.
    #[error("the epochs of job {0} did not arrive complete, in order, once")]
    Metrics(JobId),
    /// An acknowledged cancellation was forgotten.
    #[error("job {0} was cancelled and ended otherwise")]
    NotCancelled(JobId),
    /// The faults are over, and still it does not end.
    #[error("job {job} never ended; it is {state}: {reason}")]
    Stuck {
        /// Which.
        job: JobId,
        /// Its state.
        state: JobState,
        /// Its state's reason.
        reason: String,
    },
}

/// Remembers what clients and agents were told.
#[derive(Debug, Default)]
pub struct Oracle {
    acknowledged: BTreeMap<JobId, String>,
    cancelled: BTreeSet<JobId>,
    assigned: BTreeSet<AttemptId>,
}

impl Oracle {
    /// A client was told that its job is queued.
    pub fn acknowledged(&mut self, job: JobId, request_id: &str) {
        self.acknowledged.insert(job, request_id.to_owned());
    }

    /// A client was told that its job will end.
    pub fn cancelled(&mut self, job: JobId) {
        self.cancelled.insert(job);
    }

    /// An agent is told to start an attempt.
    pub fn assigned(&mut self, attempt: AttemptId) -> Result<(), Violation> {
        if self.assigned.insert(attempt) { Ok(()) } else { Err(Violation::AttemptReused(attempt)) }
    }

    /// Safety: checked whenever the scheduler has been down, and at the end.
    pub fn check(&self, store: &Store) -> Result<(), Violation> {
        if let Some(&lost) = self.acknowledged.keys().find(|job| !store.jobs.contains_key(job)) {
            return Err(Violation::Lost(lost));
        }
        let mut requests = BTreeSet::new();
        for job in store.jobs.values() {
            if let Some(request_id) = &job.request_id
                && !requests.insert(request_id)
            {
                return Err(Violation::Doubled(request_id.clone()));
            }
            check_job(job, store)?;
        }
        Ok(())
    }

    /// Liveness: checked when the faults have been over for long.
    pub fn check_end(&self, store: &Store) -> Result<(), Violation> {
        self.check(store)?;
        for job in store.jobs.values() {
            if !job.state.is_final() {
                let reason = job.state_reason.clone();
                return Err(Violation::Stuck { job: job.id, state: job.state, reason });
            }
            if self.cancelled.contains(&job.id) && job.state == JobState::Failed {
                return Err(Violation::NotCancelled(job.id));
            }
        }
        Ok(())
    }
}

fn check_job(job: &JobRecord, store: &Store) -> Result<(), Violation> {
    let events = store.events.get(&job.id).map(Vec::as_slice).unwrap_or_default();
    if events.len() as u64 != job.last_cursor {
        return Err(Violation::EventCount(job.id));
    }
    let completed: Vec<AttemptId> = job
        .attempts
        .iter()
        .filter(|attempt| attempt.ended.as_ref().is_some_and(|end| end.reason == EndReason::Completed))
        .map(|attempt| attempt.id)
        .collect();
    // The modelled agents put the attempt into the artifact's name.
    let owners: Vec<String> = job.artifacts.iter().map(|artifact| artifact.name.clone()).collect();
    let expected: Vec<String> = completed.iter().map(ToString::to_string).collect();
    if owners != expected || (job.state == JobState::Succeeded) != (completed.len() == 1) {
        return Err(Violation::Results(job.id));
    }
    for attempt in completed {
        let epochs: Vec<(u32, u32)> = events
            .iter()
            .filter(|event| event.attempt == attempt.number)
            .filter_map(|event| match &event.body {
                EventBody::Metrics { epoch, epochs, epoch_end: true, .. } => Some((*epoch, *epochs)),
                EventBody::Metrics { .. } | EventBody::State { .. } | EventBody::Log { .. } => None,
            })
            .collect();
        let in_order = epochs.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1);
        if !in_order || epochs.last().is_some_and(|(epoch, epochs)| epoch != epochs) {
            return Err(Violation::Metrics(job.id));
        }
    }
    Ok(())
}
