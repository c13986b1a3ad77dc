//! Scenarios with real processes. One program, since each would link everything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod backup;
mod bad_input;
mod closed_pipes;
mod confinement;
mod data_checks;
mod documents;
mod faults;
mod faults_content;
mod faults_random;
mod gpus;
mod memory;
mod orders;
mod owners;
mod packages;
mod placement;
mod pushes;
mod replicas;
mod security;
mod service;
mod setup;
mod sick_machines;
mod simulated_gpus;
mod train;
mod why_slow;
