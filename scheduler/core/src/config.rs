//! The core's numbers, stated once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// How patient, fair and forgetful the scheduler is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreConfig {
    /// How long an agent may stay silent before its attempts are tried elsewhere.
    pub lease: Duration,
    /// How often agents say that they are there.
    pub heartbeat: Duration,
    /// Wait before the first retry after a crash; doubles with each further crash.
    pub retry_delay: Duration,
    /// The longest wait before a retry.
    pub retry_delay_max: Duration,
    /// After how long a GPU-second that a user had counts half.
    pub share_half_life: Duration,
    /// The limits of users that are not in `users`.
    pub user_limits: UserLimits,
    /// The limits of users, by name.
    pub users: BTreeMap<String, UserLimits>,
    /// How long a job that has ended is kept; then it is archived and forgotten.
    pub keep_finished_for: Duration,
    /// How many such jobs are kept at most.
    pub keep_finished: usize,
    /// How long an agent that is lost is remembered, with what people ordered of it.
    pub keep_agents_for: Duration,
    /// Who goes next, and where.
    pub policy: Policy,
    /// With the policy `finish-time`: how long a job may be overtaken, beside its own length a few times.
    pub patience: Duration,
    /// With the policy `finish-time`: what it costs a job to be stopped and resumed.
    pub restart_cost: Duration,
}

/// What one user may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLimits {
    /// A user of weight 2 gets twice the GPU-time of one of weight 1.
    pub weight: u32,
    /// GPUs that its jobs may use at a time; `None` is no limit.
    pub running_gpus: Option<u32>,
    /// Jobs that it may have waiting; `None` is no limit.
    pub queued_jobs: Option<u32>,
}

impl Default for UserLimits {
    fn default() -> Self {
        Self { weight: 1, running_gpus: None, queued_jobs: None }
    }
}

impl CoreConfig {
    /// What a user may do.
    pub fn limits(&self, user: &str) -> &UserLimits {
        self.users.get(user).unwrap_or(&self.user_limits)
    }
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            heartbeat: Duration::from_secs(5),
            retry_delay: Duration::from_secs(10),
            retry_delay_max: Duration::from_secs(300),
            share_half_life: Duration::from_secs(24 * 3600),
            user_limits: UserLimits::default(),
            users: BTreeMap::new(),
            keep_finished_for: Duration::from_secs(30 * 24 * 3600),
            keep_finished: 100_000,
            keep_agents_for: Duration::from_secs(30 * 24 * 3600),
            policy: Policy::default(),
            patience: Duration::from_secs(3 * 24 * 3600),
            restart_cost: Duration::from_secs(30),
        }
    }
}
