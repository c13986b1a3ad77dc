//! The core's numbers, stated once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How patient the scheduler is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreConfig {
    /// How long an agent may stay silent before its attempts are tried elsewhere.
    pub lease: Duration,
    /// Wait before the first retry after a crash; doubles with each further crash.
    pub retry_delay: Duration,
    /// The longest such wait.
    pub retry_delay_max: Duration,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            retry_delay: Duration::from_secs(10),
            retry_delay_max: Duration::from_secs(300),
        }
    }
}
