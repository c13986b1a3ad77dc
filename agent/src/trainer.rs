//! The trainer as a supervised child process.

pub mod child;
pub mod command;
pub mod groups;
pub mod leftovers;
pub mod progress;
pub mod scene;
pub mod watch;
