//! Reports that the disk refused: they wait in memory, in their order, until it takes them. Bounded: positions
//! inside of epochs do not wait, and when the rest takes too much, it is lost and counted, lines first.

use std::collections::VecDeque;

use trainyard_types::trainer::TrainerEvent;
use trainyard_types::{AttemptId, ReportBody, Time};

use super::count_gaps;
use super::thin::Weight;

/// Bytes that may wait before lines of the trainer are lost, warnings included.
const MOST_FOR_LINES: usize = 8 << 20;
/// Bytes that may wait before anything else is lost, but ends: without one a job would hang.
const MOST: usize = 16 << 20;

/// One that waits.
#[derive(Debug)]
struct Waiting {
    attempt: AttemptId,
    time: Time,
    body: ReportBody,
    bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Refused {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl Refused {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether reports of `attempt` wait.
    pub fn waits(&self, attempt: AttemptId) -> bool {
        self.waiting.iter().any(|waiting| waiting.attempt == attempt)
    }

    /// Keeps a report, if it is not one that the next one replaces.
    pub fn push(&mut self, attempt: AttemptId, time: Time, body: ReportBody) {
        if matches!(Weight::of(time, &body), Weight::Step(_)) {
            return;
        }
        let most = match &body {
            ReportBody::Ended(_) => usize::MAX,
            ReportBody::Trainer(TrainerEvent::Log(_)) => MOST_FOR_LINES,
            _ => MOST,
        };
        let bytes = serde_json::to_vec(&body).map_or(0, |json| json.len());
        if self.bytes.saturating_add(bytes) > most {
            count_gaps(1);
            return;
        }
        self.bytes += bytes;
        self.waiting.push_back(Waiting { attempt, time, body, bytes });
    }

    /// All of them, the oldest first.
    pub fn take(&mut self) -> impl Iterator<Item = (AttemptId, Time, ReportBody)> + use<> {
        self.bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().map(|Waiting { attempt, time, body, .. }| (attempt, time, body))
    }

    /// Nobody wants to know of `attempt` any more.
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
        let mut refused = Refused::default();
        let flood = Log { level: LogLevel::Warning, message: "x".repeat(100_000) };
        for _ in 0..1000 {
            refused.push(id(1), Time(0), ReportBody::Trainer(TrainerEvent::Log(flood.clone())));
        }
        refused.push(id(2), Time(1), ReportBody::Trainer(TrainerEvent::Epoch(Epoch::default())));
        let ended = Ended {
            reason: EndReason::Completed,
            message: String::new(),
            artifacts: Vec::new(),
            unfit: None,
        };
        refused.push(id(1), Time(2), ReportBody::Ended(ended));
        assert!(refused.bytes < MOST && refused.waits(id(2)));
        let kept: Vec<_> = refused.take().collect();
        assert_eq!(kept.len(), 83 + 2);
        assert!(kept.iter().map(|(_, time, _)| time).is_sorted(), "in their order");
        assert!(refused.is_empty() && refused.bytes == 0);
    }

    #[test]
    fn what_waits_of_a_forgotten_attempt_makes_room() {
        let mut refused = Refused::default();
        for job in [1, 2] {
            refused.push(id(job), Time(0), ReportBody::Trainer(TrainerEvent::Epoch(Epoch::default())));
        }
        let bytes = refused.bytes;
        refused.forget(id(1));
        assert!(!refused.waits(id(1)) && refused.waits(id(2)));
        assert_eq!(refused.bytes * 2, bytes);
    }
}
