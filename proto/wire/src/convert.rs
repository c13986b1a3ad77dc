//! `TryFrom<pb::X> for X` and back: the one place where the two meet.

pub mod agent;
pub mod job;
