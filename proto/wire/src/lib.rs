//! The wire: generated types as [`pb`], the one conversion between them and the plain data of
//! `trainyard-types`, and how a client finds the scheduler that leads.

pub mod convert;
pub mod route;

/// Generated from `proto/trainyard/v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
pub mod pb {
    tonic::include_proto!("trainyard.v1");

    /// Every message and service, encoded, for server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
