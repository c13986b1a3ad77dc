//! What is observed of a training while it runs, and what an agent asks of it meanwhile.

pub mod control;
pub mod divergence;
pub mod loss_reading;
pub mod phase_timer;
pub mod throughput;
pub mod time_limit;
