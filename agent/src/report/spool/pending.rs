//! Reports that the disk refused wait in memory, in their order, until it takes them.
//!
//! Their size is bounded. Positions inside of epochs do not wait. When the rest takes too much, it is lost and counted, log
//! lines first.

use std::collections::VecDeque;

use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{AttemptId, ReportBody, Time};

use super::count_gaps;
use super::thinning::ReportPriority;

/// With so many bytes waiting, log lines of the trainer are lost, warnings included.
const LINES_LOST_ABOVE: usize = 8 << 20;
/// With so many bytes waiting, all reports but ends are lost. Without an end a job would hang.
const ALL_LOST_ABOVE: usize = 16 << 20;

/// A report that waits.
#[derive(Debug)]
struct Waiting {
    attempt: AttemptId,
    time: Time,
    body: ReportBody,
    bytes: usize,
}

/// The reports that wait.
#[derive(Debug, Default)]
pub struct PendingReports {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl PendingReports {
    /// Whether no report waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether reports of `attempt` wait.
    pub fn waits(&self, attempt: AttemptId) -> bool {
        self.waiting.iter().any(|waiting| waiting.attempt == attempt)
    }

    /// Keeps a report, unless it is a position inside an epoch, which the next one replaces.
    pub fn push(&mut self, attempt: AttemptId, time: Time, body: ReportBody) {
        if matches!(ReportPriority::of(time, &body), ReportPriority::Step(_)) {
            return;
        }
        let most = match &body {
            ReportBody::Ended(_) => usize::MAX,
            ReportBody::Trainer(TrainerEvent::Log(_)) => LINES_LOST_ABOVE,
            _ => ALL_LOST_ABOVE,
        };
        let bytes = serde_json::to_vec(&body).map_or(0, |json| json.len());
        if self.bytes.saturating_add(bytes) > most {
            count_gaps(1);
            return;
        }
        self.bytes += bytes;
        self.waiting.push_back(Waiting { attempt, time, body, bytes });
    }

    /// Takes all reports out, the oldest first.
    pub fn take(&mut self) -> impl Iterator<Item = (AttemptId, Time, ReportBody)> + use<> {
        self.bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().map(|Waiting { attempt, time, body, .. }| (attempt, time, body))
    }

    /// Drops the reports of `attempt`, which nobody wants any more.
    pub fn forget(&mut self, attempt: AttemptId) {
        self.waiting.retain(|waiting| waiting.attempt != attempt);
        self.bytes = self.waiting.iter().map(|waiting| waiting.bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use trainyard_types::trainer::{Epoch, Log, LogLevel};
    use trainyard_types::{EndReason, Ended, JobId};
    use uuid::Uuid;

    use super::*;

    fn id(job: u128) -> AttemptId {
        AttemptId { job: JobId(Uuid::from_u128(job)), number: 1 }
    }

    #[test]
    fn a_flood_of_warnings_is_bounded_and_takes_no_room_from_epochs_and_ends() {
        let mut pending = PendingReports::default();
        let flood = Log { level: LogLevel::Warning, message: "x".repeat(100_000) };
        for _ in 0..1000 {
            pending.push(id(1), Time(0), ReportBody::Trainer(TrainerEvent::Log(flood.clone())));
        }
        pending.push(id(2), Time(1), ReportBody::Trainer(TrainerEvent::Epoch(Epoch::default())));
        let ended = Ended {
            reason: EndReason::Completed,
            message: String::new(),
            artifacts: Vec::new(),
            unfit: None,
        };
        pending.push(id(1), Time(2), ReportBody::Ended(ended));
        assert!(pending.bytes < ALL_LOST_ABOVE && pending.waits(id(2)));
        let kept: Vec<_> = pending.take().collect();
        assert_eq!(kept.len(), 83 + 2);
        assert!(kept.iter().map(|(_, time, _)| time).is_sorted(), "in their order");
        assert!(pending.is_empty() && pending.bytes == 0);
    }

    #[test]
    fn what_waits_of_a_forgotten_attempt_makes_room() {
        let mut pending = PendingReports::default();
        for job in [1, 2] {
            pending.push(id(job), Time(0), ReportBody::Trainer(TrainerEvent::Epoch(Epoch::default())));
        }
        let bytes = pending.bytes;
        pending.forget(id(1));
        assert!(!pending.waits(id(1)) && pending.waits(id(2)));
        assert_eq!(pending.bytes * 2, bytes);
    }
}
