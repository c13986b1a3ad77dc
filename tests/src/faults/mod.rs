//! A cluster of many processes that can be killed, paused, cut off and healed: Redis, schedulers that share
//! it, agents whose trainers only pretend.

pub mod client;
pub mod members;
pub mod net;
pub mod object_store;
pub mod verdict;
