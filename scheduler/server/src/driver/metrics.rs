//! What is counted and measured while this scheduler leads, for those who watch it; nothing is decided by it.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_scheduler_core::{Command, Core, EventBody, EventRecord, Output, Write};
use trainyard_types::{JobId, JobState};

/// Seconds of [`DriverMetrics::queue_wait`]'s buckets.
const QUEUE_WAIT: &[f64] =
    &[0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14_400.0, 86_400.0, 604_800.0];
/// Seconds of [`DriverMetrics::placement`]'s buckets.
const PLACEMENT: &[f64] = &[0.000_01, 0.000_1, 0.001, 0.01, 0.1, 1.0, 10.0];

/// How often values were how large.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Upper bounds of the buckets, inclusive; the last bucket has none.
    pub bounds: &'static [f64],
    /// Values of each bucket, one more than there are bounds.
    pub counts: Vec<u64>,
    pub sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: Duration) {
        let seconds = value.as_secs_f64();
        self.counts[self.bounds.partition_point(|&bound| bound < seconds)] += 1;
        self.sum += seconds;
    }
}

/// What the driver counts and measures.
#[derive(Debug, Clone, PartialEq)]
pub struct DriverMetrics {
    /// Jobs that were accepted; repeated requests make none.
    pub submitted: u64,
    /// From a job's submission to its first placement.
    pub queue_wait: Histogram,
    /// What a decision took that placed something, whatever it placed.
    pub placement: Histogram,
    /// Attempts whose trainers came up.
    pub started: u64,
    /// Attempts that ended before their trainers came up.
    pub not_started: u64,
}

impl Default for DriverMetrics {
    fn default() -> Self {
        let (queue_wait, placement) = (Histogram::new(QUEUE_WAIT), Histogram::new(PLACEMENT));
        Self { submitted: 0, queue_wait, placement, started: 0, not_started: 0 }
    }
}

impl DriverMetrics {
    /// The core has decided.
    pub(super) fn decided(&mut self, took: Duration, output: &Output) {
        if output.commands.iter().any(|command| matches!(command, Command::Assign { .. })) {
            self.placement.observe(took);
        }
    }

    /// That is durable now, and the core is as it was after it, or later.
    pub(super) fn written(&mut self, write: &Write, core: &Core) {
        match write {
            Write::JobGroup(group) => self.submitted += u64::from(group.len()),
            Write::Job(job) if job.revision == 1 && job.group.is_none() => self.submitted += 1,
            Write::JobEvents { job, events } => {
                for event in events {
                    self.happened(*job, event, core);
                }
            }
            _ => {}
        }
    }

    fn happened(&mut self, id: JobId, event: &EventRecord, core: &Core) {
        let EventBody::State { state, .. } = event.body else { return };
        let Some(job) = core.job(id) else { return };
        match (state, event.attempt) {
            (JobState::Starting, 1) => self.queue_wait.observe(event.time.since(job.created)),
            (JobState::Running, _) => self.started += 1,
            (JobState::Starting, _) | (_, 0) => {}
            (_, number) => {
                let attempt = job.attempts.get(number as usize - 1);
                self.not_started += u64::from(attempt.is_some_and(|attempt| attempt.started.is_none()));
            }
        }
    }
}

/// When agents were last heard of: name and id to an age.
pub type HeartbeatAges = BTreeMap<(String, String), Duration>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::new(&[0.1, 1.0]);
        for millis in [1, 100, 101, 1000, 5000] {
            histogram.observe(Duration::from_millis(millis));
        }
        assert_eq!((histogram.counts, histogram.sum), (vec![2, 2, 1], 6.202));
    }
}
