//! What goes to the scheduler: reports of attempts, checkpoints and artifacts, which must not get lost, and pictures.

pub mod pictures;
pub mod spool;
pub mod transfer;
