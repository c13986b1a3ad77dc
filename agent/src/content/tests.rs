//! The store against a disk.
