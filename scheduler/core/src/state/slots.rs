//! The slots of connected agents, by kind of device, and which of them are free.
//!
//! Must not know jobs. GPUs of one model and size are one kind: a decision looks at each kind once.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_types::{AgentId, DeviceKind, Gpu, Inventory, Slot};

use crate::record::AgentRecord;
use crate::state::queue::Request;

/// More CPU slots than this on one agent are a mistake and not offered.
const CPU_SLOTS_MAX: u32 = 1024;

/// What slots are alike in. Smaller GPUs come first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Any CPU slot.
    Cpu,
    Gpu {
        /// Nominal memory in units of half a GiB.
        half_gib: u64,
        /// The GPU's marketing name.
        model: String,
    },
}

impl Kind {
    fn of(gpu: &Gpu) -> Self {
        Self::Gpu { half_gib: half_gib(gpu), model: gpu.model.clone() }
    }

    /// Whether an agent with this inventory has such slots.
    pub(crate) fn is_of(&self, inventory: &Inventory) -> bool {
        match self {
            Self::Cpu => inventory.cpu_slots > 0,
            Self::Gpu { half_gib: size, model } => {
                inventory.gpus.iter().any(|gpu| gpu.model == *model && half_gib(gpu) == *size)
            }
        }
    }

    /// Whether such a slot is what the request wants.
    pub fn satisfies(&self, request: &Request) -> bool {
        match self {
            Self::Cpu => request.device == DeviceKind::Cpu,
            Self::Gpu { half_gib, model } => {
                request.device == DeviceKind::Gpu
                    && *half_gib >= request.half_gib
                    && (request.models.is_empty()
                        || request
                            .models
                            .iter()
                            .any(|pattern| trainyard_types::gpu::matches_model(model, pattern)))
            }
        }
    }

    /// Nominal memory in units of half a GiB; 0 for a CPU.
    pub fn half_gib(&self) -> u64 {
        match self {
            Self::Cpu => 0,
            Self::Gpu { half_gib, .. } => *half_gib,
        }
    }

    /// The device's name for people: its model, or `CPU`.
    pub fn device(&self) -> &str {
        match self {
            Self::Cpu => "CPU",
            Self::Gpu { model, .. } => model,
        }
    }
}

/// A GPU's nominal memory: the same rounding as `Gpu::nominal_gib`, in whole numbers.
fn half_gib(gpu: &Gpu) -> u64 {
    gpu.memory_total_mib.saturating_add(256) / 512
}

/// Where a slot is. In the order in which equal slots are used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    pub agent_name: String,
    /// Tells agents of one name apart.
    pub agent: AgentId,
    /// The GPU's index, or the CPU slot's.
    pub index: u32,
    pub slot: Slot,
}

/// Every slot of an agent once, with its kind and GPU index.
pub fn of_inventory(inventory: &Inventory) -> BTreeMap<Slot, (Kind, u32)> {
    let gpus = inventory.gpus.iter().map(|gpu| (Slot::Gpu(gpu.uuid.clone()), (Kind::of(gpu), gpu.index)));
    let cpus =
        (0..inventory.cpu_slots.min(CPU_SLOTS_MAX)).map(|index| (Slot::Cpu(index), (Kind::Cpu, index)));
    gpus.chain(cpus).collect()
}

/// The first free slot of an agent.
pub(crate) fn first_of<'a>(free: &'a BTreeSet<Location>, agent: &AgentRecord) -> Option<&'a Location> {
    let from = Location {
        agent_name: agent.name.clone(),
        agent: agent.id,
        index: 0,
        slot: Slot::Gpu(trainyard_types::GpuUuid(String::new())),
    };
    free.range(from..).next().filter(|location| location.agent == agent.id)
}

/// Slots of one kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SlotPool {
    total: usize,
    by_agent: BTreeMap<AgentId, usize>,
    free: BTreeSet<Location>,
}

