//! The trainer as a supervised child process: confined, started, followed, diagnosed, and ended with all that it has started.

pub mod child;
pub mod command;
pub mod confinement;
pub mod control_groups;
pub mod event_parser;
pub mod failure_report;
pub mod leftovers;
mod libraries;
pub mod stall_diagnosis;
pub mod watch;
pub mod without_job;
