//! Data sets and weights on their way between this machine and the cluster.
//!
//! A push: [`preflight`] makes a [`bundle`] of what the user named, [`hashing`] hashes its files (with a [`hash_cache`]),
//! and [`push`] sends what the cluster lacks, read by [`contents`]. A [`pull`] fetches a version's files.

pub mod bundle;
pub mod contents;
pub mod hash_cache;
pub mod hashing;
pub mod naming;
pub mod preflight;
pub mod progress;
pub mod pull;
pub mod push;
pub mod store;
mod weights_file;
