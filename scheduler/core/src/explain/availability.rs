//! Why slots take no attempt although their agent is connected, in words.

use std::collections::BTreeSet;

use trainyard_types::{DeviceKind, UnavailableCause};

use crate::duration::time_of_day;
use crate::engine::Core;
use crate::explain::paths::bounded;
use crate::state::agents::agent::AgentState;
use crate::state::agents::availability::Closed;
use crate::state::queue::Request;
use crate::state::slots;

/// Slots that a sentence names one by one.
const NAMED: usize = 3;

impl Closed<'_> {
    /// What such a slot is, after "is", or what several are.
    fn state(&self, is_one: bool) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Agent(_) if is_one => "on an agent that takes no jobs",
            Self::Agent(_) => "on agents that take no jobs",
            Self::Reserved(_) => "reserved",
            Self::Gpu(unavailable) => match unavailable.cause {
                UnavailableCause::ForeignUse => "used by other programs",
                UnavailableCause::Owner if is_one => "used by its owner",
                UnavailableCause::Owner => "used by their owner",
                UnavailableCause::Quarantined => "quarantined",
                UnavailableCause::Unsupported => "not supported",
                UnavailableCause::SelfTest => "not proved",
                UnavailableCause::Duplicate => "offered by another agent",
                UnavailableCause::Stuck => "held by a trainer that does not end",
            },
            Self::HandingIn(_) if is_one => "on an agent that has results to hand in first",
            Self::HandingIn(_) => "on agents that have results to hand in first",
            Self::Duplicate(_) => "offered by another agent",
            Self::QuickEnds(_) => "closed after quick ends",
            Self::Cooldown(_) => "in cooldown after a fault",
        }
    }

    /// More about it; empty when there is none.
    fn detail(&self) -> String {
        match self {
            Self::Drained => "`yard resume` takes it back into use".to_owned(),
            Self::Agent(message) => (*message).to_owned(),
            Self::Gpu(unavailable) => unavailable.message.clone(),
            Self::HandingIn(1) => "the results of 1 attempt wait there".to_owned(),
            Self::HandingIn(count) => format!("the results of {count} attempts wait there"),
            Self::Duplicate(name) => {
                format!("agent `{name}` offers it, too, and came first: stop one of the two")
            }
            Self::QuickEnds(shut) => match shut.until {
                Some(until) => format!("until {} UTC: {}", time_of_day(until), shut.why),
                None => shut.why.clone(),
            },
            Self::Reserved(until) | Self::Cooldown(until) => format!("until {} UTC", time_of_day(*until)),
        }
    }
}

impl Core {
    /// Why the slots that would do take no attempt, where connected agents have any; a sentence without its
    /// full stop.
    pub(crate) fn closed_to(&self, request: &Request) -> Option<String> {
        let mut closed: Vec<(String, Closed<'_>)> = Vec::new();
        for agent in
            self.agents.iter().map(|(_, agent)| agent).filter(|agent| agent.state() == AgentState::Connected)
        {
            for (slot, (kind, index)) in slots::of_inventory(&agent.record().inventory) {
                if kind.satisfies(request)
                    && let Some(why) = agent.closed(&slot)
                {
                    closed.push((format!("{} {index} of `{}`", noun(request), agent.name()), why));
                }
            }
        }
        let is_one = closed.len() == 1;
        let states: BTreeSet<&str> = closed.iter().map(|(_, why)| why.state(is_one)).collect();
        let states: Vec<&str> = states.into_iter().collect();
        let noun = if request.device == DeviceKind::Cpu { "CPU slot" } else { "GPU" };
        let (states, named) = (states.join(" or "), bounded(closed.iter().map(named), NAMED));
        match closed.len() {
            0 => None,
            1 => Some(format!("the only {noun} that would do is {states}: {named}")),
            _ => Some(format!("the only {noun}s that would do are {states}: {named}")),
        }
    }
}

fn named((slot, why): &(String, Closed<'_>)) -> String {
    let detail = why.detail();
    if detail.is_empty() { slot.clone() } else { format!("{slot}, {detail}") }
}

fn noun(request: &Request) -> &'static str {
    if request.device == DeviceKind::Cpu { "slot" } else { "GPU" }
}
