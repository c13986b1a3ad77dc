//! Why slots take no attempt although their agent is connected, in words.

use std::collections::BTreeSet;

use trainyard_types::{DeviceKind, UnavailableCause};

use crate::duration::time_of_day;
use crate::engine::Core;
use crate::explain::paths::bounded;
use crate::state::agents::agent::{Agent, AgentState};
use crate::state::agents::availability::Closed;
use crate::state::queue::Request;
use crate::state::slots;

/// Groups of slots that a sentence names.
const NAMED: usize = 3;
/// Slots of one machine that are named by their numbers.
const NUMBERED: usize = 8;

/// Slots of one machine that take no attempt for one reason.
struct ClosedSlots<'a> {
    agent: &'a str,
    /// The slots' numbers on the machine.
    indices: Vec<u32>,
    /// How many slots of the machine would do.
    of: usize,
    why: Closed<'a>,
}

impl Closed<'_> {
    /// What such a slot is, after "is", or what several are; on one agent, or on several.
    fn state(&self, is_one: bool, is_one_agent: bool) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Agent(_) if is_one_agent => "on an agent that takes no jobs",
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
            Self::HandingIn(_) if is_one_agent => "on an agent that has results to hand in first",
            Self::HandingIn(_) => "on agents that have results to hand in first",
            Self::Duplicate(_) => "offered by another agent",
            Self::QuickEnds(_) => "closed after quick ends",
            Self::Cooldown(_) => "in cooldown after a fault",
        }
    }

    /// More about it; empty when there is none.
    fn detail(&self, agent: &str, is_one: bool) -> String {
        match self {
            Self::Drained => format!("`yard resume {agent}` takes it back into use"),
            Self::Agent(message) => (*message).to_owned(),
            Self::Gpu(unavailable) => unavailable.message.clone(),
            Self::HandingIn(1) => "the results of 1 attempt wait there".to_owned(),
            Self::HandingIn(count) => format!("the results of {count} attempts wait there"),
            Self::Duplicate(name) => {
                let what = if is_one { "it" } else { "them" };
                format!("agent `{name}` offers {what}, too, and came first: stop one of the two")
            }
            Self::QuickEnds(shut) => match shut.until {
                Some(until) => format!("until {} UTC: {}", time_of_day(until), shut.why),
                None => shut.why.clone(),
            },
            Self::Reserved(until) | Self::Cooldown(until) => format!("until {} UTC", time_of_day(*until)),
        }
    }

    /// Whether the same is said of both, on one agent.
    fn reads_like(&self, other: &Self) -> bool {
        self.state(true, true) == other.state(true, true) && self.detail("", true) == other.detail("", true)
    }
}

impl Core {
    /// Why the slots that would do take no attempt, where connected agents have any; a sentence without its
    /// full stop.
    pub(crate) fn closed_to(&self, request: &Request) -> Option<String> {
        let connected = |agent: &&Agent| agent.state() == AgentState::Connected;
        let agents = self.agents.iter().map(|(_, agent)| agent).filter(connected);
        let closed: Vec<ClosedSlots<'_>> = agents.flat_map(|agent| closed_on(agent, request)).collect();
        let is_one = closed.iter().map(|slots| slots.indices.len()).sum::<usize>() == 1;
        let is_one_agent = closed.windows(2).all(|pair| pair[0].agent == pair[1].agent);
        let states: BTreeSet<&str> =
            closed.iter().map(|slots| slots.why.state(is_one, is_one_agent)).collect();
        let states: Vec<&str> = states.into_iter().collect();
        let is_cpu = request.device == DeviceKind::Cpu;
        let noun = if is_cpu { "CPU slot" } else { "GPU" };
        let word = if is_cpu { "slot" } else { "GPU" };
        let named = bounded(closed.iter().map(|slots| slots.named(word)), NAMED);
        let states = states.join(" or ");
        match closed.len() {
            0 => None,
            _ if is_one => Some(format!("the only {noun} that would do is {states}: {named}")),
            _ => Some(format!("the only {noun}s that would do are {states}: {named}")),
        }
    }
}

/// The slots of an agent that would do and take no attempt, by why.
fn closed_on<'a>(agent: &'a Agent, request: &Request) -> Vec<ClosedSlots<'a>> {
    let mut slots: Vec<_> = slots::of_inventory(&agent.record().inventory).into_iter().collect();
    slots.retain(|(_, (kind, _))| kind.satisfies(request));
    slots.sort_by_key(|(_, (_, index))| *index);
    let of = slots.len();
    let mut closed: Vec<ClosedSlots<'a>> = Vec::new();
    for (slot, (_, index)) in slots {
        let Some(why) = agent.closed(&slot) else { continue };
        match closed.iter_mut().find(|same| same.why.reads_like(&why)) {
            Some(same) => same.indices.push(index),
            None => closed.push(ClosedSlots { agent: agent.name(), indices: vec![index], of, why }),
        }
    }
    closed
}

impl ClosedSlots<'_> {
    /// Which they are, and more about them.
    fn named(&self, word: &str) -> String {
        let Self { agent, indices, of, why } = self;
        let numbers: Vec<String> = indices.iter().map(u32::to_string).collect();
        let slots = match numbers.as_slice() {
            [only] => format!("{word} {only}"),
            [_, _] if *of == 2 => format!("both {word}s"),
            all if all.len() == *of => format!("all {of} {word}s"),
            [first @ .., last] if numbers.len() <= NUMBERED => {
                format!("{word}s {} and {last}", first.join(", "))
            }
            many => format!("{} of the {of} {word}s", many.len()),
        };
        let detail = why.detail(agent, indices.len() == 1);
        if detail.is_empty() {
            format!("{slots} of `{agent}`")
        } else {
            format!("{slots} of `{agent}`, {detail}")
        }
    }
}
