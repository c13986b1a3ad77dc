//! What goes to the scheduler and must not get lost: reports of attempts, checkpoints and artifacts.

pub mod spool;
pub mod transfer;
