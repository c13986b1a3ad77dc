//! Samples of what GPUs did: what one holds, how finely time is told, and how long each is kept.
//!
//! Must not know: where samples come from, nor where they are stored.

use std::time::Duration;

use trainyard_types::{AgentId, GpuUuid, Time};

/// One moment of one GPU; of a minute, its mean.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// When; of a minute, when it began.
    pub time: Time,
    /// The GPU that was sampled.
    pub gpu: GpuUuid,
    /// Share of time a kernel ran, 0 to 1.
    pub utilization_ratio: Option<f64>,
    /// Memory in use, in MiB; of a minute, the most.
    pub memory_used_mib: Option<u64>,
    /// Power drawn, in watts.
    pub power_watts: Option<f64>,
    /// Joules since the driver was loaded; of a minute, at its end.
    pub energy_joules: Option<f64>,
    /// Degrees Celsius; of a minute, the highest.
    pub temperature_celsius: Option<u32>,
    /// Clock of the streaming multiprocessors, in MHz.
    pub clock_mhz: Option<u32>,
    /// Why the clock was held down; of a minute, all there were.
    pub throttle_reasons: Vec<String>,
}

/// How finely time is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resolution {
    /// As the agent sent it, for an hour.
    Seconds,
    /// One a minute, for a week.
    Minutes,
}

impl Resolution {
    /// How long such samples are kept.
    pub fn kept(self) -> Duration {
        match self {
            Self::Seconds => Duration::from_secs(3600),
            Self::Minutes => Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Samples of one agent, to be stored together.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSamples {
    /// The agent that sent the samples.
    pub agent: AgentId,
    /// How finely the samples were taken.
    pub resolution: Resolution,
    /// The samples, in the order of time.
    pub samples: Vec<Sample>,
}
