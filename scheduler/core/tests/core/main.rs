//! The core's tests: everything through `Core::handle`, with invariants and writes checked each time.

mod agents;
mod placement;
mod random;
mod reports;
mod transitions;
mod users;
mod waiting;
mod world;
