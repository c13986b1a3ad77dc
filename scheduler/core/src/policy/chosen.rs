//! The policy that the configuration names.

use serde::{Deserialize, Serialize};

use super::PlacementPolicy;
use super::fair::Fair;
use super::finish_time::FinishTime;

/// Who goes next, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// By priority, then by submission; the smallest GPU that satisfies.
    Fifo,
    /// By priority, then the user that has had least of late; the smallest GPU that satisfies.
    #[default]
    Fair,
    /// Every job finishes as early as the mix of GPUs allows.
    FinishTime,
}

impl Policy {
    /// Every policy there is.
    pub const ALL: [Self; 3] = [Self::Fifo, Self::Fair, Self::FinishTime];

    /// The name that users write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Fair => "fair",
            Self::FinishTime => "finish-time",
        }
    }

    /// The component that decides by this policy.
    pub(crate) fn component(self) -> Box<dyn PlacementPolicy> {
        match self {
            Self::Fifo => Box::new(Fair::without_turns()),
            Self::Fair => Box::new(Fair::with_turns()),
            Self::FinishTime => Box::new(FinishTime::default()),
        }
    }
}

impl Default for Box<dyn PlacementPolicy> {
    fn default() -> Self {
        Policy::default().component()
    }
}
