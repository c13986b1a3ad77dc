//! The store of the simulated world: in memory, survives every crash, and checks what it is given.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_scheduler_core::{
    AgentRecord, EventRecord, JobRecord, Stored, ThroughputRecord, UserRecord, Write,
};
use trainyard_types::{AgentId, JobId, JobState};

use crate::oracle::Violation;

/// The records that are durable.
#[derive(Debug, Default)]
pub struct Store {
    pub jobs: BTreeMap<JobId, JobRecord>,
    pub agents: BTreeMap<AgentId, AgentRecord>,
    pub users: BTreeMap<String, UserRecord>,
    /// What was learned, by key.
    pub throughput: BTreeMap<String, ThroughputRecord>,
    /// The events of each job, from the second on.
    pub events: BTreeMap<JobId, Vec<EventRecord>>,
    /// Of which revision of each job the history is archived, and the cursor up to which it is.
    pub archive: BTreeMap<JobId, (u64, u64)>,
    /// Jobs that expired.
    pub forgotten: BTreeSet<JobId>,
}

impl Store {
    /// Applies the writes of one event, all of them.
    pub fn apply(&mut self, writes: Vec<Write>) -> Result<(), Violation> {
        for write in writes {
            match write {
                Write::JobGroup(batch) => {
                    for job in batch.jobs() {
                        if self.jobs.insert(job.id, job).is_some() {
                            return Err(Violation::Doubled(batch.id.to_string()));
                        }
                    }
                }
                Write::Job(job) => self.put(*job)?,
                Write::Progress(progress) => {
                    if let Some(job) = self.jobs.get_mut(&progress.job) {
                        job.apply_progress(progress);
                    }
                }
                Write::User(user) => {
                    self.users.insert(user.name.clone(), user);
                }
                Write::Forget { job, .. } => self.forget(job)?,
                Write::ForgetJobGroup(batch) => {
                    if let Some(left) = batch.ids().find(|job| self.jobs.contains_key(job)) {
                        return Err(Violation::ForgottenTooEarly(left));
                    }
                }
                Write::ForgetUser(user) => {
                    self.users.remove(&user);
                }
                Write::Throughput(record) => {
                    self.throughput.insert(record.key(), record);
                }
                Write::ForgetThroughput(key) => {
                    self.throughput.remove(&key);
                }
                Write::Agent(agent) => {
                    self.agents.insert(agent.id, agent);
                }
                Write::ForgetAgent(agent) => {
                    self.agents.remove(&agent);
                }
                Write::JobEvents { job, events } => {
                    let stored = self.events.entry(job).or_default();
                    for event in events {
                        // The first follows from the record.
                        if event.cursor != stored.len() as u64 + 2 {
                            return Err(Violation::EventGap { job, cursor: event.cursor });
                        }
                        stored.push(event);
                    }
                }
            }
        }
        Ok(())
    }

    /// What a scheduler reads when it starts.
    pub fn load(&self) -> Stored {
        Stored {
            jobs: self.jobs.values().cloned().collect(),
            agents: self.agents.values().cloned().collect(),
            users: self.users.values().cloned().collect(),
            throughput: self.throughput.values().cloned().collect(),
        }
    }

    /// Makes a job's history durable elsewhere; returns the revision that it is of.
    pub fn archive(&mut self, id: JobId) -> Option<u64> {
        let job = self.jobs.get(&id)?;
        self.archive.insert(id, (job.revision, job.last_cursor));
        Some(job.revision)
    }

    fn forget(&mut self, id: JobId) -> Result<(), Violation> {
        let Some(job) = self.jobs.remove(&id) else { return Err(Violation::ForgottenTooEarly(id)) };
        self.events.remove(&id);
        self.forgotten.insert(id);
        let archived = self.archive.get(&id) == Some(&(job.revision, job.last_cursor));
        if archived && job.state.is_final() { Ok(()) } else { Err(Violation::ForgottenTooEarly(id)) }
    }

    fn put(&mut self, job: JobRecord) -> Result<(), Violation> {
        let stored = self.jobs.get(&job.id);
        if stored.map_or(0, |stored| stored.revision) + 1 != job.revision {
            return Err(Violation::Revision { job: job.id, revision: job.revision });
        }
        if let Some(stored) = stored {
            check_change(stored, &job)?;
        }
        self.jobs.insert(job.id, job);
        Ok(())
    }
}

/// What one write may do to a job.
fn check_change(stored: &JobRecord, job: &JobRecord) -> Result<(), Violation> {
    let left = stored.state.is_final() && job.state != stored.state;
    let retried = stored.state != JobState::Succeeded && !job.state.is_final();
    let results_changed = stored.state == JobState::Succeeded && stored.artifacts != job.artifacts;
    if (left && !retried) || results_changed {
        return Err(Violation::FinalStateLeft(job.id));
    }
    let ended = stored.attempts.iter().filter(|attempt| attempt.ended.is_some());
    if ended.zip(&job.attempts).any(|(before, after)| before != after) {
        return Err(Violation::AttemptRewritten(job.id));
    }
    Ok(())
}
