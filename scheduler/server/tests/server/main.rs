//! The scheduler as its clients and agents see it, over a real Redis. One program, since each would link everything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod agents;
mod data_checks;
mod datasets;
mod durability;
mod encrypted_redis;
mod fitness;
mod fuzz;
mod hidden_jobs;
mod job_groups;
mod jobs;
mod json;
mod listener;
mod live;
mod notify;
mod object_store;
mod orders;
mod page;
mod process;
mod reload;
mod replicas;
mod security;
mod sentinel;
mod strangers;
mod support;
mod takeover;
