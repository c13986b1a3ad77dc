//! All jobs, and the indexes over them.
//!
//! A record is changed through a [`JobEdit`] only, which brings the indexes up to date when it is dropped: no handler
//! can break one, or has to remember one.

pub(crate) mod check;
mod edit;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use trainyard_types::{AgentId, Fitness, JobGroupId, JobId, JobState, Time};

pub(crate) use self::edit::JobEdit;
use crate::record::{AttemptRecord, JobRecord};
use crate::state::deadlines::Due;
use crate::state::expected_ends::ExpectedEnds;
use crate::state::job_group::JobGroupRecord;
use crate::state::job_index::JobIndex;
use crate::state::path_visibility::{DataReaders, JobPaths, PathVisibility};
use crate::state::queue::{Queue, Request};
use crate::state::quick_ends::QuickEnds;
use crate::state::slots::Kind;

/// All jobs that are known, by id, and the indexes over them.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    records: BTreeMap<JobId, JobRecord>,
    /// Index: job groups that have jobs left.
    groups: BTreeMap<JobGroupId, JobGroup>,
    /// Index: the job that a request id made, or the first of its group.
    requests: BTreeMap<String, JobId>,
    indexes: Indexes,
}

/// A job group of which jobs are left.
#[derive(Debug)]
struct JobGroup {
    record: Arc<JobGroupRecord>,
    /// Its jobs that have not been forgotten.
    left: u32,
}

/// What follows from each job's record.
#[derive(Debug, Default)]
struct Indexes {
    /// By state, user and end.
    by_state: JobIndex,
    /// The jobs in state `Queued`.
    queue: Queue,
    /// Which agents see the paths that jobs name.
    visibility: PathVisibility,
    /// Where data sets could be read.
    readers: DataReaders,
    /// Attempts that ended too soon.
    quick_ends: QuickEnds,
    /// When running jobs have used up their time.
    time_limits: Due<JobId>,
    /// When running attempts are expected to end.
    expected_ends: ExpectedEnds,
    /// What [`Jobs::settle`] has not taken in yet.
    transitions: Vec<Transition>,
    /// Agents see other things than when [`Jobs::take_requests_to_check`] was last asked.
    is_visibility_new: bool,
}

/// A job left a state.
#[derive(Debug)]
struct Transition {
    job: JobId,
    from: JobState,
    /// When it had ended, if that state was final.
    ended: Option<Time>,
    to: JobState,
}

/// A job that is known no more.
#[derive(Debug)]
pub(crate) struct Forgotten {
    pub(crate) job: JobRecord,
    /// Whether its user has no other.
    pub(crate) was_last_of_user: bool,
    /// Its group, if the job was the last one left of it.
    pub(crate) emptied_group: Option<Arc<JobGroupRecord>>,
}

/// The lookups of jobs, which change nothing.
impl Jobs {
    pub(crate) fn get(&self, id: JobId) -> Option<&JobRecord> {
        self.records.get(&id)
    }

    /// In the order of their submission.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &JobRecord> {
        self.records.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Jobs by their ids.
    pub(crate) fn range(&self, ids: RangeInclusive<JobId>) -> impl DoubleEndedIterator<Item = &JobRecord> {
        self.records.range(ids).map(|(_, job)| job)
    }

    /// The ids of jobs that were submitted before one.
    pub(crate) fn ids_before(&self, before: JobId) -> impl DoubleEndedIterator<Item = JobId> {
        self.records.range(..before).map(|(&id, _)| id)
    }

    /// The live attempt of a job, if it has one.
    pub(crate) fn live_attempt(&self, id: JobId) -> Option<&AttemptRecord> {
        self.get(id)?.live_attempt()
    }

    /// The id of the job that a request made, or of the first one of its group; that job may be forgotten.
    pub(crate) fn first_of_request(&self, request_id: &str) -> Option<JobId> {
        self.requests.get(request_id).copied()
    }

    /// The job that a request made, or the first one of its group.
    pub(crate) fn of_request(&self, request_id: &str) -> Option<&JobRecord> {
        self.get(self.first_of_request(request_id)?)
    }

