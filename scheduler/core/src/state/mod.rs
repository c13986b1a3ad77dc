//! What the core holds: jobs, agents and users, and the indexes over them.
//!
//! [`jobs::Jobs`], [`agents::Agents`] and [`fair_share::Users`] own their records and indexes. Must not know: handlers,
//! policies, or what is said of it to people.

pub(crate) mod agents;
pub(crate) mod counters;
pub(crate) mod deadlines;
pub(crate) mod expected_ends;
pub(crate) mod expired_jobs;
pub(crate) mod failures;
pub(crate) mod fair_share;
pub(crate) mod job;
pub(crate) mod job_group;
pub(crate) mod job_index;
pub(crate) mod jobs;
pub(crate) mod order_statistic;
pub(crate) mod path_visibility;
pub(crate) mod prefetches;
pub(crate) mod queue;
pub(crate) mod quick_ends;
pub(crate) mod slots;
