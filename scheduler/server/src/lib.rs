//! The live scheduler: the pure core, driven by gRPC and the clock, kept in Redis.

pub mod embedded;
pub mod store;
