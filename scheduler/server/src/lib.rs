//! The live scheduler: the pure core, driven by gRPC and the clock, kept in Redis.

pub mod access;
pub mod access_records;
pub mod blobs;
pub mod clock;
pub mod config;
mod content;
mod content_records;
mod data_checks;
pub mod diagnosis;
pub mod driver;
pub mod embedded;
mod event_history;
pub mod grpc;
mod http;
mod job_archive;
mod listener;
pub mod mfu;
pub mod objects;
mod origin;
mod refusal;
pub mod sample;
pub mod server;
pub mod store;
mod stored_text;
pub mod telemetry;
pub mod tls;
mod web;
