//! The core's tests: everything through `Core::handle`, with invariants and writes checked each time.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod agents;
mod duplicates;
mod fairness;
mod finish_time;
mod fitness;
mod hand_in;
mod health;
mod job_groups;
mod knowledge;
mod limits;
mod list;
mod orders;
mod placement;
mod plan;
mod prefetch;
mod priority;
mod quick_ends;
mod random;
mod reports;
mod retention;
mod transitions;
mod users;
mod waiting;
mod world;