    /// A job group that has jobs left.
    pub(crate) fn group(&self, id: JobGroupId) -> Option<&Arc<JobGroupRecord>> {
        self.groups.get(&id).map(|group| &group.record)
    }

    /// Job groups that have jobs left, by id.
    pub(crate) fn groups(&self) -> impl DoubleEndedIterator<Item = &Arc<JobGroupRecord>> {
        self.groups.values().map(|group| &group.record)
    }

    /// Job groups that have jobs left, by their ids.
    pub(crate) fn groups_in(
        &self,
        ids: RangeInclusive<JobGroupId>,
    ) -> impl Iterator<Item = &Arc<JobGroupRecord>> {
        self.groups.range(ids).map(|(_, group)| &group.record)
    }

    /// The index by state, user and end.
    pub(crate) fn by_state(&self) -> &JobIndex {
        &self.indexes.by_state
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.indexes.queue
    }

    /// Which agents see the paths that jobs name.
    pub(crate) fn visibility(&self) -> &PathVisibility {
        &self.indexes.visibility
    }

    /// Where data sets could be read.
    pub(crate) fn readers(&self) -> &DataReaders {
        &self.indexes.readers
    }

    pub(crate) fn quick_ends(&self) -> &QuickEnds {
        &self.indexes.quick_ends
    }

    /// When running attempts are expected to end.
    pub(crate) fn expected_ends(&self) -> &ExpectedEnds {
        &self.indexes.expected_ends
    }

    /// What a job asks for, waiting or not.
    pub(crate) fn request(&self, job: &JobRecord) -> Request {
        if job.state == JobState::Queued {
            return self.queue().request(job);
        }
        self.request_of_new(job)
    }

    /// What a job asks for that is not in the queue.
    pub(crate) fn request_of_new(&self, job: &JobRecord) -> Request {
        let paths = JobPaths::of(job);
        let is_plain = self.visibility().excluded(&paths).is_empty();
        let paths = (!is_plain).then(|| Arc::new(paths));
        Request { paths, avoids: job.failures.avoids(), ..Request::from(&job.spec.resources) }
    }
}

/// Jobs that come and go.
impl Jobs {
    /// Takes in a job, with all that has become of it. `kind` is that of the slot that its live attempt holds, if it
    /// holds one.
    pub(crate) fn insert(&mut self, now: Time, job: JobRecord, kind: Option<Kind>) {
        if let Some(request_id) = &job.request_id {
            self.requests.insert(request_id.clone(), job.id);
        }
        if let Some(member) = &job.group {
            self.count_member(&member.group);
        }
        self.indexes.insert(now, &job, kind);
        self.records.insert(job.id, job);
    }

    /// One more job of a group is there.
    fn count_member(&mut self, record: &Arc<JobGroupRecord>) {
        let group = self.groups.entry(record.id).or_insert_with(|| {
            if let Some(request_id) = &record.request_id {
                self.requests.insert(request_id.clone(), record.id.job(0));
            }
            JobGroup { record: Arc::clone(record), left: 0 }
        });
        group.left += 1;
    }

    /// Takes in all jobs of a group that was just submitted.
    pub(crate) fn insert_group(&mut self, now: Time, group: Arc<JobGroupRecord>) {
        if let Some(request_id) = &group.request_id {
            self.requests.insert(request_id.clone(), group.id.job(0));
        }
        for job in group.jobs() {
            self.indexes.insert(now, &job, None);
            self.records.insert(job.id, job);
        }
        self.groups.insert(group.id, JobGroup { left: group.len(), record: group });
    }

    /// A job is known no more, nor are its attempts.
    pub(crate) fn forget(&mut self, id: JobId) -> Option<Forgotten> {
        let job = self.records.remove(&id)?;
        let was_last_of_user = self.indexes.remove(&job);
        if let Some(request_id) = &job.request_id {
            self.requests.remove(request_id);
        }
        let emptied_group = job.group.as_ref().and_then(|member| self.leave_group(member.group.id));
        Some(Forgotten { job, was_last_of_user, emptied_group })
    }

