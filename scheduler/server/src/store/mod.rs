//! What outlives the process: a trait in domain types, and its two implementations.
//!
//! Must not know: gRPC. What Redis looks like is known to `redis.rs`, `keys.rs` and `scripts/` only.

mod keys;
mod redis;

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub mod memory;

use std::future::Future;
use std::pin::Pin;

use trainyard_scheduler_core::{AgentRecord, EventRecord, JobRecord, Write};
use trainyard_types::{JobId, LeaderEpoch};
use uuid::Uuid;

pub use self::redis::RedisStore;

/// The layout of what is stored; a store of another one is refused.
pub const SCHEMA: u32 = 1;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another scheduler leads now, or the store has lost its data. Nothing was written.
    #[error(
        "this scheduler leads no more: the store is at leader epoch {current}, ours was {ours}; another \
         scheduler uses the same Redis, or (at 0) Redis has lost its data"
    )]
    Fenced {
        /// What the caller said.
        ours: LeaderEpoch,
        /// What the store says; 0 when it has lost everything.
        current: LeaderEpoch,
    },
    /// A record is not at the revision that the write builds on. Nothing was written.
    #[error("job {job} is stored at revision {stored}, the write builds on {expected}")]
    Conflict {
        /// Which job.
        job: String,
        /// In the store; 0 when it is not there.
        stored: u64,
        /// In the caller's memory.
        expected: u64,
    },
    /// The store belongs to another version of Trainyard.
    #[error("the store has schema {found}, this build reads schema {SCHEMA}; use the build that wrote it")]
    Schema {
        /// In the store.
        found: String,
    },
    /// The store cannot be reached or did not answer. Whether the call took effect is not known.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// A record cannot be written as JSON: a bug of ours.
    #[error("a record cannot be encoded")]
    Encode(#[from] serde_json::Error),
}

/// The answer to come.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// How a scheduler comes to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Campaign {
    /// Depose whoever leads.
    Take,
    /// Lead on under a new epoch, unless somebody else has led since.
    Renew,
}

/// Everything that is stored but the events.
#[derive(Debug, Default, PartialEq)]
pub struct Loaded {
    /// By id.
    pub jobs: Vec<JobRecord>,
    /// By id.
    pub agents: Vec<AgentRecord>,
    /// Keys of records that could not be read and were set aside.
    pub quarantined: Vec<String>,
}

/// Durable state. A call that has returned `Ok` survives the loss of every process.
pub trait Store: Send + Sync + 'static {
    /// Makes `instance` the leader under a new, higher epoch. Whatever older epochs still have under way
    /// is refused from now on.
    fn campaign(&self, instance: Uuid, how: Campaign) -> Pending<'_, LeaderEpoch>;

    /// All records. What cannot be read is set aside, so that one bad record does not stop the rest.
    fn load(&self, leader: LeaderEpoch) -> Pending<'_, Loaded>;

    /// Applies all of `writes` in order, or none of them. Without writes it checks that `leader` leads.
    fn commit<'a>(&'a self, leader: LeaderEpoch, writes: &'a [Write]) -> Pending<'a, ()>;

    /// The events of a job after a cursor, oldest first, at most `limit`; old ones may be gone.
    fn events(&self, job: JobId, after: u64, limit: usize) -> Pending<'_, Vec<EventRecord>>;
}
