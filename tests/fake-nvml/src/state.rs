//! The file that describes the GPUs. It is looked at again at every call, so that a test changes what the
//! GPUs do by renaming another one over it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use crate::simulated;

/// Names the file.
pub const VARIABLE: &str = "FAKE_NVML_STATE";

/// What the file says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Driver version.
    #[serde(default = "driver")]
    pub driver: String,
    /// Major times 1000, minor times 10.
    #[serde(default = "cuda")]
    pub cuda: i32,
    /// Every call fails with NVML's error 999, as in a container whose devices were taken away.
    #[serde(default)]
    pub unknown_error: bool,
    /// By index.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
}

fn driver() -> String {
    "580.95.05".into()
}

const fn cuda() -> i32 {
    13_000
}

/// One GPU; what is left out is as on an idle one, and `null` is a reading that the GPU refuses.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// `NVIDIA GeForce RTX 4090`.
    pub name: String,
    /// `GPU-…`.
    pub uuid: String,
    /// Total memory.
    pub memory_total_mib: u64,
    /// Memory in use.
    #[serde(default)]
    pub memory_used_mib: u64,
    /// Memory that the driver keeps for itself.
    #[serde(default)]
    pub memory_reserved_mib: u64,
    /// Share of time a kernel ran.
    #[serde(default = "zero")]
    pub utilization_percent: Option<u32>,
    /// Of the die.
    #[serde(default = "forty")]
    pub temperature_celsius: Option<u32>,
    /// Drawn now.
    #[serde(default = "thirty_watts")]
    pub power_milliwatts: Option<u32>,
    /// Since the driver was loaded.
    #[serde(default = "no_energy")]
    pub energy_millijoules: Option<u64>,
    /// Of the multiprocessors.
    #[serde(default = "idle_clock")]
    pub clock_mhz: Option<u32>,
    /// NVML's bits: 1 idle, 4 power cap, 8 slowdown, 32 and 64 thermal, 128 power brake.
    #[serde(default = "idle")]
    pub throttle_reasons: Option<u64>,
    /// Lanes in use.
    #[serde(default = "sixteen")]
    pub pcie_link_width: Option<u32>,
    /// Lanes that there are.
    #[serde(default = "sixteen")]
    pub pcie_link_width_max: Option<u32>,
    /// Uncorrected memory errors; a GeForce refuses to tell.
    #[serde(default)]
    pub ecc_uncorrected: Option<u64>,
    /// What the driver wants done, by NVML's numbers.
    #[serde(default)]
    pub recovery_action: Option<u32>,
    /// Major, minor.
    #[serde(default)]
    pub compute_capability: Option<(i32, i32)>,
    /// Processes that compute.
    #[serde(default)]
    pub processes: Vec<Process>,
    /// Processes that draw.
    #[serde(default)]
    pub graphics_processes: Vec<Process>,
    /// What each process took of the multiprocessors of late.
    #[serde(default = "nobody")]
    pub process_utilization: Option<Vec<Use>>,
    /// XIDs in the order they happen: each is delivered once, as an event. When the list gets shorter,
    /// counting begins at its new end.
    #[serde(default)]
    pub xids: Vec<u64>,
    /// Fallen off the bus: every call says so.
    #[serde(default)]
    pub lost: bool,
}

/// Defaults of readings that an idle GPU does not refuse.
macro_rules! readings {
    ($($name:ident: $type:ty = $value:expr;)*) => {$(
        const fn $name() -> Option<$type> {
            Some($value)
        }
    )*};
}

readings! {
    zero: u32 = 0;
    forty: u32 = 40;
    thirty_watts: u32 = 30_000;
    no_energy: u64 = 0;
    idle_clock: u32 = 210;
    idle: u64 = 1;
    sixteen: u32 = 16;
    nobody: Vec<Use> = Vec::new();
}

/// A process that uses a GPU.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// On the host.
    pub pid: u32,
    /// Memory in use.
    pub memory_mib: u64,
}

/// What a process takes of a GPU.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// On the host.
    pub pid: u32,
    /// Share of the multiprocessors.
    pub percent: u32,
}

/// The file as it was read last, and what it looked like then.
static READ: Mutex<Option<(Version, Option<Arc<State>>)>> = Mutex::new(None);

/// Changes with the file: which, when it was changed, its size.
#[derive(Debug, PartialEq, Eq)]
struct Version(OsString, u64, i64, i64, u64);

/// The state now: the file, and what trainings on simulated GPUs take.
pub fn load() -> Option<Arc<State>> {
    let state = load_file()?;
    let Some(folder) = env::var_os(simulated::VARIABLE) else { return Some(state) };
    let mut state = State::clone(&state);
    simulated::add(&mut state, &folder);
    Some(Arc::new(state))
}

/// Reads the file, or remembers it if it has not changed; `None` when there is none or it does not parse, which is
/// said on stderr.
fn load_file() -> Option<Arc<State>> {
    let path = env::var_os(VARIABLE)?;
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let metadata =
        fs::metadata(&path).inspect_err(|error| eprintln!("fake NVML: {}: {error}", path.display())).ok()?;
    let version = Version(path, metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size());
    if let Some((known, state)) = &*read
        && *known == version
    {
        return state.clone();
    }
    let state = parse(&version.0);
    *read = Some((version, state.clone()));
    state
}

fn parse(path: &OsString) -> Option<Arc<State>> {
    let said = |error: &dyn std::fmt::Display| eprintln!("fake NVML: {}: {error}", path.display());
    let text = fs::read_to_string(path).inspect_err(|error| said(error)).ok()?;
    serde_json::from_str(&text).inspect_err(|error| said(error)).ok().map(Arc::new)
}
