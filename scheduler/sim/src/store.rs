//! The store of the simulated world: in memory, survives every crash, and checks what it is given.

use std::collections::BTreeMap;

use trainyard_scheduler_core::{AgentRecord, EventRecord, JobRecord, Write};
use trainyard_types::{AgentId, JobId, JobState};

use crate::oracle::Violation;

/// What is durable.
#[derive(Debug, Default)]
pub struct Store {
    /// All jobs.
    pub jobs: BTreeMap<JobId, JobRecord>,
    /// All agents.
    pub agents: BTreeMap<AgentId, AgentRecord>,
    /// The events of each job.
    pub events: BTreeMap<JobId, Vec<EventRecord>>,
}

impl Store {
    /// Applies the writes of one event, all of them.
    pub fn apply(&mut self, writes: Vec<Write>) -> Result<(), Violation> {
        for write in writes {
            match write {
                Write::Job(job) => self.put(*job)?,
                Write::Agent(agent) => {
                    self.agents.insert(agent.id, agent);
                }
                Write::JobEvents { job, events } => {
                    let stored = self.events.entry(job).or_default();
                    for event in events {
                        if event.cursor != stored.len() as u64 + 1 {
                            return Err(Violation::EventGap { job, cursor: event.cursor });
                        }
                        stored.push(event);
                    }
                }
            }
        }
        Ok(())
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
