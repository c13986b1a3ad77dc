//! The agent's disk, and the paths that jobs name: jobs' directories, decoded data sets, data roots, room.

pub mod data_roots;
pub mod decoded_data;
pub mod janitor;
pub mod job_dir;
pub mod mounts;
pub mod path_monitor;
pub mod space;
