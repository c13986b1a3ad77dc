//! Scenarios with real processes. One program, since each would link everything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bad_input;
mod cards;
mod closed_pipes;
mod documents;
mod faults;
mod faults_random;
mod memory;
mod orders;
mod owners;
mod placement;
mod replicas;
mod sick_machines;
mod train;
mod why_slow;
