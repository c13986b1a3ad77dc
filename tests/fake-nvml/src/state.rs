//! The file that describes the cards, read again at every call.

use std::env;
use std::fs;

use serde::Deserialize;

/// Names the file.
pub const VARIABLE: &str = "FAKE_NVML_STATE";

/// What the file says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Driver version.
    #[serde(default = "driver")]
    pub driver: String,
    /// By index.
    #[serde(default)]
    pub cards: Vec<Card>,
}

fn driver() -> String {
    "580.95.05".into()
}

/// One card; what is left out is as on an idle one, and `null` is a reading that the card refuses.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// `NVIDIA GeForce RTX 4090`.
    pub name: String,
    /// `GPU-…`.
    pub uuid: String,
    /// Total memory.
    pub memory_total_mib: u64,
    /// Memory in use.
    #[serde(default)]
    pub memory_used_mib: u64,
    /// Share of time a kernel ran.
    #[serde(default = "zero")]
    pub utilization_percent: Option<u32>,
    /// Of the die.
    #[serde(default = "forty")]
    pub temperature_celsius: Option<u32>,
    /// Drawn now.
    #[serde(default = "thirty_watts")]
    pub power_milliwatts: Option<u32>,
    /// Major, minor.
    #[serde(default)]
    pub compute_capability: Option<(i32, i32)>,
    /// Processes that compute.
    #[serde(default)]
    pub processes: Vec<Process>,
    /// XIDs in the order they happen: each is delivered once, as an event.
    #[serde(default)]
    pub xids: Vec<u64>,
    /// Fallen off the bus: every call says so.
    #[serde(default)]
    pub lost: bool,
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
const fn zero() -> Option<u32> {
    Some(0)
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
const fn forty() -> Option<u32> {
    Some(40)
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
const fn thirty_watts() -> Option<u32> {
    Some(30_000)
}

/// A process that uses a card.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// On the host.
    pub pid: u32,
    /// Memory in use.
    pub memory_mib: u64,
}

/// Reads the file; `None` when there is none or it does not parse, which is said on stderr.
pub fn load() -> Option<State> {
    let path = env::var_os(VARIABLE)?;
    let text = fs::read_to_string(&path)
        .inspect_err(|error| eprintln!("fake NVML: {}: {error}", path.display()))
        .ok()?;
    serde_json::from_str(&text).inspect_err(|error| eprintln!("fake NVML: {}: {error}", path.display())).ok()
}
