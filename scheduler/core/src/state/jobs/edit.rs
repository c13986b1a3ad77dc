//! A job under change, and how the indexes follow it.

use std::ops::{Deref, DerefMut};

use trainyard_types::{AttemptId, JobState, Time};

use super::{Indexes, Transition};
use crate::record::{AttemptRecord, JobRecord};
use crate::state::path_visibility::JobPaths;
use crate::state::slots::Kind;

/// A job's record, to be changed in any way. A queued job is out of the queue meanwhile.
#[derive(Debug)]
pub(crate) struct JobEdit<'a> {
    now: Time,
    job: &'a mut JobRecord,
    indexes: &'a mut Indexes,
    before: Keys,
}

/// What of a job's record is in an index.
#[derive(Debug, Clone, Copy)]
struct Keys {
    state: JobState,
    ended: Option<Time>,
    out_of_time_at: Option<Time>,
    /// The live attempt, as long as it holds its slots.
    holder: Option<AttemptId>,
    newest: NewestAttempt,
}

/// What of a job's newest attempt is in an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct NewestAttempt {
    number: u32,
    /// Its trainer came up.
    is_up: bool,
    is_quick_end: bool,
}

impl Keys {
    fn of(job: &JobRecord) -> Self {
        let newest = job.attempts.last().map(|attempt| NewestAttempt {
            number: attempt.id.number,
            is_up: attempt.started.is_some(),
            is_quick_end: attempt.ended.as_ref().is_some_and(|end| end.quick),
        });
        Self {
            state: job.state,
            ended: job.ended,
            out_of_time_at: job.out_of_time_at(),
            holder: job.live_attempt().filter(|attempt| attempt.holds_slots()).map(|attempt| attempt.id),
            newest: newest.unwrap_or_default(),
        }
    }
}

impl<'a> JobEdit<'a> {
    pub(super) fn new(now: Time, job: &'a mut JobRecord, indexes: &'a mut Indexes) -> Self {
        if job.state == JobState::Queued {
            indexes.queue.remove(job);
        }
        let before = Keys::of(job);
        Self { now, job, indexes, before }
    }

    /// An attempt begins, on slots of that kind.
    pub(crate) fn begin_attempt(&mut self, attempt: AttemptRecord, kind: Kind) {
        self.indexes.expected_ends.begin(attempt.id, kind);
        self.job.attempts.push(attempt);
    }

    /// The live attempt told how long it will take.
    pub(crate) fn expect_end(&mut self, end: Option<Time>) {
        if let Some(attempt) = self.job.live_attempt() {
            self.indexes.expected_ends.expect(attempt.id, within_limit(self.job, end));
        }
    }
}

/// When a job's attempt ends that told this: at its time limit it is stopped.
fn within_limit(job: &JobRecord, told: Option<Time>) -> Option<Time> {
    let stopped = job.out_of_time_at();
    told.map_or(stopped, |told| Some(stopped.map_or(told, |stopped| told.min(stopped))))
}

impl Deref for JobEdit<'_> {
    type Target = JobRecord;

    fn deref(&self) -> &JobRecord {
        self.job
    }
}

impl DerefMut for JobEdit<'_> {
    fn deref_mut(&mut self) -> &mut JobRecord {
        self.job
    }
}

impl Drop for JobEdit<'_> {
    fn drop(&mut self) {
        self.indexes.follow(self.now, &self.before, self.job);
    }
}

impl Indexes {
    /// A job is known from now on.
    pub(super) fn insert(&mut self, now: Time, job: &JobRecord, kind: Option<Kind>) {
        if job.state == JobState::Queued {
            self.queue.insert(now, job, &self.visibility);
        }
        if let Some((attempt, kind)) = job.live_attempt().zip(kind) {
            self.expected_ends.begin(attempt.id, kind);
            let left = job.progress.as_ref().and_then(|progress| progress.eta);
            self.expected_ends.expect(attempt.id, within_limit(job, left.map(|left| now + left)));
        }
        if let Some(time) = job.out_of_time_at() {
            self.time_limits.add(time, job.id);
        }
        self.by_state.insert(job);
        self.readers.note(job);
        self.quick_ends.note(job);
    }

    /// A job that has ended is known no more; `true` when its user has no other.
    pub(super) fn remove(&mut self, job: &JobRecord) -> bool {
        self.readers.forget(job);
        self.quick_ends.forget(job);
        self.by_state.remove(job)
    }

    /// A job is not as it was before.
    fn follow(&mut self, now: Time, before: &Keys, job: &JobRecord) {
        let after = Keys::of(job);
        if (after.state, after.ended) != (before.state, before.ended) {
            let (from, ended, to) = (before.state, before.ended, after.state);
            self.transitions.push(Transition { job: job.id, from, ended, to });
        }
        if after.out_of_time_at != before.out_of_time_at {
            if let Some(time) = before.out_of_time_at {
                self.time_limits.remove(time, job.id);
            }
            if let Some(time) = after.out_of_time_at {
                self.time_limits.add(time, job.id);
            }
        }
        if let Some(attempt) = before.holder.filter(|_| after.holder != before.holder) {
            self.expected_ends.end(attempt);
        }
        if after.newest != before.newest {
            let is_known = after.newest.number == before.newest.number;
            if after.newest.is_up
                && !(is_known && before.newest.is_up)
                && let Some(attempt) = job.attempts.last()
            {
                self.readers.add(&JobPaths::of(job).data, attempt.agent);
            }
            if after.newest.is_quick_end {
                self.quick_ends.note(job);
            }
        }
        if job.state == JobState::Queued {
            self.queue.insert(now, job, &self.visibility);
        }
    }
}
