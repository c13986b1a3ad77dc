//! The names of things in Redis. One hash tag, so that all of them live in one slot of a cluster.

use trainyard_types::{AgentId, JobId};

use crate::sample::Resolution;

/// Text: the layout of what is stored, [`super::SCHEMA`].
pub const SCHEMA: &str = "{trainyard}:schema";
/// Integer: the newest leader epoch.
pub const LEADER_EPOCH: &str = "{trainyard}:leader_epoch";
/// Text that expires, the leader's lease: `INSTANCE ADDRESS`.
pub const LEADER: &str = "{trainyard}:leader";
/// Hash: job id to `REVISION JSON`, where the job stands. A group's job is not in it until something happens
/// to it.
pub const JOBS: &str = "{trainyard}:jobs";
/// Hash: job id to JSON, what was submitted; not of a group's jobs.
pub const SPECS: &str = "{trainyard}:specs";
/// Hash: job id to JSON, how far its live attempt has come.
pub const PULSES: &str = "{trainyard}:pulses";
/// Hash: user name to JSON.
pub const USERS: &str = "{trainyard}:users";
/// Hash: job group id to JSON, all that was submitted with it.
pub const BATCHES: &str = "{trainyard}:batches";
/// Hash: id of a group's job that has expired to nothing.
pub const FORGOTTEN: &str = "{trainyard}:forgotten";
/// Hash: agent id to JSON.
pub const AGENTS: &str = "{trainyard}:agents";
/// Hash: what was learned of GPUs, data sets and jobs, by key, to JSON.
pub const LEARNED: &str = "{trainyard}:learned";
/// Text: the id of the directory of blobs that belongs to this store.
pub const BLOBS: &str = "{trainyard}:blobs";
/// Integer: counts the changes of tokens and enrolled agents.
pub const ACCESS_REVISION: &str = "{trainyard}:access_revision";
/// Hash: token id to JSON, without its secret.
pub const TOKENS: &str = "{trainyard}:tokens";
/// Hash: id of an agent that has joined to JSON.
pub const ENROLLED: &str = "{trainyard}:enrolled";
/// Stream: who did what; entry with the field `e`, JSON.
pub const AUDIT: &str = "{trainyard}:audit";
/// Integer: counts the changes of versions of data sets and weights.
pub const CONTENT_REVISION: &str = "{trainyard}:content_revision";
/// Hash: `KIND/NAME@ID` to JSON, a version.
pub const CONTENT: &str = "{trainyard}:content";
/// Hash: webhook id to JSON, with its secret.
pub const WEBHOOKS: &str = "{trainyard}:webhooks";
/// Hash: webhook id to JSON, how its calls go, and the last notice that is done with.
pub const WEBHOOK_STATES: &str = "{trainyard}:webhook_states";
/// Hash: user name to the number of webhooks. Notices are kept of these users only.
pub const WEBHOOK_USERS: &str = "{trainyard}:webhook_users";
/// Stream: what webhooks are called for; entry with the field `n`, JSON.
pub const NOTICES: &str = "{trainyard}:notices";
/// Hash: id of a queued job to the time in ms when its wait is too long, or to `told`.
pub const WAITS: &str = "{trainyard}:waits";
/// Hash: `KEY FIELD` to a value that could not be read. A whole key that is of the wrong type is renamed to
/// this name, a space, and its own.
pub const QUARANTINE: &str = "{trainyard}:quarantine";

/// Stream: entry `<scheduler's time in ms>-<number>` with the field `b`, samples as JSON.
pub fn telemetry(agent: AgentId, resolution: Resolution) -> String {
    let unit = match resolution {
        Resolution::Seconds => "seconds",
        Resolution::Minutes => "minutes",
    };
    format!("{{trainyard}}:agent:{agent}:{unit}")
}

/// Stream: entry `<cursor>-0` with the field `e`, JSON.
pub fn events(job: JobId) -> String {
    format!("{{trainyard}}:job:{job}:events")
}
