//! The state as of the newest commit, for the time of one question.

use std::collections::BTreeMap;

use tokio::sync::watch;
use trainyard_scheduler_core::{Accepted, Core, JobRecord, Refusal, Subject, Waiting};
use trainyard_types::{JobId, Time};

use super::changed_jobs::ChangedJobs;
use super::metrics::DriverMetrics;

/// A job with why it waits.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    pub record: JobRecord,
    /// Why it waits, while it is queued.
    pub waiting: Option<Waiting>,
    /// When it ends, as far as that can be told.
    pub estimated_end: Option<Time>,
}

/// How far a job's stored events reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventMark {
    /// The cursor of its newest event.
    pub last_cursor: u64,
    /// Whether no more will come.
    pub is_final: bool,
}

impl EventMark {
    pub(super) fn of(record: &JobRecord) -> Self {
        Self { last_cursor: record.last_cursor, is_final: record.state.is_final() }
    }
}

/// The state as of the newest commit, for the time of one question.
pub struct StateView<'a> {
    /// All jobs and agents.
    pub core: &'a Core,
    pub now: Time,
    /// Where the leader is, if this is a standby's view.
    pub elsewhere: Option<&'a str>,
    pub(super) watchers: &'a mut BTreeMap<JobId, watch::Sender<EventMark>>,
    /// The leader's; a standby has none.
    pub changed_jobs: &'a mut ChangedJobs,
    /// What the leader has counted.
    pub(super) metrics: &'a DriverMetrics,
}

impl StateView<'_> {
    /// One job with why it waits.
    pub fn job(&self, job: JobId) -> Option<JobView> {
        let record = self.core.job(job)?.clone();
        let mut waiting = self.core.waiting(self.now, job);
        if let (Some(waiting), Some(leader)) = (&mut waiting, self.elsewhere) {
            waiting.reason = format!("only the leader at {leader} knows; this scheduler stands by");
            (waiting.estimated_start, waiting.estimated_end) = (None, None);
        }
        let running = || self.core.estimated_end(job).filter(|_| self.elsewhere.is_none());
        let estimated_end = waiting.as_ref().map_or_else(running, |waiting| waiting.estimated_end);
        Some(JobView { record, waiting, estimated_end })
    }

    /// The job that a request was about.
    pub(super) fn accepted_job(&self, accepted: Accepted) -> Result<JobView, Refusal> {
        match accepted.subject {
            Subject::Job(job) => self.job(job).ok_or(Refusal::UnknownJob(job)),
            Subject::Agent(agent) => Err(Refusal::UnknownAgent(agent)),
        }
    }

    /// Follows a job: changes whenever events have been stored, ends when the driver loses its state.
    pub fn watch(&mut self, job: JobId) -> Option<watch::Receiver<EventMark>> {
        let mark = EventMark::of(self.core.job(job)?);
        if mark.is_final {
            // Nothing will wake it: what is there is all there is.
            return Some(watch::channel(mark).1);
        }
        let sender = self.watchers.entry(job).or_insert_with(|| watch::Sender::new(mark));
        Some(sender.subscribe())
    }
}
