//! What agents were told to prefetch. Nothing of it is stored: whoever comes to lead tells anew.

use std::collections::BTreeMap;
use std::time::Duration;

use trainyard_types::{AgentId, JobId, Reference, Session, Time};

/// It is looked at so often who is to start next: often enough for what runs for minutes.
const PLANNED_EVERY: Duration = Duration::from_secs(10);
/// An agent that has not got ready for so long is told again, or is told something else.
const REPEATED_AFTER: Duration = Duration::from_secs(600);

/// A version that is prefetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefetchKind {
    DataSet,
    Weights,
}

/// A version that an agent is to prefetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) job: JobId,
    pub(crate) kind: PrefetchKind,
    pub(crate) reference: Reference,
}

/// An order to prefetch that an agent was given.
#[derive(Debug)]
pub(crate) struct Told {
    session: Session,
    at: Time,
    pub(crate) wanted: Wanted,
}

/// What agents were told to prefetch, one version each.
#[derive(Debug, Default)]
pub(crate) struct Prefetches {
    planned: Option<Time>,
    told: BTreeMap<AgentId, Told>,
}

impl Prefetches {
    /// Whether it is time to plan; then the next plan is due later.
    pub(crate) fn begin_plan(&mut self, now: Time) -> bool {
        let is_due = self.planned.is_none_or(|planned| now.since(planned) >= PLANNED_EVERY);
        if is_due {
            self.planned = Some(now);
        }
        is_due
    }

    /// What an agent was told last, and may still read.
    pub(crate) fn of(&self, agent: AgentId) -> Option<&Told> {
        self.told.get(&agent)
    }

    /// All agents that were told something.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (AgentId, &Told)> {
        self.told.iter().map(|(agent, told)| (*agent, told))
    }

    /// Keeps what these agents were told.
    pub(crate) fn retain(&mut self, keep: impl Fn(AgentId, &Told) -> bool) {
        self.told.retain(|agent, told| keep(*agent, told));
    }

    /// Notes that an agent is told now.
    pub(crate) fn tell(&mut self, now: Time, agent: AgentId, session: Session, wanted: Wanted) {
        self.told.insert(agent, Told { session, at: now, wanted });
    }
}

impl Told {
    /// Whether the agent has heard it in this session, and has had too little time to be done.
    pub(crate) fn is_under_way(&self, now: Time, session: Session) -> bool {
        self.session == session && now.since(self.at) < REPEATED_AFTER
    }
}
