//! Why a slot takes no attempt although its agent is connected: the one list of reasons.

use trainyard_types::{GpuUuid, Slot, Time, Unavailable, UnavailableCause};

use super::agent::Agent;
use crate::record::Shut;

/// Attempts whose results are not in, with which an agent takes no new ones: what it cannot hand in would pile up on
/// its disk, and with a link that takes no uploads it would train the whole queue for nothing.
pub(crate) const HANDING_IN_MAX: usize = 8;

/// Why a slot of a connected agent takes no attempt. A person's order goes before the agent's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed<'a> {
    /// Its agent is drained.
    Drained,
    /// Its agent takes no job at all, and says why.
    Agent(&'a str),
    /// It is reserved for its owner until then.
    Reserved(Time),
    /// The agent closes the GPU, and says why.
    Gpu(&'a Unavailable),
    /// The results of so many attempts wait on its agent.
    HandingIn(usize),
    /// Another agent, of that name, offered the same GPU first.
    Duplicate(&'a str),
    /// Jobs ended there too soon.
    QuickEnds(&'a Shut),
    /// An attempt on it failed lately, or its agent hands its jobs back; it is tried again then.
    Cooldown(Time),
}

impl Agent {
    /// Why a slot takes no attempt; `None` when it does, as long as the agent is connected.
    pub(crate) fn closed(&self, slot: &Slot) -> Option<Closed<'_>> {
        if self.record.drain.is_some() {
            return Some(Closed::Drained);
        }
        if !self.status.unavailable.is_empty() {
            return Some(Closed::Agent(&self.status.unavailable));
        }
        if self.handing_in.len() >= HANDING_IN_MAX {
            return Some(Closed::HandingIn(self.handing_in.len()));
        }
        if let Slot::Gpu(uuid) = slot {
            if let Some(&until) = self.record.reserved.get(uuid) {
                return Some(Closed::Reserved(until));
            }
            if let Some((_, name)) = self.duplicates.get(uuid) {
                return Some(Closed::Duplicate(name));
            }
            if let Some(unavailable) = self.unavailable(uuid) {
                return Some(Closed::Gpu(unavailable));
            }
        }
        if let (Slot::Cpu(_), Some(unavailable)) = (slot, &self.status.fitness.cpu_unavailable) {
            return Some(Closed::Gpu(unavailable));
        }
        if let Some(shut) = self.record.shut.get(slot).filter(|shut| shut.until.is_some()) {
            return Some(Closed::QuickEnds(shut));
        }
        self.cooldowns.get(slot).map(|&until| Closed::Cooldown(until))
    }

    /// Whether it says itself that the slot takes no attempts.
    pub(crate) fn closes(&self, slot: &Slot) -> bool {
        let unavailable = match slot {
            Slot::Gpu(uuid) => self.unavailable(uuid),
            Slot::Cpu(_) => self.status.fitness.cpu_unavailable.as_ref(),
        };
        !self.status.unavailable.is_empty() || unavailable.is_some()
    }

    /// Slots in cooldown that it closes itself as well.
    pub(crate) fn cooling_and_closed(&self) -> Vec<Slot> {
        self.cooldowns.keys().filter(|slot| self.closes(slot)).cloned().collect()
    }

    /// What the agent says against a GPU.
    pub(crate) fn unavailable(&self, uuid: &GpuUuid) -> Option<&Unavailable> {
        self.reading(uuid).and_then(|reading| reading.unavailable.as_ref())
    }

    /// Whether a fault on that slot is the GPU's and not the job's.
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
