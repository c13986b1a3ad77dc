//! Attempts that ended too soon, and what tells that a machine is well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trainyard_types::{AgentId, AttemptId, EndReason, Slot, Time};

use crate::record::{AttemptRecord, JobRecord};
use crate::retry;
use crate::state::job::QUICK;

/// Quick ends that are longer ago tell nothing of now.
pub(crate) const WINDOW: Duration = Duration::from_secs(3600);

/// Quick ends by agent and time, of the jobs that are known.
#[derive(Debug, Default)]
pub(crate) struct QuickEnds(BTreeMap<AgentId, BTreeMap<(Time, AttemptId), Slot>>);

impl QuickEnds {
    /// Takes in what a job that is known now has been through.
    pub(crate) fn note(&mut self, job: &JobRecord) {
        for (attempt, time) in quick(job) {
            self.0.entry(attempt.agent).or_default().insert((time, attempt.id), attempt.slot.clone());
        }
    }

    /// Takes out what a job that is forgotten has been through.
    pub(crate) fn forget(&mut self, job: &JobRecord) {
        for (attempt, time) in quick(job) {
            if let Some(ends) = self.0.get_mut(&attempt.agent) {
                ends.remove(&(time, attempt.id));
                if ends.is_empty() {
                    self.0.remove(&attempt.agent);
                }
            }
        }
    }

    /// Those on an agent that tell something of it at a time: when, which attempt, and where.
    pub(crate) fn on(&self, agent: AgentId, at: Time) -> impl Iterator<Item = (Time, AttemptId, &Slot)> {
        let ends = self.0.get(&agent).into_iter().flatten().map(|(&(time, id), slot)| (time, id, slot));
        ends.filter(move |(time, ..)| at.since(*time) < WINDOW)
    }
}

/// The attempts of a job that ended quickly, and when.
pub(crate) fn quick(job: &JobRecord) -> impl Iterator<Item = (&AttemptRecord, Time)> {
    let ended = job.attempts.iter().filter_map(|attempt| Some((attempt, attempt.ended.as_ref()?)));
    ended.filter(|(_, end)| end.quick).map(|(attempt, end)| (attempt, end.time))
}

/// Whether an attempt shows that its machine is well.
pub(crate) fn did_well(job: &JobRecord, attempt: &AttemptRecord) -> bool {
    match &attempt.ended {
        Some(end) => {
            let is_bad = retry::is_bad(end.reason, end.unfit.as_ref());
            end.reason == EndReason::Completed || !is_bad && attempt.ran(end.time) >= QUICK
        }
        None => job.has_stepped(),
    }
}

/// Whether a job ended quickly on more than one agent, so that it is what they have in common.
pub(crate) fn is_to_blame(job: &JobRecord) -> bool {
    let agents: BTreeSet<AgentId> = quick(job).map(|(attempt, _)| attempt.agent).collect();
    agents.len() > 1
}
