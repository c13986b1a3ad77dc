//! The trainer as a supervised child process: started, followed, diagnosed, and ended with all that it has started.

pub mod child;
pub mod command;
pub mod control_groups;
pub mod event_parser;
pub mod failure_report;
pub mod leftovers;
pub mod stall_diagnosis;
pub mod watch;
