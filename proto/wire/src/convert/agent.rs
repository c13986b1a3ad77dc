//! Messages of the agents' stream.
