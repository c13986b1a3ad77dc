//! What the core holds: jobs, agents and users, and the indexes over them.
//!
//! Must not know: handlers, policies, or what is said of it to people.

pub(crate) mod agent;
pub(crate) mod agent_clock;
pub(crate) mod agent_fitness;
pub(crate) mod agent_status;
pub(crate) mod availability;
pub(crate) mod deadlines;
pub(crate) mod expected_ends;
pub(crate) mod failures;
pub(crate) mod index;
pub(crate) mod job;
pub(crate) mod job_group;
pub(crate) mod queue;
pub(crate) mod quick_ends;
pub(crate) mod ranked;
pub(crate) mod sight;
pub(crate) mod slots;
pub(crate) mod tally;
pub(crate) mod user;
