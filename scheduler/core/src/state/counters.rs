//! What has happened since this core was loaded, counted for metrics: nothing is decided by it.

use std::collections::BTreeMap;

use trainyard_types::{EndReason, JobState, Slot, UnavailableCause};

use crate::state::agents::agent::Agent;

/// Counts that only grow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Attempts that were preempted, by what for: `drained`, `reserved`, `owner`, `agent_stopped` or `placement`.
    pub preemptions: BTreeMap<&'static str, u64>,
    /// Jobs that came to an end, by its kind.
    pub finished: BTreeMap<JobState, u64>,
    /// Slots that were closed because jobs ended there too soon.
    pub slots_shut: u64,
    /// Reports that came before an earlier one of their attempt, and were not taken in.
    pub report_gaps: u64,
}

impl Counters {
    /// An attempt ended on that slot of that agent.
    pub(crate) fn attempt_ended(&mut self, reason: EndReason, agent: Option<&Agent>, slot: &Slot) {
        let what_for = match (reason, agent, slot) {
            (EndReason::Drained | EndReason::Preempted, Some(agent), _) if agent.record().hands_over() => {
                "drained"
            }
            (EndReason::Drained, ..) => "agent_stopped",
            (EndReason::Preempted, Some(agent), Slot::Gpu(gpu)) => {
                let cause = agent.unavailable(gpu).map(|unavailable| unavailable.cause);
                if agent.record().reserved.contains_key(gpu) {
                    "reserved"
                } else if cause == Some(UnavailableCause::Owner) {
                    "owner"
                } else {
                    "placement"
                }
            }
            (EndReason::Preempted, ..) => "placement",
            _ => return,
        };
        *self.preemptions.entry(what_for).or_default() += 1;
    }
}
