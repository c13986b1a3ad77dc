//! Why a slot takes no attempt although its agent is connected: one list of reasons, and their words.

use std::collections::BTreeSet;

use trainyard_types::{DeviceKind, GpuUuid, Slot, Time, Unavailable, UnavailableCause};

use crate::agent::{Agent, AgentState};
use crate::core::Core;
use crate::fitness::bounded;
use crate::handing_in::HANDING_IN_MAX;
use crate::queue::Request;
use crate::record::Shut;
use crate::slots;
use crate::spans::clock;

/// Slots that a sentence names one by one.
const NAMED: usize = 3;

/// Why a slot of a connected agent takes no attempt. A person's order goes before the agent's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed<'a> {
    /// Its agent is drained.
    Drained,
    /// Its agent takes no job at all, and says why.
    Agent(&'a str),
    /// It is reserved for its owner until then.
    Reserved(Time),
    /// Its agent says why.
    Card(&'a Unavailable),
    /// The results of so many attempts wait on its agent.
    HandingIn(usize),
    /// Another agent, of that name, offered the same card first.
    Duplicate(&'a str),
    /// Jobs ended there too soon.
    QuickEnds(&'a Shut),
    /// An attempt on it failed lately, or its agent hands its jobs back; it is tried again then.
    SetAside(Time),
}

impl Closed<'_> {
    /// What such a slot is, after "is", or what several are.
    fn state(&self, is_one: bool) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Agent(_) if is_one => "on an agent that takes no jobs",
            Self::Agent(_) => "on agents that take no jobs",
            Self::Reserved(_) => "reserved",
            Self::Card(unavailable) => match unavailable.cause {
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
            Self::SetAside(_) => "set aside after a fault",
        }
    }

    /// More about it; empty when there is none.
    fn detail(&self) -> String {
        match self {
            Self::Drained => "`yard resume` takes it back into use".to_owned(),
            Self::Agent(message) => (*message).to_owned(),
            Self::Card(unavailable) => unavailable.message.clone(),
            Self::HandingIn(count) => format!("the results of {count} attempts wait there"),
            Self::Duplicate(name) => {
                format!("agent `{name}` offers it, too, and came first: stop one of the two")
            }
            Self::QuickEnds(shut) => match shut.until {
                Some(until) => format!("until {} UTC: {}", clock(until), shut.why),
                None => shut.why.clone(),
            },
            Self::Reserved(until) | Self::SetAside(until) => format!("until {} UTC", clock(*until)),
        }
    }
}

impl Agent {
    /// Why a slot takes no attempt; `None` when it does, as long as the agent is connected.
    pub(crate) fn closed(&self, slot: &Slot) -> Option<Closed<'_>> {
        if self.record.drain.is_some() {
            return Some(Closed::Drained);
        }
        if !self.condition.unavailable.is_empty() {
            return Some(Closed::Agent(&self.condition.unavailable));
        }
        if self.handing_in.len() >= HANDING_IN_MAX {
            return Some(Closed::HandingIn(self.handing_in.len()));
        }
        if let Slot::Gpu(uuid) = slot {
            if let Some(&until) = self.record.reserved.get(uuid) {
                return Some(Closed::Reserved(until));
            }
            if let Some((_, name)) = self.doubled.get(uuid) {
                return Some(Closed::Duplicate(name));
            }
            if let Some(unavailable) = self.unavailable(uuid) {
                return Some(Closed::Card(unavailable));
            }
        }
        if let (Slot::Cpu(_), Some(unavailable)) = (slot, &self.condition.fitness.cpu_unavailable) {
            return Some(Closed::Card(unavailable));
        }
        if let Some(shut) = self.record.shut.get(slot).filter(|shut| shut.until.is_some()) {
            return Some(Closed::QuickEnds(shut));
        }
        self.set_aside.get(slot).map(|&until| Closed::SetAside(until))
    }

    /// Whether it says itself that the slot takes no attempts.
    pub(crate) fn closes(&self, slot: &Slot) -> bool {
        let unavailable = match slot {
            Slot::Gpu(uuid) => self.unavailable(uuid),
            Slot::Cpu(_) => self.condition.fitness.cpu_unavailable.as_ref(),
        };
        !self.condition.unavailable.is_empty() || unavailable.is_some()
    }

    /// Slots that are set aside, and that it closes itself as well.
    pub(crate) fn aside_and_closed(&self) -> Vec<Slot> {
        self.set_aside.keys().filter(|slot| self.closes(slot)).cloned().collect()
    }

    /// What the agent says against a card.
    pub(crate) fn unavailable(&self, uuid: &GpuUuid) -> Option<&Unavailable> {
        self.reading(uuid).and_then(|reading| reading.unavailable.as_ref())
    }

    /// Whether a fault on that slot is the card's and not the job's.
    pub(crate) fn is_at_fault(&self, slot: &Slot) -> bool {
        if self.record.shut.get(slot).is_some_and(|shut| shut.until.is_some()) {
            return true;
        }
        let Slot::Gpu(uuid) = slot else { return false };
        self.unavailable(uuid).is_some_and(|unavailable| {
            matches!(
                unavailable.cause,
                UnavailableCause::Quarantined
                    | UnavailableCause::Unsupported
                    | UnavailableCause::SelfTest
                    | UnavailableCause::Stuck
            )
        })
    }
}

impl Core {
    /// Why the slots that would do take no attempt, where connected agents have any; a sentence without its
    /// full stop.
    pub(crate) fn closed_to(&self, request: &Request) -> Option<String> {
        let mut closed: Vec<(String, Closed<'_>)> = Vec::new();
        for agent in self.agents.values().filter(|agent| agent.state() == AgentState::Connected) {
            for (slot, (kind, index)) in slots::of_inventory(&agent.record.inventory) {
                if kind.satisfies(request)
                    && let Some(why) = agent.closed(&slot)
                {
                    closed.push((format!("{} {index} of `{}`", noun(request), agent.record.name), why));
                }
            }
        }
        let is_one = closed.len() == 1;
        let states: BTreeSet<&str> = closed.iter().map(|(_, why)| why.state(is_one)).collect();
        let states: Vec<&str> = states.into_iter().collect();
        let noun = if request.device == DeviceKind::Cpu { "CPU slot" } else { "card" };
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