impl SlotPool {
    /// How many there are, busy ones included.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// The slots without an attempt.
    pub(crate) fn free(&self) -> &BTreeSet<Location> {
        &self.free
    }

    fn add(&mut self, location: Location, is_free: bool) {
        self.total += 1;
        *self.by_agent.entry(location.agent).or_default() += 1;
        if is_free {
            self.free.insert(location);
        }
    }

    fn remove(&mut self, location: &Location) {
        self.total -= 1;
        if let Some(count) = self.by_agent.get_mut(&location.agent) {
            *count -= 1;
            if *count == 0 {
                self.by_agent.remove(&location.agent);
            }
        }
        self.free.remove(location);
    }

    /// All, busy ones included, and those that are free, but those of some agents.
    pub(crate) fn without(&self, excluded: &BTreeSet<AgentId>) -> (usize, usize) {
        if excluded.is_empty() {
            return (self.total, self.free.len());
        }
        let lost: usize = excluded.iter().filter_map(|agent| self.by_agent.get(agent)).sum();
        let free = self.free.iter().filter(|location| !excluded.contains(&location.agent)).count();
        (self.total - lost, free)
    }

    /// Whether any is free but those of some agents.
    pub(crate) fn has_free_without(&self, excluded: &BTreeSet<AgentId>) -> bool {
        self.free.iter().any(|location| !excluded.contains(&location.agent))
    }

    /// Whether only these agents have any.
    pub(crate) fn is_only_of(&self, agents: impl Fn(AgentId) -> bool) -> bool {
        self.by_agent.keys().all(|agent| agents(*agent))
    }
}

/// The slots that attempts may be placed on: the open ones of connected agents.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Slots {
    kinds: BTreeMap<Kind, SlotPool>,
    /// What of them is each agent's, in the order of its slots.
    of_agent: BTreeMap<AgentId, Vec<(Kind, Location)>>,
}

impl Slots {
    /// Has exactly these slots of an agent on offer, each with kind and GPU index.
    pub(super) fn set_agent(
        &mut self,
        agent: &AgentRecord,
        open: BTreeMap<Slot, (Kind, u32)>,
        is_free: impl Fn(&Slot) -> bool,
    ) {
        self.remove_agent(agent.id);
        let mut offered = Vec::with_capacity(open.len());
        for (slot, (kind, index)) in open {
            let is_free = is_free(&slot);
            let location = Location { agent_name: agent.name.clone(), agent: agent.id, index, slot };
            self.kinds.entry(kind.clone()).or_default().add(location.clone(), is_free);
            offered.push((kind, location));
        }
        if !offered.is_empty() {
            self.of_agent.insert(agent.id, offered);
        }
    }

    /// Takes the slots of an agent out, free or not.
    pub(super) fn remove_agent(&mut self, agent: AgentId) {
        for (kind, location) in self.of_agent.remove(&agent).into_iter().flatten() {
            if let Some(pool) = self.kinds.get_mut(&kind) {
                pool.remove(&location);
                if pool.total == 0 {
                    self.kinds.remove(&kind);
                }
            }
        }
    }

    /// An attempt begins on a slot.
    pub(super) fn occupy(&mut self, kind: &Kind, location: &Location) {
        if let Some(pool) = self.kinds.get_mut(kind) {
            pool.free.remove(location);
        }
    }

    /// An attempt on a slot is over; `false` when the slot is not on offer.
    pub(super) fn release(&mut self, agent: AgentId, slot: &Slot) -> bool {
        let Some(offered) = self.of_agent.get(&agent) else { return false };
        let Ok(at) = offered.binary_search_by(|(_, location)| location.slot.cmp(slot)) else { return false };
        let (kind, location) = &offered[at];
        if let Some(pool) = self.kinds.get_mut(kind) {
            pool.free.insert(location.clone());
        }
        true
    }

    /// The slots by kind, smaller GPUs first.
    pub fn kinds(&self) -> &BTreeMap<Kind, SlotPool> {
        &self.kinds
    }
}