    /// One job less is left of a group, which is returned if that was the last one.
    fn leave_group(&mut self, id: JobGroupId) -> Option<Arc<JobGroupRecord>> {
        let group = self.groups.get_mut(&id)?;
        group.left = group.left.saturating_sub(1);
        if group.left > 0 {
            return None;
        }
        let group = self.groups.remove(&id)?.record;
        if let Some(request_id) = &group.request_id {
            self.requests.remove(request_id);
        }
        Some(group)
    }
}

/// The changes of jobs, which keep the indexes.
impl Jobs {
    /// A job to be changed; the indexes follow when the edit is dropped.
    pub(crate) fn edit(&mut self, now: Time, id: JobId) -> Option<JobEdit<'_>> {
        Some(JobEdit::new(now, self.records.get_mut(&id)?, &mut self.indexes))
    }

    /// Gives a record its next revision, as it is about to be written.
    pub(crate) fn revise(&mut self, id: JobId) -> Option<&JobRecord> {
        let job = self.records.get_mut(&id)?;
        job.revision += 1;
        Some(job)
    }

    /// Brings the index by state up to date: lists and retention see an event as a whole. Returns the states of the
    /// jobs that came to their end.
    pub(crate) fn settle(&mut self) -> Vec<JobState> {
        let mut finished = Vec::new();
        for Transition { job, from, ended, to } in std::mem::take(&mut self.indexes.transitions) {
            let Some(job) = self.records.get(&job) else { continue };
            if to.is_final() {
                finished.push(job.state);
            }
            self.indexes.by_state.moved(from, ended, job);
        }
        finished
    }

    /// Which jobs became ready to be placed, and which are no more, since this was asked last.
    pub(crate) fn take_queue_changes(&mut self) -> (BTreeSet<JobId>, BTreeSet<JobId>) {
        self.indexes.queue.take_changes()
    }

    /// Lets the jobs be placed whose retry is due; `false` when there are none.
    pub(crate) fn ready_due(&mut self, now: Time) -> bool {
        let mut has_any = false;
        while let Some(job) = self.indexes.queue.pop_due(now) {
            if let Some(job) = self.records.get(&job) {
                self.indexes.queue.make_ready(job);
                has_any = true;
            }
        }
        has_any
    }

    /// When the next running job has used up its time.
    pub(crate) fn next_time_limit(&self) -> Option<Time> {
        self.indexes.time_limits.next()
    }

    /// A running job that has used up its time and does not know it yet.
    pub(crate) fn next_over_time(&self, now: Time) -> Option<JobId> {
        self.indexes.time_limits.due(now)
    }
}

/// What is known of the paths that agents can see.
impl Jobs {
    /// An agent's machine has other things than before, or is forgotten. Returns whether it sees other paths now.
    pub(crate) fn note_fitness(&mut self, agent: AgentId, before: &Fitness, now: &Fitness) -> bool {
        let Indexes { visibility, queue, is_visibility_new, .. } = &mut self.indexes;
        let is_new = visibility.note(agent, before, now);
        if is_new {
            queue.refile(visibility, &self.records);
            *is_visibility_new = true;
        }
        is_new
    }

    /// An agent came or went, so that every request with paths is to be checked.
    pub(crate) fn check_all_paths(&mut self) {
        self.indexes.is_visibility_new = true;
    }

    /// Requests with paths of which it is not known whether any agent can read them: all when agents see other
    /// things than when this was asked last, otherwise those that are new.
    pub(crate) fn take_requests_to_check(&mut self) -> BTreeSet<Request> {
        let Indexes { queue, is_visibility_new, .. } = &mut self.indexes;
        let fresh = queue.take_fresh();
        if std::mem::take(is_visibility_new) {
            queue.ready().keys().filter(|request| request.paths.is_some()).cloned().collect()
        } else {
            fresh
        }
    }
}

/// For tests of the invariants, which break a record or an index to see that it is found.
#[cfg(test)]
impl Jobs {
    pub(crate) fn records_mut(&mut self) -> &mut BTreeMap<JobId, JobRecord> {
        &mut self.records
    }

    pub(crate) fn requests_mut(&mut self) -> &mut BTreeMap<String, JobId> {
        &mut self.requests
    }

    pub(crate) fn remove_from_queue(&mut self, id: JobId) {
        self.indexes.queue.remove(&self.records[&id]);
    }
}
