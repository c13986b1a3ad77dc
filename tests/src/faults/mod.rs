//! A cluster of many processes that can be killed, paused, cut off and healed: Redis, schedulers that share
//! it, agents whose trainers only pretend.

pub mod client;
pub mod members;
pub mod net;
pub mod object_store;
pub mod verdict;

/// A number that an environment variable sets, or else `default`.
///
/// # Panics
/// It is set to something else.
pub fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is `{text}`, no number")))
}
