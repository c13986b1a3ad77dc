//! The names of things in Redis. One hash tag, so that all of them live in one slot of a cluster.

use trainyard_types::JobId;

/// Text: [`super::SCHEMA`].
pub const SCHEMA: &str = "{trainyard}:schema";
/// Integer: the newest leader epoch.
pub const LEADER_EPOCH: &str = "{trainyard}:leader_epoch";
/// Text that expires, the leader's lease: `INSTANCE ADDRESS`.
pub const LEADER: &str = "{trainyard}:leader";
/// Hash: job id to `REVISION JSON`.
pub const JOBS: &str = "{trainyard}:jobs";
/// Hash: agent id to JSON.
pub const AGENTS: &str = "{trainyard}:agents";
/// Text: the id of the directory of blobs that belongs to this store.
pub const BLOBS: &str = "{trainyard}:blobs";
/// Hash: `KEY FIELD` to a value that could not be read. A whole key that is of the wrong type is renamed to
/// this name, a space, and its own.
pub const QUARANTINE: &str = "{trainyard}:quarantine";

/// Stream: entry `<cursor>-0` with the field `e`, JSON.
pub fn events(job: JobId) -> String {
    format!("{{trainyard}}:job:{job}:events")
}
