//! What outlives the process: a trait in domain types, and its two implementations.
//!
//! Must not know: gRPC. What Redis looks like is known to `redis.rs`, `keys.rs` and `scripts/` only.

mod access;
mod content;
mod keys;
mod link;
mod notices;
mod records;
mod redis;
mod stream_id;
mod telemetry;
mod writes;

#[cfg(test)]
mod access_conformance;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod damage;
#[cfg(test)]
pub mod memory;
#[cfg(test)]
mod notice_conformance;
#[cfg(test)]
mod random;

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use trainyard_scheduler_core::{
    AgentRecord, EventRecord, JobRecord, Stored, ThroughputRecord, UserRecord, Write,
};
use trainyard_types::{AgentId, JobId, LeaderEpoch, Time};
use uuid::Uuid;

use crate::sample::{AgentSamples, Resolution, Sample};

pub use self::access::AccessStore;
pub use self::content::ContentStore;
pub use self::link::RedisAddress;
pub use self::notices::NoticeStore;
pub use self::redis::{RedisOptions, RedisStore};

/// The layout of what is stored. An older one is migrated by whoever comes to lead, a newer one is refused.
pub const SCHEMA: u32 = 3;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another scheduler leads now, or the store has lost its data. Nothing was written.
    #[error(
        "this scheduler leads no more: the store is at leader epoch {current}, ours was {ours}; another \
         scheduler leads, or (at 0) Redis has lost its data"
    )]
    Fenced {
        /// The leader epoch that the caller gave.
        ours: LeaderEpoch,
        /// What the store says; 0 when it has lost everything.
        current: LeaderEpoch,
    },
    /// A record is not at the revision that the write builds on. Nothing was written.
    #[error("job {job} is stored at revision {stored}, the write builds on {expected}")]
    Conflict {
        job: String,
        /// In the store; 0 when it is not there.
        stored: u64,
        /// The revision that the caller holds.
        expected: u64,
    },
    /// The store belongs to another version of Trainyard.
    #[error(
        "Redis key {}: the store has schema `{found}`, this build reads {SCHEMA} and older; use the build that wrote it",
        keys::SCHEMA
    )]
    Schema {
        /// The revision that is stored.
        found: String,
    },
    /// The store cannot be reached or did not answer. Whether the call took effect is not known.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// There was a leader epoch, and there is none any more.
    #[error(
        "Redis has lost its data: {} is gone; restore it, or restart every scheduler to begin with an empty queue",
        keys::LEADER_EPOCH
    )]
    Lost,
    /// The lease could not be renewed in time; another scheduler may lead by now.
    #[error("the leader's lease is over")]
    LeaseOver,
    /// Fewer replicas than asked for have the write. It may take effect all the same.
    #[error("{acked} of {wanted} replicas of Redis have the write")]
    Replicas {
        /// That said so in time.
        acked: usize,
        wanted: usize,
    },
    /// A record cannot be written as JSON: a bug of ours.
    #[error("a record cannot be encoded")]
    Encode(#[from] serde_json::Error),
}

/// The answer of a store, to come.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A scheduler that would lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Names this process.
    pub instance: Uuid,
    /// Where clients and agents reach it, a URL.
    pub address: String,
    /// How long it leads without a sign of life.
    pub lease: Duration,
    /// Whether nobody else can have the store, so that a lease in it is a dead process's.
    pub exclusive: bool,
    /// The highest leader epoch that it has seen.
    pub known: LeaderEpoch,
}

/// What a campaign came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Campaigned {
    /// The candidate leads.
    Leads(LeaderEpoch),
    Held {
        /// The leader epoch of the store.
        epoch: LeaderEpoch,
        /// Where the leader is reached.
        address: String,
        left: Duration,
    },
}

/// Everything that is stored but the events.
#[derive(Debug, Default, PartialEq)]
pub struct Loaded {
    pub jobs: Vec<JobRecord>,
    pub agents: Vec<AgentRecord>,
    pub users: Vec<UserRecord>,
    pub throughput: Vec<ThroughputRecord>,
    /// Keys of records that could not be read and were quarantined.
    pub quarantined: Vec<String>,
}

impl From<Loaded> for Stored {
    fn from(loaded: Loaded) -> Self {
        let Loaded { jobs, agents, users, throughput, quarantined: _ } = loaded;
        Self { jobs, agents, users, throughput }
    }
}

/// Durable state. A call that has returned `Ok` survives the loss of every process.
pub trait Store: Send + Sync + 'static {
    /// Makes the candidate the leader under a new, higher epoch, unless another's lease is valid. Whatever
    /// older epochs still have under way is refused from then on.
    fn campaign<'a>(&'a self, candidate: &'a Candidate) -> Pending<'a, Campaigned>;

    /// Renews the candidate's lease, provided that it leads.
    fn renew<'a>(&'a self, candidate: &'a Candidate, leader: LeaderEpoch) -> Pending<'a, ()>;

    /// Gives the candidate's lease back, so that another need not wait for its end.
    fn resign<'a>(&'a self, candidate: &'a Candidate) -> Pending<'a, ()>;

    /// Which directory of blobs belongs to this store: `ours`, if it had none.
    fn claim_blobs(&self, ours: Uuid) -> Pending<'_, Uuid>;

    /// All records. What cannot be read is quarantined, so that one bad record does not stop the rest.
    fn load(&self, leader: LeaderEpoch) -> Pending<'_, Loaded>;

    /// As [`Store::load`] for one who does not lead: changes nothing, and leaves out what cannot be read.
    fn peek(&self) -> Pending<'_, Loaded>;

    /// Applies all of `writes` in order, or none of them. Without writes it checks that `leader` leads.
    fn commit<'a>(&'a self, leader: LeaderEpoch, writes: &'a [Write]) -> Pending<'a, ()>;

    /// Events of a job beyond which the oldest are to be archived elsewhere and dropped here.
    fn event_history(&self) -> u64;

    /// Drops a job's events before a cursor, which are kept elsewhere by now.
    fn trim(&self, leader: LeaderEpoch, job: JobId, first: u64) -> Pending<'_, ()>;

    /// The events of a job after a cursor, oldest first, at most `limit`; old ones may be gone. The first is
    /// not stored: it is [`JobRecord::first_event`].
    fn events(&self, job: JobId, after: u64, limit: usize) -> Pending<'_, Vec<EventRecord>>;

    /// Appends telemetry, and drops what is too old at `now`. It is of use and not the truth: nothing is
    /// fenced, and it may be lost with the store's newest writes.
    fn record<'a>(&'a self, now: Time, batches: &'a [AgentSamples]) -> Pending<'a, ()>;

    /// The first samples of an agent from a time on and before another, by time and GPU, at most `limit`.
    fn telemetry(
        &self,
        agent: AgentId,
        resolution: Resolution,
        span: Range<Time>,
        limit: usize,
    ) -> Pending<'_, Vec<Sample>>;
}
