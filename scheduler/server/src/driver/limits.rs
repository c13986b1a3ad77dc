//! What users may do, which can change while the scheduler runs.

use std::collections::BTreeMap;

use tokio::sync::watch;
use trainyard_scheduler_core::{CoreConfig, UserLimits};

use super::Driver;

/// The limits of all users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The limits of users that are not in `users`.
    pub usual: UserLimits,
    pub users: BTreeMap<String, UserLimits>,
}

impl Limits {
    /// The limits that a configuration sets.
    pub fn of(config: &CoreConfig) -> Self {
        Self { usual: config.user_limits.clone(), users: config.users.clone() }
    }
}

impl Driver {
    /// Takes new limits of users from there while it runs.
    #[must_use]
    pub fn with_limits(self, limits: watch::Receiver<Limits>) -> Self {
        Self { limits, ..self }
    }

    /// Takes what users may do as it was configured last.
    pub(super) fn take_limits(&mut self) {
        let Limits { usual, users } = self.limits.borrow_and_update().clone();
        (self.config.user_limits, self.config.users) = (usual, users);
    }
}
