//! The live scheduler: the pure core, driven by gRPC and the clock, kept in Redis.

mod archive;
pub mod blobs;
pub mod clock;
pub mod config;
pub mod diagnosis;
pub mod driver;
pub mod embedded;
pub mod grpc;
mod history;
mod http;
mod listener;
pub mod mfu;
pub mod server;
pub mod store;
pub mod telemetry;
