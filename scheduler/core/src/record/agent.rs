//! What is stored of agents: who they are, what people ordered of them, and which of their slots are closed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trainyard_types::{AgentId, GpuUuid, Inventory, Slot, Time};

/// An agent that has been seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    pub id: AgentId,
    /// The name that people call it by.
    pub name: String,
    pub version: String,
    pub inventory: Inventory,
    /// When it last opened a session.
    pub connected: Time,
    /// Whether a person took it out of use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// GPUs that their owner wants, and until when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved: BTreeMap<GpuUuid, Time>,
    /// Since when it is lost, as long as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Time>,
    /// Slots on which jobs ended too soon.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "shut_slots")]
    pub shut: BTreeMap<Slot, Shut>,
    /// The people who may take it out of use, beside admins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
}

/// A slot that was closed because jobs ended there too soon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shut {
    /// Closed until then; `None` when it is open again and has not proved itself yet.
    pub until: Option<Time>,
    /// How often in a row the slot was closed.
    pub times: u32,
    /// Ends before that time count no more.
    pub since: Time,
    /// For a person: what was seen, and what to do.
    pub why: String,
}

/// As a list: a slot is no key of JSON.
mod shut_slots {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer};
    use trainyard_types::Slot;

    use super::Shut;

    pub fn serialize<S: Serializer>(shut: &BTreeMap<Slot, Shut>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(shut)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Slot, Shut>, D::Error> {
        Ok(Vec::<(Slot, Shut)>::deserialize(deserializer)?.into_iter().collect())
    }
}

impl AgentRecord {
    /// One that nobody has given an order about.
    pub fn new(id: AgentId, name: String, version: String, inventory: Inventory, connected: Time) -> Self {
        let (reserved, shut, owners) = Default::default();
        Self { id, name, version, inventory, connected, drain: None, reserved, lost: None, shut, owners }
    }

    /// Whether its attempts are to end.
    pub fn hands_over(&self) -> bool {
        self.drain.is_some_and(|drain| !drain.keep_running)
    }
}

/// A person's order that an agent takes no new attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Attempts that run are left to end there.
    pub keep_running: bool,
}
